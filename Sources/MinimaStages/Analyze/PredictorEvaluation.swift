import Glibc
import MinimaCore

/// How well damage is predicted, and what follows from it: by which model the damage of options is
/// predicted.
struct PredictorEvaluation {
    /// The better of predictor and closed form.
    let model: DamageModel
    /// The predictor, used or not; `nil` where there are too few probes to train one.
    let predictor: SensitivityPredictor?
    /// The probes with what the predictor said of each without having seen its patch.
    let probes: [Probe]
    /// Correlations.
    let summary: PredictorSummary

    /// Probes below which no predictor is trained: five folds of four.
    static let fewestProbes = 20

    /// Trains a predictor on `probes`, or takes a given one, and compares it with the closed form on
    /// patches that it has not seen.
    ///
    /// - Parameters:
    ///   - given: A predictor trained elsewhere; all probes are then held out.
    ///   - file: Where that one came from.
    static func judge(
        _ sites: [SiteAnalysis], _ probes: [Probe], given: SensitivityPredictor?, file: String?,
        seed: UInt64, progress: ProgressHandler
    ) throws -> PredictorEvaluation {
        let closedForm = DamageModel(closedForm: probes)
        var (predictor, said) = (given, [Double]())
        if let given {
            let map = try PatchMap(sites)
            let candidates = try probes.map { try Candidate($0, sites, map) }
            said = try given.predict(candidates, map).map(\.mean)
        } else if probes.count >= fewestProbes {
            let lesson = try SensitivityPredictor.Lesson(sites, probes, seed: seed)
            let trained = try SensitivityPredictor.train([lesson], seed: seed, progress: progress)
            (predictor, said) = (trained.predictor, trained.heldOut[0])
        }
        let divergences = probes.map(\.divergence)
        let closed = Ranking.spearman(probes.map(\.error), divergences)
        let learned = said.isEmpty ? nil : Ranking.spearman(said, divergences)
        // Without probes, a predictor that was given is taken at its word.
        let isUsed = predictor != nil && (learned ?? 1) >= (closed ?? -1)
        var model = closedForm
        if isUsed, let predictor { model = DamageModel(predictor: predictor) }
        let judged = probes.indices.map { index in
            var probe = probes[index]
            if !said.isEmpty { probe.predicted = significant(exp(said[index])) }
            return probe
        }
        return PredictorEvaluation(
            model: model, predictor: predictor, probes: judged,
            summary: PredictorSummary(
                file: file, trainingProbes: given == nil && predictor != nil ? probes.count : 0,
                heldOutProbes: said.count, spearman: learned.map { significant($0) },
                closedFormSpearman: closed.map { significant($0) },
                used: isUsed ? "predictor" : "closed form"))
    }
}
