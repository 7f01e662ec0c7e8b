import MinimaCore
import MinimaTensor

extension LinearWeight {
    /// Checks that a weight `[outputs, inputs]` can exist.
    static func checkSize(outputs: Int, inputs: Int) throws(FormatError) {
        guard outputs > 0, inputs > 0 else {
            throw .notAMatrix(format: name, shape: [outputs, inputs])
        }
        guard Sizes.product([outputs, inputs]) != nil else { throw .tooLarge(format: name) }
    }

    /// Checks the name, the modes and how many ranks a specification has, and that it has neither
    /// bits nor parts.
    ///
    /// - Parameter modeCounts: Modes of each side; a side with none is not split.
    static func check(
        _ spec: FormatSpec, outputs: Int, inputs: Int, modeCounts: (outputs: Int, inputs: Int),
        rankCount: Int
    ) throws(FormatError) {
        guard spec.format == name else { throw .wrongFormat(found: spec.format, needed: name) }
        try checkSize(outputs: outputs, inputs: inputs)
        guard spec.outputModes.count == modeCounts.outputs,
            spec.inputModes.count == modeCounts.inputs
        else {
            throw .wrongModeCount(
                format: name, outputs: spec.outputModes.count, inputs: spec.inputModes.count,
                needed: "\(modeCounts.outputs) output and \(modeCounts.inputs) input modes")
        }
        guard spec.ranks.count == rankCount else {
            throw .wrongRankCount(format: name, found: spec.ranks.count, needed: rankCount)
        }
        guard spec.bits == nil, spec.groupSize == nil, spec.levels == .normal, spec.parts.isEmpty
        else {
            throw .unusedFields(format: name, fields: ["bits", "group_size", "levels", "parts"])
        }
        for (modes, size, side) in [
            (spec.outputModes, outputs, "output"), (spec.inputModes, inputs, "input"),
        ] where !modes.isEmpty && Sizes.product(modes) != size {
            throw .modesDoNotMultiply(modes: modes, size: size, side: side)
        }
    }

    /// Checks that every rank is within 1 and its limit.
    static func checkRanks(_ ranks: [Int], limits: [Int]) throws(FormatError) {
        for (position, (rank, limit)) in zip(ranks, limits).enumerated()
        where !(1...max(limit, 1)).contains(rank) {
            throw .rankOutOfRange(
                format: name, rank: rank, position: position, allowed: 1...max(limit, 1))
        }
    }

    /// `shapes` under the names `cores.0`, `cores.1`, …, once their total is known not to overflow.
    static func cores(_ shapes: [[Int]]) throws(FormatError) -> [TensorLayout] {
        var counts: [Int] = []
        for shape in shapes {
            guard let count = Sizes.product(shape) else { throw .tooLarge(format: name) }
            counts.append(count)
        }
        guard Sizes.saturatingSum(counts) <= 1 << Sizes.limitExponent else {
            throw .tooLarge(format: name)
        }
        return shapes.enumerated().map { TensorLayout(name: "cores.\($0)", shape: $1) }
    }

    /// Checks the number and shapes of `tensors` against the layout.
    static func checkTensors(
        _ tensors: [Tensor], _ spec: FormatSpec, outputs: Int, inputs: Int
    ) throws(FormatError) {
        let layout = try layout(spec, outputs: outputs, inputs: inputs)
        guard tensors.count == layout.count else {
            throw .wrongTensorCount(format: name, found: tensors.count, needed: layout.count)
        }
        for (tensor, item) in zip(tensors, layout) {
            guard tensor.shape == item.shape else {
                throw .wrongTensor(
                    format: name, name: item.name, found: tensor.shape, needed: item.shape)
            }
            let dtype = tensor.dtype
            guard item.dtype.map({ $0 == dtype }) ?? dtype.isFloatingPoint else {
                throw .wrongType(
                    format: name, name: item.name, found: "\(dtype)",
                    needed: item.dtype.map { "\($0)" } ?? "a floating-point type")
            }
        }
    }

    /// The rows and columns of `weight`, checked against `spec`.
    static func checkWeight(_ weight: Tensor, _ spec: FormatSpec) throws(FormatError)
        -> (outputs: Int, inputs: Int)
    {
        let shape = weight.shape
        guard shape.count == 2 else { throw .notAMatrix(format: name, shape: shape) }
        _ = try layout(spec, outputs: shape[0], inputs: shape[1])
        return (shape[0], shape[1])
    }

    /// `weight` in float64, cut off from gradients.
    ///
    /// - Throws: `TensorError.notFinite` when a value is NaN or infinite.
    static func exact(_ weight: Tensor) throws(TensorError) -> Tensor {
        let exact = try weight.detach().to(dtype: .float64)
        let finite = Int(try exact.isFinite().sum(dtype: .int64).item())
        guard finite == exact.count else {
            throw .notFinite(function: "decomposing into \(name)", count: exact.count - finite)
        }
        return exact
    }

    /// `metric` on the device of `weight`, checked against its rows and columns.
    ///
    /// - Throws: `TensorError.notFinite` when a value is NaN or infinite.
    static func prepared(_ metric: Metric?, for weight: Tensor) throws -> Metric? {
        guard let metric else { return nil }
        let (outputs, inputs) = (weight.shape[0], weight.shape[1])
        guard metric.input.shape == [inputs, inputs] else {
            throw FormatError.wrongTensor(
                format: name, name: "a second moment", found: metric.input.shape,
                needed: [inputs, inputs])
        }
        guard let output = metric.output else {
            return try Metric(input: exact(metric.input.to(weight.device)))
        }
        guard output.outputs == outputs else {
            throw FormatError.wrongTensor(
                format: name, name: "an output metric", found: [output.outputs, output.outputs],
                needed: [outputs, outputs])
        }
        var runs: [Tensor] = []
        for run in output.runs { runs.append(try exact(run.to(weight.device))) }
        return try Metric(
            input: exact(metric.input.to(weight.device)), output: OutputMetric(runs: runs))
    }

    /// The matrix in float64 that the stored values stand for; ``reconstruct()`` rounds to their type.
    func exactMatrix() throws -> Tensor {
        let layout = try Self.layout(spec, outputs: outputs, inputs: inputs)
        var exact: [Tensor] = []
        for (item, (_, tensor)) in zip(layout, tensors) {
            exact.append(item.dtype == nil ? try tensor.to(dtype: .float64) : tensor)
        }
        return try Self(spec: spec, outputs: outputs, inputs: inputs, tensors: exact)
            .reconstruct().to(dtype: .float64)
    }

    /// `x` `[…, inputs]` as a matrix `[tokens, inputs]`, and the shape of its results.
    func rows(_ x: Tensor) throws(TensorError) -> (matrix: Tensor, resultShape: [Int]) {
        let shape = x.shape
        guard shape.last == inputs else {
            throw .invalidArgument(
                function: "\(Self.name) forward",
                reason: "needs inputs […, \(inputs)], not \(x.summary)")
        }
        let leading = Array(shape.dropLast())
        return (try x.reshape([leading.reduce(1, *), inputs]), leading + [outputs])
    }
}

extension Tensor {
    /// This result as it is stored beside `weight`: its dtype, without gaps, in storage of its own.
    func stored(like weight: Tensor) throws(TensorError) -> Tensor {
        let dtype = weight.dtype
        return try (self.dtype == dtype ? clone() : to(dtype: dtype)).contiguous()
    }
}
