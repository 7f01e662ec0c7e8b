import MinimaCore
import MinimaTensor

/// A weight cut along its outputs or along its inputs, each block in a format of its own: heads that
/// need different ranks, inputs that are shared.
///
/// Specification: either output modes, the blocks' row counts, which add up to outputs, or input
/// modes, their column counts, which add up to inputs; no ranks; `parts`, one per block. Stored:
/// `blocks.<i>.<the part's name>`.
///
/// Blocks of rows do not meet in the metric, except for H's blocks that straddle a cut; each is
/// fitted under C and its part of H. Blocks of columns do: with Δ_j = W_j − Ŵ_j, the best target of
/// block i beside the others is W_i + Σ_{j≠i} Δ_j·C_ji·C_ii⁻¹ under C_ii (the square completed; H
/// drops out). They are fitted in turn, each making up for those before, then once more for all
/// others if that lowers the error.
public struct Blocks: LinearWeight {
    /// `blocks`.
    public static let name = "blocks"

    /// The cut and the blocks' specifications.
    public let spec: FormatSpec
    /// The blocks, top to bottom or left to right.
    public let blocks: [any LinearWeight]

    /// Rows of W.
    public var outputs: Int {
        isCutAlongOutputs ? spec.outputModes.reduce(0, +) : blocks[0].outputs
    }
    /// Columns of W.
    public var inputs: Int {
        isCutAlongOutputs ? blocks[0].inputs : spec.inputModes.reduce(0, +)
    }
    /// The blocks' tensors, block by block.
    public var tensors: [(name: String, tensor: Tensor)] {
        Parts.tensors(blocks, prefix: Self.prefix)
    }
    /// Those of all blocks.
    public var multiplyAdds: Int { blocks.reduce(0) { $0 + $1.multiplyAdds } }
    /// Those of all blocks.
    public var parameterCount: Int { blocks.reduce(0) { $0 + $1.parameterCount } }

    var isCutAlongOutputs: Bool { !spec.outputModes.isEmpty }

    /// C_ii is raised by this share of its mean diagonal before it is divided by, so that what one
    /// block makes up for another is bounded where C is singular.
    private static let damping = 1e-6

    /// The blocks' shapes, once they are known to add up.
    private static func shapes(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [(outputs: Int, inputs: Int)]
    {
        try Parts.check(spec, format: name, least: 1)
        try checkSize(outputs: outputs, inputs: inputs)
        let isRows = !spec.outputModes.isEmpty
        guard isRows == spec.inputModes.isEmpty else {
            throw .wrongModeCount(
                format: name, outputs: spec.outputModes.count, inputs: spec.inputModes.count,
                needed: "either output or input modes")
        }
        let (sizes, size) = isRows ? (spec.outputModes, outputs) : (spec.inputModes, inputs)
        guard sizes.allSatisfy({ $0 > 0 }), Sizes.saturatingSum(sizes) == size else {
            throw .sizesDoNotAddUp(
                format: name, sizes: sizes, size: size, side: isRows ? "output" : "input")
        }
        guard spec.parts.count == sizes.count else {
            throw .wrongPartCount(
                format: name, found: spec.parts.count, needed: "\(sizes.count)")
        }
        return sizes.map { isRows ? ($0, inputs) : (outputs, $0) }
    }

    /// Each block's tensors.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try Parts.layout(
            spec.parts, shapes: shapes(spec, outputs: outputs, inputs: inputs), prefix: prefix)
    }

    /// Those of all blocks.
    public static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
    {
        try Parts.parameterCount(
            spec.parts, shapes: shapes(spec, outputs: outputs, inputs: inputs))
    }

    /// Fits each block in its format.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> Blocks
    {
        _ = try checkWeight(weight, spec)
        let exact = try exact(weight)
        let metric = try prepared(metric, for: weight)
        if spec.outputModes.isEmpty, let metric {
            return try ColumnFit(exact, spec, metric, dtype: weight.dtype).blocks()
        }
        var blocks: [any LinearWeight] = []
        let dim = spec.outputModes.isEmpty ? 1 : 0
        for (range, part) in zip(ranges(spec), spec.parts) {
            let seen = try metric.map {
                try Metric(input: $0.input, output: $0.output?.narrow(range))
            }
            blocks.append(
                try Parts.fit(
                    exact.narrow(dim, range), part, metric: seen, dtype: weight.dtype))
        }
        return Blocks(spec: spec, blocks: blocks)
    }

    /// Where the blocks lie along the side that is cut.
    static func ranges(_ spec: FormatSpec) -> [Range<Int>] {
        var start = 0
        return (spec.outputModes + spec.inputModes).map { size in
            defer { start += size }
            return start..<start + size
        }
    }

    /// Blocks of columns that make up for each other's errors.
    private struct ColumnFit {
        let weight: Tensor
        let spec: FormatSpec
        let metric: Metric
        let dtype: DType
        let ranges: [Range<Int>]
        /// Lower factors of C_ii; `nil` where C sees nothing of a block.
        let factors: [Tensor?]

        init(_ weight: Tensor, _ spec: FormatSpec, _ metric: Metric, dtype: DType) throws {
            (self.weight, self.spec, self.metric, self.dtype) = (weight, spec, metric, dtype)
            ranges = Blocks.ranges(spec)
            factors = try ranges.map { range in
                let block = try metric.input.narrow(0, range).narrow(1, range)
                let mean = try block.diagonal().mean().item()
                guard mean > 0 else { return nil }
                let unit = try Tensor.identity(
                    range.count, dtype: .float64, device: block.device)
                return try (block + unit * (mean * Blocks.damping)).cholesky()
            }
        }

        func blocks() throws -> Blocks {
            // Δ of the blocks fitted so far, zero elsewhere: the first sweep looks back only.
            let difference = try Tensor.zeros(
                weight.shape, dtype: .float64, device: weight.device)
            var fitted = [any LinearWeight]()
            for index in ranges.indices { fitted.append(try fit(index, difference)) }
            let first = try metric.squaredNorm(difference)
            guard ranges.count > 1, first > 0 else { return Blocks(spec: spec, blocks: fitted) }
            var again = fitted
            for index in ranges.indices { again[index] = try fit(index, difference) }
            let second = try metric.squaredNorm(difference)
            return Blocks(spec: spec, blocks: second < first ? again : fitted)
        }

        /// Fits block `index` beside the others' errors and writes its own into `difference`.
        private func fit(_ index: Int, _ difference: Tensor) throws -> any LinearWeight {
            let range = ranges[index]
            let own = try difference.narrow(1, range)
            let columns = try weight.narrow(1, range)
            var target = columns
            if let lower = factors[index] {
                try own.copy(from: Tensor.zeros([1], dtype: .float64, device: own.device))
                let seen = try difference.matmul(metric.input.narrow(1, range)).transpose()
                let half = try lower.solveTriangular(seen, upper: false)
                let share = try lower.transpose().solveTriangular(half, upper: true)
                target = try columns + share.transpose()
            }
            let block = try metric.input.narrow(0, range).narrow(1, range)
            let part = try Parts.fit(
                target, spec.parts[index],
                metric: Metric(input: block, output: metric.output), dtype: dtype)
            try own.copy(from: columns - part.exactMatrix())
            return part
        }
    }

    private init(spec: FormatSpec, blocks: [any LinearWeight]) {
        self.spec = spec
        self.blocks = blocks
    }

    /// Takes the blocks' tensors, block by block.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        let shapes = try Self.shapes(spec, outputs: outputs, inputs: inputs)
        self.init(spec: spec, blocks: try Parts.make(spec.parts, shapes: shapes, tensors: tensors))
    }

    /// Each block keeps what it keeps.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> Blocks {
        try replacing(tensorsOfParts: tensors)
    }

    /// The blocks' results side by side, or their sum over the inputs' blocks.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        guard x.shape.last == inputs else {
            throw .invalidArgument(
                function: "\(Self.name) forward",
                reason: "needs inputs […, \(inputs)], not \(x.summary)")
        }
        if isCutAlongOutputs {
            var results: [Tensor] = []
            for block in blocks { results.append(try block.forward(x)) }
            return try Tensor.cat(results, dim: -1)
        }
        let ranges = Self.ranges(spec)
        var sum = try blocks[0].forward(x.narrow(-1, ranges[0]))
        for (range, block) in zip(ranges, blocks).dropFirst() {
            sum = try sum + block.forward(x.narrow(-1, range))
        }
        return sum
    }

    /// The blocks' matrices in their places.
    public func reconstruct() throws(TensorError) -> Tensor {
        var matrices: [Tensor] = []
        for block in blocks { matrices.append(try block.reconstruct()) }
        return try Tensor.cat(matrices, dim: isCutAlongOutputs ? 0 : 1)
    }
}

extension Blocks: CompositeWeight {
    static let prefix = "blocks"

    var parts: [any LinearWeight] { blocks }

    func replacing(parts: [any LinearWeight]) -> Blocks { Blocks(spec: spec, blocks: parts) }

    func shares(of weight: Tensor) throws(TensorError) -> [Tensor]? {
        try weight.split(spec.outputModes + spec.inputModes, dim: isCutAlongOutputs ? 0 : 1)
    }
}
