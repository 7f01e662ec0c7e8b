import MinimaCore
import MinimaTensor

private let solveOperator = Operator("aten::linalg_solve")

/// Quantises the rows of a matrix in chunks, each of which makes up for the errors of those before.
///
/// GPTQ makes the loss tr(Δ·C·Δᵀ) small row by row. Under tr(Δᵀ·H·Δ·C) rows are coupled: with the
/// error of some rows fixed at Δ₁, the best for the others is -H₂₂⁻¹·H₂₁·Δ₁, whatever C is. So the
/// targets of later chunks are moved by that before they are quantised. With chunks of one row it is
/// rounding with feedback on both sides (Tseng et al. 2025, section 3.2); larger ones leave the
/// coupling inside a chunk unused and cost one pass over the columns each.
struct OutputFeedback {
    /// Damping of H, relative to its mean diagonal.
    static let damping = 0.05

    /// Neighbouring blocks of rows of one size.
    private struct Run {
        let rows: Range<Int>
        let size: Int
        /// H, damped: `[blocks, size, size]`, float64.
        let metric: Tensor
        /// Rows of each block by chunk.
        let chunks: [Range<Int>]
    }

    private let runs: [Run]
    /// Chunks that the rows are quantised in.
    let count: Int

    /// At most `chunks` per block of `metric`; without a metric all rows are one chunk.
    init(_ metric: OutputMetric?, rows: Int, chunks: Int, device: Device) throws(TensorError) {
        var runs: [Run] = []
        var start = 0
        for run in metric?.runs ?? [] {
            let (blocks, size) = (run.shape[0], run.shape[1])
            let mean = try run.diagonal().mean().item()
            let unit = try Tensor.identity(size, dtype: .float64, device: device)
            let count = mean > 0 ? min(chunks, size) : 1
            let bounds = (0...count).map { $0 * size / count }
            runs.append(
                Run(
                    rows: start..<start + blocks * size, size: size,
                    metric: try run.to(device) / (mean > 0 ? mean : 1) + unit * Self.damping,
                    chunks: zip(bounds, bounds.dropFirst()).map { $0..<$1 }))
            start += blocks * size
        }
        if runs.isEmpty {
            let unit = try Tensor.ones([rows, 1, 1], dtype: .float64, device: device)
            runs = [Run(rows: 0..<rows, size: 1, metric: unit, chunks: [0..<1])]
        }
        self.runs = runs
        count = runs.reduce(1) { max($0, $1.chunks.count) }
    }

    /// The rows of `chunk` in `matrix` `[rows, columns]`, as columns `[columns, rows]`.
    func columns(_ matrix: Tensor, _ chunk: Int) throws(TensorError) -> Tensor {
        var parts: [Tensor] = []
        for run in runs where chunk < run.chunks.count {
            let rows = try blocks(matrix, run).narrow(1, run.chunks[chunk])
            parts.append(try rows.reshape([-1, matrix.shape[1]]))
        }
        return try Tensor.cat(parts).transpose().contiguous()
    }

    /// Writes `columns` `[columns, rows]` over the rows of `chunk`.
    func put(_ columns: Tensor, into matrix: Tensor, _ chunk: Int) throws(TensorError) {
        let rows = try columns.transpose()
        var start = 0
        for run in runs where chunk < run.chunks.count {
            let target = try blocks(matrix, run).narrow(1, run.chunks[chunk])
            let count = target.shape[0] * target.shape[1]
            try target.copy(from: rows.narrow(0, start..<start + count).reshape(target.shape))
            start += count
        }
    }

    /// Moves the rows of `targets` after `chunk` to what is best beside its error
    /// `quantized - targets`; both `[rows, columns]`, float32.
    func push(_ chunk: Int, of quantized: Tensor, into targets: Tensor) throws(TensorError) {
        for run in runs where chunk + 1 < run.chunks.count {
            let done = run.chunks[chunk]
            let rest = done.upperBound..<run.size
            let own = try run.metric.narrow(1, rest).narrow(2, rest)
            let shared = try run.metric.narrow(1, rest).narrow(2, done)
            let shares = try solveOperator(.tensor(own), .tensor(shared)).to(dtype: .float32)
            let after = try blocks(targets, run)
            let error = try blocks(quantized, run).narrow(1, done) - after.narrow(1, done)
            try after.narrow(1, rest).addInPlace(shares.matmul(error), scale: -1)
        }
    }

    /// The rows of `chunk` of the matrix that is best beside all other rows of `quantized`, for a
    /// weight `[rows, columns]`; as columns.
    func target(_ chunk: Int, of weight: Tensor, beside quantized: Tensor) throws(TensorError)
        -> Tensor
    {
        let best = try weight.clone()
        for run in runs where run.chunks.count > 1 && chunk < run.chunks.count {
            let own = run.chunks[chunk]
            let square = try run.metric.narrow(1, own).narrow(2, own)
            let error = try blocks(quantized, run) - blocks(weight, run)
            try error.narrow(1, own).multiplyInPlace(Tensor.zeros([1], device: error.device))
            let shares = try solveOperator(.tensor(square), .tensor(run.metric.narrow(1, own)))
            try blocks(best, run).narrow(1, own).addInPlace(
                shares.to(dtype: .float32).matmul(error), scale: -1)
        }
        return try columns(best, chunk)
    }

    private func blocks(_ matrix: Tensor, _ run: Run) throws(TensorError) -> Tensor {
        try matrix.narrow(0, run.rows).reshape([-1, run.size, matrix.shape[1]])
    }
}
