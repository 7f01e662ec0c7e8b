import Glibc
import MinimaCore
import MinimaFormats
import MinimaTensor

/// The sensitivity of patches, 0 (indifferent) to 1 (fragile), and the budgets that follow from it.
///
/// A patch's sensitivity is the logistic function of the logarithm of the damage predicted when a low
/// rank replaces it with ``referenceBudget`` of its parameters. The model's 5th percentile of that
/// logarithm becomes 0.05 and its 95th 0.95, so that sensitivities compare patches of one model.
///
/// The budget recommended for a patch is the smallest format with ranks whose predicted damage is at
/// most the patch's share: the total damage of all patches at the reference budget, divided among them
/// by their parameters. Fragile patches get more than the reference budget, indifferent ones less.
struct Sensitivity {
    /// Share of the parameters that is kept.
    static let referenceBudget = 0.65
    /// Quantiles of the logarithm that become sensitivities of the same value.
    private static let quantiles = (low: 0.05, high: 0.95)

    let model: DamageModel
    let map: PatchMap

    func apply(to sites: inout [SiteAnalysis]) throws {
        let patches = sites.flatMap(\.patches)
        guard !patches.isEmpty else { return }
        let candidates = patches.enumerated().map { index, patch in
            Self.lowRank(patch, index: index, fraction: Self.referenceBudget)
        }
        let said = try model.predict(candidates, map)
        let means = said.map(\.mean)
        let low = Ranking.quantile(means, Self.quantiles.low)
        let high = Ranking.quantile(means, Self.quantiles.high)
        let (middle, half) = ((low + high) / 2, max((high - low) / 2, 1e-6))
        let slope = log(Self.quantiles.high / Self.quantiles.low) / half
        let total = means.reduce(0) { $0 + exp($1) }
        let parameters = patches.reduce(0.0) { $0 + Double($1.rows * $1.columns) }
        var index = 0
        for site in sites.indices {
            for patch in sites[site].patches.indices {
                let value = 1 / (1 + exp(-slope * (means[index] - middle)))
                // To first order.
                let deviation = said[index].deviation * slope * value * (1 - value)
                let size = Double(patches[index].rows * patches[index].columns)
                let share = total * size / parameters
                sites[site].patches[patch].sensitivity = significant(value)
                sites[site].patches[patch].uncertainty = significant(deviation)
                sites[site].patches[patch].recommendation = try recommendation(
                    sites[site], patches[index], index: index, share: share)
                index += 1
            }
        }
    }

    /// The smallest format with ranks, or dense, of at most `share` predicted damage.
    private func recommendation(
        _ site: SiteAnalysis, _ patch: PatchAnalysis, index: Int, share: Double
    ) throws -> FormatSpec {
        let dense = FormatSpec(format: Dense.name)
        let piece = site.cuts.first { $0.kind == "patches" }?.pieces.first {
            $0.row == patch.row && $0.rows == patch.rows && $0.column == patch.column
                && $0.columns == patch.columns
        }
        if let piece {
            let allowed = piece.options.filter {
                $0.damage <= share && $0.spec.bits == nil && $0.spec.parts.isEmpty
            }
            return allowed.min { $0.parameters < $1.parameters }?.spec ?? dense
        }
        let candidates = (1...16).map {
            Self.lowRank(patch, index: index, fraction: Double($0) / 17)
        }
        let said = try model.predict(candidates, map)
        let fitting = zip(candidates, said).filter { exp($1.mean) <= share }
        return fitting.min { $0.0.retained < $1.0.retained }?.0.spec ?? dense
    }

    /// A low rank with `fraction` of the patch's parameters; its error comes from the resampled
    /// spectrum.
    static func lowRank(_ patch: PatchAnalysis, index: Int, fraction: Double) -> Candidate {
        let (m, n) = (patch.rows, patch.columns)
        let rank = max(Int(fraction * Double(m * n) / Double(m + n)), 1)
        let trace = patch.statistics["trace"] ?? 0
        let logarithms = patch.spectra["weighted"] ?? []
        let powers = logarithms.map { exp(2 * ($0 - (logarithms.first ?? 0))) }
        let start = Double(rank) / Double(min(m, n)) * Double(powers.count)
        let tail = powers.indices.reduce(0.0) { sum, place in
            sum + powers[place] * min(max(Double(place + 1) - start, 0), 1)
        }
        let whole = max(powers.reduce(0, +), 1e-300)
        return Candidate(
            patches: [(index, 1)], spec: FormatSpec(format: LowRank.name, ranks: [rank]),
            retained: Double(rank * (m + n)) / Double(m * n), error: trace * tail / whole,
            trace: trace)
    }
}
