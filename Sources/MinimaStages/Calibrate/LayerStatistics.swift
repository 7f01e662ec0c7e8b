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
    /// `C = Σ w·x·xᵀ / Σ w` of its inputs x, `[inputs, inputs]`, float64.
    public let input: Tensor
    /// `H = Σ w·g·gᵀ / Σ w` of the gradients g of the tokens' summed negative log-likelihood at its
    /// stacked outputs; `nil` without gradients.
    ///
    /// Full for members with few outputs, block-diagonal for others; never between members. Labels
    /// are drawn from the model's own distribution, so that H is the Fisher information's factor
    /// (Kunstner et al. 2019, section 3). Values are float32 numbers.
    public let output: OutputMetric?
    /// What its inputs look like.
    public let activations: ActivationSummary
    /// Tokens behind C.
    public let tokens: Int

    /// The metric of an error of the stacked weight.
    public func metric() throws(TensorError) -> Metric {
        try Metric(input: input, output: output)
    }
}
