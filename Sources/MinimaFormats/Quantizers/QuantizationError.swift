import MinimaCore
import MinimaTensor

extension Quantized {
    /// What quantising a dense weight at each of `bits` and `groupSizes` costs, without doing it.
    ///
    /// GPTQ's loss is Σ_ij H_ii·D_j·e_ij² over the errors of rounding alone (``InputFactor``), so the
    /// pivots D of C and the mean squared error of rounding are enough. That error is measured: rows
    /// of the weight are rounded with searched scales, their errors weighted by D and H; what
    /// feedback between rows and refinement leave of that is a measured factor.
    ///
    /// - Parameters:
    ///   - weight: `[outputs, inputs]`, any float dtype.
    ///   - metric: `nil` is the Frobenius norm.
    ///   - groupSizes: Neighbours of a row per scale; `nil` in a specification is not tried.
    ///   - levels: Of all for which there are such, see `FormatSpec.Levels.fitting(bits:)`.
    /// - Returns: A specification for every pair, bits outermost, with the expected `tr(Δᵀ·H·Δ·C)`.
    /// - Throws: `FormatError` for bits or group sizes that there are not, `TensorError.notFinite`.
    /// - Complexity: O(inputs³) flops once, and per pair six roundings of ``sampledValues`` values.
    public static func candidates(
        _ weight: Tensor, metric: Metric?, bits: [Int], groupSizes: [Int],
        levels: FormatSpec.Levels = .normal
    ) throws -> [(spec: FormatSpec, squaredError: Double)] {
        var specs: [FormatSpec] = []
        for bits in bits {
            for groupSize in groupSizes {
                let spec = FormatSpec(
                    format: name, bits: bits, groupSize: groupSize,
                    levels: levels.fitting(bits: bits),
                    parts: [FormatSpec(format: Dense.name)])
                _ = try checkWeight(weight, spec)
                specs.append(spec)
            }
        }
        let (rows, columns) = (weight.shape[0], weight.shape[1])
        let metric = try prepared(metric, for: weight)
        let pivots =
            try metric.map { (metric) throws(TensorError) in
                try InputFactor.pivots(metric.input)
            } ?? Tensor.ones([columns], dtype: .float64, device: weight.device)
        let importance =
            try metric?.output?.diagonal()
            ?? Tensor.ones([rows], dtype: .float64, device: weight.device)
        let most = max(sampledValues / columns, sampledRows)
        let stride = (rows + most - 1) / most
        let chosen =
            try Tensor.arange(0..<(rows + stride - 1) / stride, device: weight.device)
            * Tensor([Int64(stride)]).to(weight.device)
        let sample = try exact(weight.embedding(chosen)).to(dtype: .float32).transpose()
            .contiguous()
        let shares = try importance.unsqueeze(1).embedding(chosen).squeeze(1)
        // Rows that are not sampled count by their importance, as the average of those that are.
        let whole = try importance.sum().item()
        let seen = try shares.sum().item()
        let weights = try pivots.unsqueeze(1) * shares * (seen > 0 ? whole / seen : 0)
        let quantizer = MatrixQuantizer(columns: columns)
        return try specs.map { spec in
            let error = try roundingError(sample, spec, weights: weights)
            return (spec, error * quantizer.remainder(metric))
        }
    }

    /// Values that ``candidates(_:metric:bits:groupSizes:)`` rounds, in whole rows.
    static let sampledValues = 1 << 14
    /// Rows that it rounds at least, where the weight has them.
    static let sampledRows = 64

    /// Σ weights·e² of rounding `sample` `[columns, rows]` with scales searched under the mean
    /// weights of the columns.
    private static func roundingError(_ sample: Tensor, _ spec: FormatSpec, weights: Tensor)
        throws(TensorError) -> Double
    {
        let quantizer = GPTQ(
            codebook: try Codebook(
                bits: spec.bits ?? 8, levels: spec.levels, device: sample.device),
            grid: try ScaleGrid(covering: sample),
            groupSize: min(spec.groupSize ?? sample.shape[0], sample.shape[0]))
        let columns = try weights.mean([1], keepDims: true)
        let mean = try columns.mean().item()
        let even = try (columns / (mean > 0 ? mean : 1)).to(dtype: .float32)
        // Every third scale is tried: the error is flat around the best.
        let rounded = try quantizer.nearest(sample, weights: even, scaleStride: 3)
        return try ((rounded.values - sample).to(dtype: .float64).square() * weights).sum().item()
    }
}
