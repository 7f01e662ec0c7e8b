import MinimaCore
import MinimaTensor

/// The best codes for one matrix under a metric.
struct MatrixQuantizer {
    /// Chunks of rows in the first pass.
    let chunks: Int
    /// Passes that lower the error afterwards.
    let sweeps: Int

    /// Quantises `matrix` `[rows, columns]`, any float dtype.
    ///
    /// Of GPTQ, what its refinement makes of it, and plain rounding, the one with the least error is
    /// returned: GPTQ can lose where C is far from what its damping makes of it.
    ///
    /// - Parameter grid: What scales are taken from; `nil`: one for this matrix.
    func quantize(
        _ matrix: Tensor, bits: Int, levels: FormatSpec.Levels, groupSize: Int, metric: Metric?,
        grid: ScaleGrid? = nil
    ) throws(TensorError) -> QuantizedMatrix {
        let weight = try matrix.to(dtype: .float32)
        let scales: ScaleGrid
        if let grid { scales = grid } else { scales = try ScaleGrid(covering: weight) }
        let quantizer = GPTQ(
            codebook: try Codebook(bits: bits, levels: levels, device: weight.device),
            grid: scales,
            groupSize: min(groupSize, weight.shape[1]))
        let even = try Tensor.ones([weight.shape[1], 1], device: weight.device)
        var best = try quantizer.nearest(weight.transpose().contiguous(), weights: even)
        if let metric {
            var error = try metric.squaredNorm(best.values.transpose() - weight)
            for candidate in try candidates(weight, quantizer, metric) {
                let found = try metric.squaredNorm(candidate.values.transpose() - weight)
                if found < error { (best, error) = (candidate, found) }
            }
        }
        return try QuantizedMatrix(best, by: quantizer, bits: bits, levels: levels)
    }

    func candidates(_ weight: Tensor, _ quantizer: GPTQ, _ metric: Metric)
        throws(TensorError) -> [GPTQ.Columns]
    {
        let feedback = try OutputFeedback(
            metric.output, rows: weight.shape[0], chunks: chunks, device: weight.device)
        let exact = try metric.input.to(weight.device)
        let factor = try InputFactor(exact)
        let groups = (weight.shape[1] + quantizer.groupSize - 1) / quantizer.groupSize
        let targets = try weight.clone()
        let values = try weight.clone()
        let scales = try Tensor.zeros(
            [weight.shape[0], groups], dtype: .int64, device: weight.device)
        for chunk in 0..<feedback.count {
            let part = try quantizer.quantize(feedback.columns(targets, chunk), factor)
            try feedback.put(part.values, into: values, chunk)
            try feedback.put(part.scales, into: scales, chunk)
            try feedback.push(chunk, of: values, into: targets)
        }
        var found = [try Self.columns(values, scales)]
        guard sweeps > 0 else { return found }
        let moment = try exact.to(dtype: .float32)
        for _ in 0..<sweeps {
            for chunk in 0..<feedback.count {
                let part = GPTQ.Columns(
                    values: try feedback.columns(values, chunk),
                    scales: try feedback.columns(scales, chunk))
                let target = try feedback.target(chunk, of: weight, beside: values)
                let refined = try quantizer.refine(part, towards: target, moment)
                try feedback.put(refined.values, into: values, chunk)
            }
            found.append(try Self.columns(values, scales))
        }
        return found
    }

    /// Copies of `values` `[rows, columns]` and `scales` `[rows, groups]`, as columns.
    private static func columns(_ values: Tensor, _ scales: Tensor) throws(TensorError)
        -> GPTQ.Columns
    {
        GPTQ.Columns(
            values: try values.transpose().clone().contiguous(),
            scales: try scales.transpose().clone().contiguous())
    }
}

extension MatrixQuantizer {
    /// As much effort as a matrix with so many columns is worth.
    ///
    /// A pass costs about ten small operators per column, whatever the rows: 0.7 s at 5120 columns
    /// and 4 s at 25600 on an H200. Two chunks leave 7% less error than one, eight 15%, eight with
    /// two sweeps 22% (3 and 4 bits, 14 matrices of ref-qwen3-20m); 64 chunks leave 2% less than
    /// eight.
    init(columns: Int) {
        switch columns {
        case ...2048: self.init(chunks: 8, sweeps: 2)
        case ...8192: self.init(chunks: 2, sweeps: 0)
        default: self.init(chunks: 1, sweeps: 0)
        }
    }

    /// The share of plain GPTQ's error that feedback between rows and sweeps leave, see
    /// ``init(columns:)``.
    func remainder(_ metric: Metric?) -> Double {
        guard let metric else { return 1 }
        let byRows = metric.output == nil || chunks < 2 ? 1 : chunks < 8 ? 0.93 : 0.85
        return sweeps > 0 ? byRows * 0.92 : byRows
    }
}
