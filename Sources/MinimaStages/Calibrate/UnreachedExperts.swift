import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What stands for the statistics of experts that no calibration token reached: the plain norm, at
/// the scale of the layer's other experts, as if one token had come.
struct UnreachedExperts {
    /// Sums over sites of one role.
    private struct Sums {
        var sites = 0
        /// Of the means of C's and H's diagonals.
        var (input, output) = (0.0, 0.0)
        var tokens = 0
    }

    private var roles: [String: Sums] = [:]

    /// Adds what was measured at a site.
    ///
    /// - Parameters:
    ///   - input: C; `nil` without tokens.
    ///   - output: H over all tokens; `nil` where it was not measured.
    mutating func add(_ site: Site, _ input: Tensor?, _ output: OutputMetric?, tokens: Int) throws {
        guard site.tokenShare < 1, let input else { return }
        var sums = roles[Self.role(site), default: Sums()]
        sums.sites += 1
        sums.input += try input.diagonal().mean().item()
        sums.output += try output?.diagonal().mean().item() ?? 0
        sums.tokens += tokens
        roles[Self.role(site)] = sums
    }

    /// The statistics with multiples of the identity in place of what is missing.
    ///
    /// H of a mean expert is that of a token that reaches it times their share of all; one token's is
    /// ΣH / Σ tokens.
    ///
    /// - Parameter hasMetrics: Whether H was measured at all.
    func completed(_ statistics: SiteStatistics, hasMetrics: Bool, on device: Device) throws
        -> SiteStatistics
    {
        let site = statistics.site
        let lacksMetric = hasMetrics && statistics.output == nil
        guard site.tokenShare < 1, statistics.tokens == 0 || lacksMetric else { return statistics }
        let sums = roles[Self.role(site)]
        var (input, output) = (statistics.input, statistics.output)
        if statistics.tokens == 0 {
            let scale = sums.map { $0.input / Double($0.sites) } ?? 1
            input = try Tensor.identity(site.inputs, dtype: .float64, device: device) * scale
        }
        if lacksMetric {
            let scale = sums.map { $0.output / Double($0.tokens) } ?? 0
            output = try OutputMetric(
                diagonal: .full(
                    [site.outputs], max(scale, Double(Float.leastNormalMagnitude)),
                    device: device))
        }
        return SiteStatistics(
            site: site, input: input, output: output, activations: statistics.activations,
            tokens: statistics.tokens)
    }

    /// `gate_up_proj` or `down_proj`.
    private static func role(_ site: Site) -> String {
        site.name.split(separator: ".").last.map(String.init) ?? site.name
    }
}
