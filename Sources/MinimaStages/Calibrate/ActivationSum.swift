import MinimaCore
import MinimaTensor

private let nonzeroOperator = Operator("aten::nonzero")
private let medianOperator = Operator("aten::median", "dim")
private let medianOfAllOperator = Operator("aten::median")

/// What the inputs of a site look like, token by token; channels come from their second moment.
struct ActivationSum {
    /// Largest absolute value so far.
    private(set) var largest = 0.0
    /// Tokens with a massive activation so far.
    private(set) var massiveTokens = 0

    /// Adds the tokens of `x` `[…, inputs]`.
    ///
    /// - Throws: `StageError.notFinite` naming the site.
    mutating func add(_ x: Tensor, site: String) throws {
        let magnitudes = try x.detach().reshape([-1, x.shape.last ?? 1]).abs()
        let peaks = try magnitudes.max([1])
        let peak = try peaks.max().item()
        guard peak.isFinite else { throw StageError.notFinite(what: "the input of \(site)") }
        largest = max(largest, peak)
        guard peak > 100 else { return }
        // Only the few tokens beyond 100 have their median looked at.
        let indices = try nonzeroOperator(.tensor(peaks.isAtMost(.full([], 100)).not())).squeeze(1)
        let rows = try magnitudes.selecting(0, indices)
        let medians = try medianOperator.tensors(.tensor(rows), .int(1), .bool(false))[0]
        let chosen = try peaks.selecting(0, indices).to(dtype: .float32)
        let isMassive = try chosen.isAtMost(medians.to(dtype: .float32) * 1000).not()
        massiveTokens += Int(try isMassive.sum().item())
    }

    /// The summary of a site whose input moment is `moment` C `[inputs, inputs]`.
    func summary(moment: Tensor) throws(TensorError) -> ActivationSummary {
        let squares = try moment.diagonal().clamp(min: 0)
        let channels = try squares.sqrt()
        let median = try medianOfAllOperator(.tensor(channels)).item()
        let values: [Double] = try channels.values()
        return ActivationSummary(
            rms: try squares.mean().item().squareRoot(), largest: largest,
            outlierChannels: values.indices.filter { values[$0] > 6 * median },
            massiveTokens: massiveTokens)
    }
}
