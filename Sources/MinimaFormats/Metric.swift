import MinimaCore
import MinimaTensor

/// The metric of a weight's error Δ: tr(Δᵀ·H·Δ·C), with C the second moment of the layer's inputs
/// and H that of the loss's gradient at its outputs.
///
/// To second order half of it is the increase of the loss per token (K-FAC's approximation of the
/// Fisher information, Martens & Grosse 2015). Without H it is the squared error of the layer's
/// output.
public struct Metric: Sendable {
    /// `C = E[x·xᵀ]` `[inputs, inputs]`, float64, symmetric and positive semidefinite.
    public let input: Tensor
    /// `H = E[g·gᵀ]` over the outputs; `nil` is the identity.
    public let output: OutputMetric?

    /// A metric from second moments, in any float dtype.
    public init(input: Tensor, output: OutputMetric? = nil) throws(TensorError) {
        self.input = try input.to(dtype: .float64)
        self.output = output
    }

    /// `tr(Δᵀ·H·Δ·C)` for `difference` Δ `[outputs, inputs]`.
    public func squaredNorm(_ difference: Tensor) throws(TensorError) -> Double {
        let difference = try difference.to(input.device, dtype: .float64)
        let weighted = try output.map { (metric) throws(TensorError) in
            try metric.times(difference)
        }
        let squared = try (difference.matmul(input) * (weighted ?? difference)).sum().item()
        return max(squared, 0)
    }

    /// The square root of ``squaredNorm(_:)``.
    public func norm(_ difference: Tensor) throws(TensorError) -> Double {
        try squaredNorm(difference).squareRoot()
    }
}

/// A symmetric positive semidefinite matrix over a layer's outputs that couples neighbours only:
/// block-diagonal, with blocks from one output (a diagonal) to all of them.
public struct OutputMetric: Sendable {
    /// Runs of equal blocks along the outputs: `[blocks, size, size]` each, float64.
    public let runs: [Tensor]

    /// Outputs covered.
    public var outputs: Int { runs.reduce(0) { $0 + $1.shape[0] * $1.shape[1] } }

    /// A matrix of `runs` `[blocks, size, size]`, in any float dtype.
    public init(runs: [Tensor]) throws(TensorError) {
        var exact: [Tensor] = []
        for run in runs {
            let shape = run.shape
            guard shape.count == 3, shape[1] == shape[2] else {
                throw .invalidArgument(
                    function: "OutputMetric",
                    reason: "runs must be [blocks, size, size], found \(run.summary)")
            }
            exact.append(try run.to(dtype: .float64))
        }
        self.runs = exact
    }

    /// One block: the whole matrix `[outputs, outputs]`.
    public init(full: Tensor) throws(TensorError) {
        try self.init(runs: [full.unsqueeze(0)])
    }

    /// A diagonal `[outputs]`.
    public init(diagonal: Tensor) throws(TensorError) {
        try self.init(runs: [diagonal.reshape([-1, 1, 1])])
    }

    /// The matrices of neighbouring layers as one: what couples them is taken as zero.
    public init(joining metrics: [OutputMetric]) throws(TensorError) {
        try self.init(runs: metrics.flatMap(\.runs))
    }

    /// This matrix on `device`.
    public func to(_ device: Device) throws(TensorError) -> OutputMetric {
        var moved: [Tensor] = []
        for run in runs { moved.append(try run.to(device)) }
        return try OutputMetric(runs: moved)
    }

    /// H·M for M `[outputs, columns]`.
    public func times(_ matrix: Tensor) throws(TensorError) -> Tensor {
        try apply(runs, to: matrix)
    }

    /// The diagonal `[outputs]`.
    public func diagonal() throws(TensorError) -> Tensor {
        var parts: [Tensor] = []
        for run in runs { parts.append(try Tensor.einsum("bii->bi", run).reshape([-1])) }
        return try Tensor.cat(parts)
    }

    /// The whole matrix `[outputs, outputs]`.
    public func dense() throws(TensorError) -> Tensor {
        let unit = try Tensor.identity(
            outputs, dtype: .float64, device: runs.first?.device ?? .cpu)
        return try times(unit)
    }

    /// The part that rows `range` see: blocks that straddle its ends are cut.
    public func narrow(_ range: Range<Int>) throws(TensorError) -> OutputMetric {
        var parts: [Tensor] = []
        var start = 0
        for run in runs {
            let (count, size) = (run.shape[0], run.shape[1])
            let end = start + count * size
            let lower = Swift.max(range.lowerBound, start) - start
            let upper = Swift.min(range.upperBound, end) - start
            start = end
            guard lower < upper else { continue }
            try Self.cut(run, lower..<upper, size: size, into: &parts)
        }
        return try OutputMetric(runs: parts)
    }

    private static func cut(
        _ run: Tensor, _ range: Range<Int>, size: Int, into parts: inout [Tensor]
    ) throws(TensorError) {
        var position = range.lowerBound
        while position < range.upperBound {
            let (block, offset) = (position / size, position % size)
            if offset == 0, range.upperBound - position >= size {
                let whole = (range.upperBound - position) / size
                parts.append(try run.narrow(0, block..<block + whole))
                position += whole * size
            } else {
                let end = Swift.min(size, offset + range.upperBound - position)
                parts.append(
                    try run.narrow(0, block..<block + 1).narrow(1, offset..<end)
                        .narrow(2, offset..<end))
                position += end - offset
            }
        }
    }

    /// Block-diagonal `blocks` times M `[outputs, columns]`.
    func apply(_ blocks: [Tensor], to matrix: Tensor) throws(TensorError) -> Tensor {
        let columns = matrix.shape[1]
        var parts: [Tensor] = []
        var start = 0
        for run in blocks {
            let (count, size) = (run.shape[0], run.shape[1])
            let rows = try matrix.narrow(0, start..<start + count * size)
            let product =
                try size == 1
                ? rows * run.reshape([count, 1])
                : run.matmul(rows.reshape([count, size, columns])).reshape([-1, columns])
            parts.append(product)
            start += count * size
        }
        return parts.count == 1 ? parts[0] : try Tensor.cat(parts)
    }
}
