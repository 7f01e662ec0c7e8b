import MinimaTensor

/// A format whose weight is, or can be multiplied out to, products that decoding kernels compute.
protocol DecodableWeight: LinearWeight {
    /// This weight as products of `stored` matrices; `nil` when it has more than two factors between
    /// input and output.
    ///
    /// - Parameter stored: What stands under the names of ``LinearWeight/tensors``: the values, or
    ///   the codes that they were rounded to.
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]?

    /// A and B of W = A·B, formed from more factors than two; `nil` where there is no such form.
    func mergedFactors() throws(TensorError) -> (outer: Tensor, inner: Tensor)?
}

extension DecodableWeight {
    func mergedFactors() throws(TensorError) -> (outer: Tensor, inner: Tensor)? { nil }
}

/// The matrices of a weight by the names of its tensors.
struct StoredMatrices {
    private let storage: [String: Storage]
    private let prefix: String
    /// Whether they are what the weight holds itself, not codes that stand for it.
    let areValues: Bool

    private enum Storage {
        case values(Tensor)
        case codes(QuantizedMatrix)
    }

    /// Floating-point tensors.
    init(_ tensors: [(name: String, tensor: Tensor)]) {
        storage = Dictionary(uniqueKeysWithValues: tensors.map { ($0.name, .values($0.tensor)) })
        prefix = ""
        areValues = true
    }

    /// What a quantised weight keeps of its part's tensors, which are called `names`.
    init(_ pieces: [Quantized.Piece], names: [String]) {
        var storage: [String: Storage] = [:]
        for (name, piece) in zip(names, pieces) {
            switch piece {
            case .matrix(let matrix, _): storage[name] = .codes(matrix)
            case .trained(let matrix, _): storage[name] = .codes(matrix.start)
            case .plain(let tensor, _): storage[name] = .values(tensor)
            }
        }
        self.storage = storage
        prefix = ""
        areValues = false
    }

    private init(_ other: StoredMatrices, prefix: String) {
        storage = other.storage
        self.prefix = prefix
        areValues = other.areValues
    }

    /// Those of part `index` of a composite.
    func part(_ index: Int, of composite: any CompositeWeight.Type) -> StoredMatrices {
        StoredMatrices(self, prefix: "\(prefix)\(composite.prefix).\(index).")
    }

    /// The tensor called `name` as a matrix of `rows` rows.
    ///
    /// - Returns: `nil` when its codes run over other rows than those.
    func matrix(_ name: String, rows: Int) throws(TensorError) -> DecodeMatrix? {
        switch storage[prefix + name] {
        case .values(let tensor): return try DecodeMatrix(tensor, rows: rows)
        case .codes(let matrix): return matrix.rows == rows ? DecodeMatrix(matrix) : nil
        case nil: return nil
        }
    }
}

extension LinearWeight {
    /// This weight as the products that decoding kernels compute.
    ///
    /// Formats of one or two factors are what they store. Those with more are multiplied out to two
    /// factors where that takes fewer numbers than W, else to W: they take more memory then than
    /// they are stored in.
    ///
    /// - Returns: Pieces that cover the weight, in the order of their inputs.
    public func decodePieces() throws(TensorError) -> [DecodePiece] {
        let decodable = self as? any DecodableWeight
        if let pieces = try decodable?.decodePieces(StoredMatrices(tensors)) { return pieces }
        let whole = (outputs: 0..<outputs, inputs: 0..<inputs)
        if let (outer, inner) = try decodable?.mergedFactors(),
            outer.count + inner.count < outputs * inputs
        {
            return [
                DecodePiece(
                    outputs: whole.outputs, inputs: whole.inputs,
                    form: .product(
                        inner: try DecodeMatrix(inner, rows: inner.shape[0]),
                        outer: try DecodeMatrix(outer, rows: outputs)))
            ]
        }
        return [
            DecodePiece(
                outputs: whole.outputs, inputs: whole.inputs,
                form: .matrix(try DecodeMatrix(reconstruct(), rows: outputs)))
        ]
    }

    /// One piece of the whole weight; `nil` when one of its matrices is missing.
    func wholePiece(_ form: DecodePiece.Form?) -> [DecodePiece]? {
        form.map { [DecodePiece(outputs: 0..<outputs, inputs: 0..<inputs, form: $0)] }
    }
}

extension Dense: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        wholePiece(try stored.matrix("weight", rows: outputs).map { .matrix($0) })
    }
}

extension LowRank: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        guard let inner = try stored.matrix("cores.0", rows: spec.ranks[0]),
            let outer = try stored.matrix("cores.1", rows: outputs)
        else { return nil }
        return wholePiece(.product(inner: inner, outer: outer))
    }
}

extension Interpolative: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        let places = try pivots.values(as: Int32.self).map { Int($0) }
        return wholePiece(
            try stored.interpolated(
                rows: "cores.0", coefficients: "cores.1", pivots: places, outputs: outputs))
    }
}

extension StoredMatrices {
    /// P·[I; X]·R with `pivots` of `outputs` rows.
    fileprivate func interpolated(
        rows: String, coefficients: String, pivots: [Int], outputs: Int
    ) throws(TensorError) -> DecodePiece.Form? {
        guard let basis = try matrix(rows, rows: pivots.count) else { return nil }
        guard pivots.count < outputs else {
            return .interpolated(rows: basis, coefficients: nil, pivots: pivots)
        }
        guard let rest = try matrix(coefficients, rows: outputs - pivots.count) else {
            return nil
        }
        return .interpolated(rows: basis, coefficients: rest, pivots: pivots)
    }

    /// `factor` times the matrix called `rows`.
    func interpolated(rows: String, factor: InterpolativeFactor, named coefficients: String)
        throws(TensorError) -> DecodePiece.Form?
    {
        let pivots =
            factor.tensors.count == 2
            ? try factor.tensors[1].values(as: Int32.self).map { Int($0) }
            : Array(0..<factor.rows)
        return try interpolated(
            rows: rows, coefficients: coefficients, pivots: pivots, outputs: factor.rows)
    }
}

extension TensorTrain: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        wholePiece(try gauged.decodeForm(stored))
    }

    func mergedFactors() throws(TensorError) -> (outer: Tensor, inner: Tensor)? {
        try gauged.mergedFactors()
    }
}

extension TensorRing: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        wholePiece(try gauged.decodeForm(stored))
    }

    func mergedFactors() throws(TensorError) -> (outer: Tensor, inner: Tensor)? {
        try gauged.mergedFactors()
    }
}

extension GaugedChain {
    /// Two factors, where the input has a core of its own and all before its neighbour are whole.
    func decodeForm(_ stored: StoredMatrices) throws(TensorError) -> DecodePiece.Form? {
        guard chain.hasInputCore, chain.bonds[0] == 1, let factor = factors.last,
            factors.dropLast().allSatisfy({ $0.rank == $0.rows })
        else { return nil }
        return try stored.interpolated(
            rows: "cores.\(chain.order - 1)", factor: factor,
            named: "cores.\(chain.order - 2)")
    }
}

extension Quantized: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        guard let decodable = template as? any DecodableWeight else { return nil }
        let names = template.tensors.map(\.name)
        return try decodable.decodePieces(StoredMatrices(pieces, names: names))
    }
}

extension Blocks: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        var pieces: [DecodePiece] = []
        for (index, (block, range)) in zip(blocks, Self.ranges(spec)).enumerated() {
            let stored = stored.part(index, of: Self.self)
            guard let own = try block.pieces(of: stored) else { return nil }
            let (rows, columns) = isCutAlongOutputs ? (range.lowerBound, 0) : (0, range.lowerBound)
            pieces += own.map { $0.moved(outputs: rows, inputs: columns) }
        }
        return pieces
    }
}

extension Sum: DecodableWeight {
    func decodePieces(_ stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        var pieces: [DecodePiece] = []
        for (index, part) in parts.enumerated() {
            guard let own = try part.pieces(of: stored.part(index, of: Self.self)) else {
                return nil
            }
            pieces += own
        }
        return pieces
    }
}

extension LinearWeight {
    /// The pieces of a composite's part.
    fileprivate func pieces(of stored: StoredMatrices) throws(TensorError) -> [DecodePiece]? {
        // A quantised part's codes have names of their own; it finds them itself.
        if self is Quantized { return try decodePieces() }
        if let pieces = try (self as? any DecodableWeight)?.decodePieces(stored) { return pieces }
        // Beside others that are as they are stored, this part alone is multiplied out.
        return stored.areValues ? try decodePieces() : nil
    }
}
