import Glibc
import MinimaCore
import MinimaModels
import MinimaTensor

/// What the damage of options is taken from: the predictor, or the closed form alone, whichever ranks
/// measured damage better.
struct DamageModel {
    /// The predictor, where it is used.
    let predictor: SensitivityPredictor?
    /// Added to the logarithm of the closed form where there is no predictor: the mean over the probes
    /// of the logarithm of measured over closed form.
    let offset: Double
    /// Standard deviation of that logarithm, 0 without probes.
    let spread: Double

    init(predictor: SensitivityPredictor) {
        self.predictor = predictor
        (offset, spread) = (0, 0)
    }

    /// The closed form, scaled to `probes`.
    init(closedForm probes: [Probe]) {
        predictor = nil
        let ratios = probes.map {
            log(max($0.divergence, Candidate.smallest)) - log(max($0.error, Candidate.smallest))
        }
        let count = Double(max(ratios.count, 1))
        let mean = ratios.reduce(0, +) / count
        offset = mean
        spread = (ratios.reduce(0) { $0 + ($1 - mean) * ($1 - mean) } / count).squareRoot()
    }

    /// Mean and standard deviation of the logarithm of the damage.
    func predict(_ candidates: [Candidate], _ map: PatchMap) throws -> [(
        mean: Double, deviation: Double
    )] {
        if let predictor { return try predictor.predict(candidates, map) }
        return candidates.map { ($0.logError + offset, spread) }
    }

    /// `sites` with the damage of every option and the sensitivity of every patch.
    func applied(to sites: [SiteAnalysis]) throws -> [SiteAnalysis] {
        let map = try PatchMap(sites)
        var sites = sites
        for index in sites.indices { try applyDamage(to: &sites[index], map) }
        try Sensitivity(model: self, map: map).apply(to: &sites)
        return sites
    }

    private func applyDamage(to site: inout SiteAnalysis, _ map: PatchMap) throws {
        let first = map.first[site.name] ?? 0
        for cut in site.cuts.indices {
            for piece in site.cuts[cut].pieces.indices {
                let place = site.cuts[cut].pieces[piece]
                let patches = place.overlaps(site.patches).map { ($0.index + first, $0.share) }
                // Energies of patches in different rows or columns add up but for what couples them.
                let trace = place.overlaps(site.patches).reduce(0.0) {
                    $0 + (site.patches[$1.index].statistics["trace"] ?? 0) * $1.covered
                }
                let dense = Double(max(place.rows * place.columns, 1))
                let candidates = place.options.map {
                    Candidate(
                        patches: patches, spec: $0.spec, retained: Double($0.parameters) / dense,
                        error: $0.error, trace: trace)
                }
                for (option, said) in try predict(candidates, map).enumerated() {
                    let exact = place.options[option].error == 0
                    site.cuts[cut].pieces[piece].options[option].damage =
                        exact ? 0 : significant(exp(said.mean))
                }
            }
        }
    }
}

extension SiteAnalysis.Piece {
    /// The patches that this piece overlaps: which share of the piece each makes up, and which share
    /// of the patch is covered.
    func overlaps(_ patches: [PatchAnalysis]) -> [(index: Int, share: Double, covered: Double)] {
        let areas = patches.map { patch in
            let height = min(row + rows, patch.row + patch.rows) - max(row, patch.row)
            let width =
                min(column + columns, patch.column + patch.columns) - max(column, patch.column)
            return max(height, 0) * max(width, 0)
        }
        let total = Double(max(areas.reduce(0, +), 1))
        return areas.indices.filter { areas[$0] > 0 }.map { index in
            let size = Double(patches[index].rows * patches[index].columns)
            return (index, Double(areas[index]) / total, Double(areas[index]) / size)
        }
    }
}
