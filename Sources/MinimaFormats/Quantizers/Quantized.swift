import MinimaCore
import MinimaTensor

/// Another format with its values quantised: a dense weight, or the cores of a decomposed one.
///
/// Specification: one part, the format inside; bits 2, 3, 4, 5, 6 or 8; groupSize, the neighbours
/// of a row that share one scale (none: the whole row); levels, normal, uniform or, of 8 bits,
/// float8. No modes, no ranks, and no quantised format inside. Every floating-point tensor of the
/// part with two dimensions or more becomes three, see ``QuantizedMatrix``: `cores.0` becomes
/// `cores.0.codes`, `cores.0.scales`, `cores.0.base`. What the part stores in types of its own
/// (indices) and vectors stay as they are.
///
/// A tensor with more than two dimensions is a matrix whose columns are its last dimensions, as
/// many as it takes to fill a group, but never the first.
///
/// Codes and scales are bytes, so gradients flow to `base`, to vectors and to inputs only; while it
/// trains, ``StraightThrough`` matrices stand in place of them.
public struct Quantized: LinearWeight {
    /// `quantized`.
    public static let name = "quantized"

    /// Bits, group size and one part.
    public let spec: FormatSpec
    /// Rows of W.
    public let outputs: Int
    /// Columns of W.
    public let inputs: Int
    /// Bytes, in the layout's order.
    public let tensors: [(name: String, tensor: Tensor)]
    /// Numbers that the part consists of.
    public let parameterCount: Int
    /// The part's.
    public var multiplyAdds: Int { template.multiplyAdds }

    /// The part, with numbers of no meaning.
    let template: any LinearWeight
    /// The part's tensors, in the order of its layout.
    let pieces: [Piece]

    /// A tensor of the part as it is stored, or as it trains.
    enum Piece: Sendable {
        case matrix(QuantizedMatrix, shape: [Int])
        case trained(StraightThrough, shape: [Int])
        case plain(Tensor, isFloating: Bool)

        /// The piece in `dtype`, or in the type that it always has.
        func values(_ dtype: DType) throws(TensorError) -> Tensor {
            switch self {
            case .matrix(let matrix, let shape):
                try matrix.dense(dtype: dtype).reshape(shape)
            case .trained(let matrix, let shape):
                try matrix.dense(dtype: dtype).reshape(shape)
            case .plain(let tensor, let isFloating):
                isFloating ? try tensor.to(dtype: dtype) : tensor
            }
        }

        /// A tensor of the piece's shape; a matrix in the memory of one number.
        func placeholder() throws(FormatError) -> Tensor {
            switch self {
            case .plain(let tensor, _): return tensor
            case .matrix(let matrix, let shape): return try placeholder(matrix, shape)
            case .trained(let matrix, let shape): return try placeholder(matrix.start, shape)
            }
        }

        private func placeholder(_ matrix: QuantizedMatrix, _ shape: [Int]) throws(FormatError)
            -> Tensor
        {
            do throws(TensorError) {
                return try matrix.base.detach().reshape([]).expand(shape)
            } catch {
                throw .tooLarge(format: Quantized.name)
            }
        }
    }

    /// What the part's layout lists, each item as it is stored here.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        let (bits, part) = try parts(spec, outputs: outputs, inputs: inputs)
        var layout: [TensorLayout] = []
        for item in part {
            guard let (rows, columns) = matrix(item, spec) else {
                layout.append(item)
                continue
            }
            layout += QuantizedMatrix.layout(
                item.name, rows: rows, columns: columns, bits: bits,
                groupSize: min(spec.groupSize ?? columns, columns))
        }
        return layout
    }

    /// The part's.
    public static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
    {
        _ = try parts(spec, outputs: outputs, inputs: inputs)
        return try FormatRegistry.format(spec.parts[0].format).parameterCount(
            spec.parts[0], outputs: outputs, inputs: inputs)
    }

    /// Decomposes into the part's format and quantises its tensors one after the other, each under
    /// the metric, refitting those that are still free.
    ///
    /// - Complexity: of a dense part, O(inputs²·outputs) flops per pass over the columns.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> Quantized
    {
        let (outputs, inputs) = try checkWeight(weight, spec)
        let exact = try exact(weight)
        let metric = try prepared(metric, for: weight)
        let cores = try QuantizedCores(exact, spec: spec, metric: metric).fitted()
        var tensors: [Tensor] = []
        for core in cores {
            switch core {
            case .matrix(let matrix, _): tensors += matrix.tensors
            case .trained(let matrix, _): tensors += matrix.start.tensors
            case .plain(let tensor, let isFloating):
                tensors.append(isFloating ? try tensor.stored(like: weight) : tensor)
            }
        }
        return try Quantized(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
    }

    /// Takes tensors in the layout's order.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        let (bits, part) = try Self.parts(spec, outputs: outputs, inputs: inputs)
        let layout = try Self.layout(spec, outputs: outputs, inputs: inputs)
        var pieces: [Piece] = []
        var rest = tensors[...]
        for item in part {
            if let (_, columns) = Self.matrix(item, spec) {
                let matrix = QuantizedMatrix(
                    bits: bits, levels: spec.levels,
                    groupSize: min(spec.groupSize ?? columns, columns), columns: columns,
                    tensors: rest.prefix(3))
                pieces.append(.matrix(matrix, shape: item.shape))
                rest = rest.dropFirst(3)
            } else {
                pieces += rest.prefix(1).map { .plain($0, isFloating: item.dtype == nil) }
                rest = rest.dropFirst()
            }
        }
        self.spec = spec
        self.outputs = outputs
        self.inputs = inputs
        self.tensors = zip(layout, tensors).map { ($0.name, $1) }
        self.pieces = pieces
        let inside = try FormatRegistry.format(spec.parts[0].format)
        parameterCount = try inside.parameterCount(
            spec.parts[0], outputs: outputs, inputs: inputs)
        template = try inside.init(
            spec: spec.parts[0], outputs: outputs, inputs: inputs,
            tensors: pieces.map { (piece) throws(FormatError) in try piece.placeholder() })
    }

    /// `other` with `pieces` in place of its own.
    init(_ other: Quantized, pieces: [Piece]) {
        (spec, outputs, inputs) = (other.spec, other.outputs, other.inputs)
        (tensors, template) = (other.tensors, other.template)
        parameterCount = other.parameterCount
        self.pieces = pieces
    }

    /// The part's forward, its tensors in the type of `x` for the length of the call.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        try part(dtype: x.dtype).forward(x)
    }

    /// The part's matrix, float32.
    public func reconstruct() throws(TensorError) -> Tensor {
        try part(dtype: .float32).reconstruct()
    }

    /// The part with its values in `dtype`.
    func part(dtype: DType) throws(TensorError) -> any LinearWeight {
        var values: [Tensor] = []
        for piece in pieces { values.append(try piece.values(dtype)) }
        do throws(FormatError) {
            return try template.replacing(values)
        } catch {
            throw .invalidArgument(function: Self.name, reason: error.description)
        }
    }
}

extension Quantized {
    /// The bits and the layout of the part, checked.
    static func parts(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> (bits: Int, layout: [TensorLayout])
    {
        guard spec.format == name else { throw .wrongFormat(found: spec.format, needed: name) }
        try checkSize(outputs: outputs, inputs: inputs)
        guard spec.outputModes.isEmpty, spec.inputModes.isEmpty, spec.ranks.isEmpty else {
            throw .unusedFields(format: name, fields: ["output_modes", "input_modes", "ranks"])
        }
        guard let bits = spec.bits, Codebook.allowedBits.contains(bits) else {
            throw .wrongBits(format: name, found: spec.bits, allowed: Codebook.allowedBits)
        }
        guard spec.levels != .float8 || bits == 8 else {
            throw .wrongLevels(format: name, found: spec.levels, bits: bits)
        }
        if let groupSize = spec.groupSize, groupSize < 1 {
            throw .wrongGroupSize(format: name, found: groupSize)
        }
        guard !Parts.isDeeper(spec, than: FormatSpec.deepest) else { throw .tooDeep(format: name) }
        guard spec.parts.count == 1, !holdsQuantized(spec.parts[0]) else {
            throw .wrongParts(
                format: name, found: spec.parts.map(\.format),
                needed: "one format that is not quantised itself")
        }
        let part = spec.parts[0]
        let layout = try FormatRegistry.format(part.format).layout(
            part, outputs: outputs, inputs: inputs)
        return (bits, layout)
    }

    private static func holdsQuantized(_ spec: FormatSpec) -> Bool {
        // Bounded: the specification is at most `FormatSpec.deepest` deep.
        spec.format == name || spec.parts.contains(where: holdsQuantized)
    }

    /// The matrix that `item` is quantised as; `nil` for what stays as it is.
    static func matrix(_ item: TensorLayout, _ spec: FormatSpec) -> (rows: Int, columns: Int)? {
        guard item.dtype == nil, item.shape.count > 1, item.count > 0 else { return nil }
        var columns = 1
        for size in item.shape.dropFirst().reversed() {
            if columns > 1, let groupSize = spec.groupSize, columns >= groupSize { break }
            columns *= size
        }
        return (item.count / columns, columns)
    }
}
