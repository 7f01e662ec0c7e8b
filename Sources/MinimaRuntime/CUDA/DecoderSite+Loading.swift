import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor

extension DecoderSite {
    /// The layers of a group, stacked.
    init(_ group: LinearGroup, use: Use, on stream: CUDAStream) throws {
        try self.init(group.name, group.layers, use: use, on: stream)
    }

    /// One layer.
    init(_ layer: Linear, use: Use, on stream: CUDAStream) throws {
        try self.init(layer.name, [layer], use: use, on: stream)
    }

    private init(_ name: String, _ layers: [Linear], use: Use, on stream: CUDAStream) throws {
        var pieces: [DecodePiece] = []
        var biases: [Tensor] = []
        var rows = 0
        for layer in layers {
            pieces += try layer.weight.decodePieces().map { piece in
                var piece = piece
                piece.outputs =
                    piece.outputs.lowerBound + rows..<piece.outputs.upperBound + rows
                return piece
            }
            if let bias = try layer.bias() { biases.append(bias) }
            rows += layer.weight.outputs
        }
        let pieceList = try Self.stacked(pieces)
        self.name = name
        outputs = rows
        inputs = layers[0].weight.inputs
        bias = biases.isEmpty ? nil : try .cat(biases).to(dtype: .bfloat16)
        // Gates and ups meet in the kernel where one product gives both.
        gatesMeet = use == .gated && pieceList.count == 1 && bias == nil
        let gates = gatesMeet ? rows / 2 : nil
        products = try pieceList.map { piece in
            try Product(piece, gates: gates, on: stream)
        }
    }

    /// Dense matrices of consecutive outputs and the same inputs, as one each.
    static func stacked(_ pieces: [DecodePiece]) throws -> [DecodePiece] {
        var result: [DecodePiece] = []
        var run: [Tensor] = []
        func flush() throws {
            guard run.count > 1, var last = result.popLast() else { return run = [] }
            last.form = .matrix(try DecodeMatrix(stacking: run))
            result.append(last)
            run = []
        }
        for piece in pieces {
            guard case .matrix(let matrix) = piece.form, case .values(let values) = matrix.storage
            else {
                try flush()
                result.append(piece)
                continue
            }
            if var last = result.last, !run.isEmpty, last.inputs == piece.inputs,
                last.outputs.upperBound == piece.outputs.lowerBound
            {
                last.outputs = last.outputs.lowerBound..<piece.outputs.upperBound
                result[result.count - 1] = last
            } else {
                try flush()
                result.append(piece)
            }
            run.append(values)
        }
        try flush()
        return result
    }
}

extension DecoderSite.Product {
    /// - Parameter gates: How many gates the piece gives, ups behind them, where they meet in the
    ///   kernel; `nil` where outputs are kept as they are.
    fileprivate init(_ piece: DecodePiece, gates: Int?, on stream: CUDAStream) throws {
        (outputs, inputs) = (piece.outputs, piece.inputs)
        func plain(_ matrix: DecodeMatrix) throws -> SiteMatrix {
            let slots: LinearSlots
            if let gates {
                slots = .swiglu(half: gates, stored: !SiteMatrix.isKept(matrix))
            } else if piece.outputs.lowerBound > 0 {
                slots = LinearSlots(outputs: Array(piece.outputs))
            } else {
                slots = LinearSlots(rows: matrix.rows)
            }
            return try SiteMatrix(matrix, slots: slots, on: stream)
        }
        switch piece.form {
        case .matrix(let matrix):
            form = .matrix(try plain(matrix))
        case .product(let inner, let outer):
            form = .product(
                inner: try SiteMatrix(inner, slots: LinearSlots(rows: inner.rows), on: stream),
                outer: try plain(outer))
        case .interpolated(let rows, nil, _):
            // Every row is a pivot, in order.
            form = .matrix(try plain(rows))
        case .interpolated(let rows, let coefficients?, let pivots):
            let first = piece.outputs.lowerBound
            let isPivot = Set(pivots)
            let others = (0..<piece.outputs.count).filter { !isPivot.contains($0) }
            form = .interpolated(
                rows: try SiteMatrix(
                    rows,
                    slots: gates == nil
                        ? LinearSlots(outputs: pivots.map { $0 + first })
                        : LinearSlots(rows: rows.rows), on: stream),
                coefficients: try SiteMatrix(
                    coefficients,
                    slots: gates.map { .interpolatedSwiglu(half: $0, pivots: pivots) }
                        ?? LinearSlots(outputs: others.map { $0 + first }), on: stream),
                pivots: pivots)
        }
    }
}

extension SiteMatrix {
    /// Whether a matrix is used as it is stored: not repacked.
    fileprivate static func isKept(_ matrix: DecodeMatrix) -> Bool {
        guard case .codes(let codes) = matrix.storage else { return true }
        return !isPacked(codes, columns: matrix.columns)
    }

    /// Whether the decoding kernel reads codes of this kind; others are multiplied out.
    private static func isPacked(_ codes: DecodeCodes, columns: Int) -> Bool {
        (try? LinearLayout(
            codeBits: codes.bits, groupSize: codes.groupSize, columns: columns)) != nil
    }

    fileprivate init(_ matrix: DecodeMatrix, slots: LinearSlots, on stream: CUDAStream) throws {
        rows = matrix.rows
        guard case .codes(let codes) = matrix.storage,
            Self.isPacked(codes, columns: matrix.columns)
        else {
            kernel = try LinearMatrix(matrix.values(.bfloat16), slots: slots)
            return
        }
        kernel = try LinearMatrix(
            LinearCodes(
                bits: codes.bits, groupSize: codes.groupSize, columns: matrix.columns,
                codes: codes.planes, scales: codes.scales, base: codes.base, levels: codes.levels),
            slots: slots, on: stream)
    }
}
