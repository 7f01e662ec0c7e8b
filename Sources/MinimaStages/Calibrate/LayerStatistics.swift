import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What calibration found at one decoder layer.
public struct LayerStatistics: Sendable {
    /// The layer.
    public let layer: Int
    /// Its sites, in forward order.
    public let sites: [SiteStatistics]
}

/// What calibration found at one site.
public struct SiteStatistics: Sendable {
    /// The site.
    public let site: Site
    /// `C = Σ w·x·xᵀ / Σ w` of its inputs x, `[inputs, inputs]`, float64: over the tokens that reach
    /// it, which for an expert are some. Where none does, C is a multiple of the identity.
    public let input: Tensor
    /// `H = Σ w·g·gᵀ / Σ w` of the gradients g of the tokens' summed negative log-likelihood at its
    /// stacked outputs, over all tokens: 0 for those that do not reach it, so that tr(ΔᵀHΔC) is a
    /// mean over all of them; `nil` without gradients. A multiple of the identity for an expert that
    /// no token with gradients reached.
    ///
    /// One block for sites with few outputs; for others one or several blocks per member, and
    /// nothing between them. Labels are drawn from the model's own distribution, so that H is the
    /// Fisher information's factor (Kunstner et al. 2019, section 3). Values are float32 numbers.
    public let output: OutputMetric?
    /// What its inputs look like.
    public let activations: ActivationSummary
    /// Tokens behind C; 0 for an expert that the calibration did not reach.
    public let tokens: Int

    /// The metric of an error of the stacked weight.
    public func metric() throws(TensorError) -> Metric {
        try Metric(input: input, output: output)
    }
}
