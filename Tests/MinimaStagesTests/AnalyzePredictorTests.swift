import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels
@testable import MinimaStages

@Suite("Sensitivity predictor")
struct AnalyzePredictorTests {
    /// Sites of an invented model: every patch has a spectrum of its own decay.
    private func sites(layers: Int, heads: Int, seed: UInt64) -> [SiteAnalysis] {
        var random = SplitMix(seed)
        return (0..<layers).flatMap { layer in
            ["q_proj", "down_proj"].map { role -> SiteAnalysis in
                let patches = (0..<heads).map { index -> PatchAnalysis in
                    let decay = Double.random(in: 0.05...0.3, using: &random)
                    let kurtosis = Double.random(in: 2...8, using: &random)
                    let trace = Double.random(in: 0.1...1, using: &random)
                    let spectrum = (0..<32).map { -Double($0) * decay }
                    return PatchAnalysis(
                        module: "layers.\(layer).\(role)", index: index, row: index * 32, rows: 32,
                        column: 0, columns: 48,
                        statistics: [
                            "magnitude": 0.1, "sparsity": 0.08, "kurtosis": kurtosis,
                            "condition": 100, "trace": trace, "rank": 0.3, "gradient": 1,
                            "activation": 1,
                        ], spectra: ["weight": spectrum, "weighted": spectrum])
                }
                return SiteAnalysis(
                    name: "layers.\(layer).\(role)", layer: layer, outputs: 32 * heads, inputs: 48,
                    members: [.init(name: "layers.\(layer).\(role)", outputs: 32 * heads)],
                    patches: patches,
                    activations: ActivationSummary(
                        rms: 1, largest: 4, outlierChannels: [], massiveTokens: 0),
                    cuts: [])
            }
        }
    }

    /// Damage that the closed form ranks badly: the same error costs more in steep spectra, in heavy
    /// tails and in early layers.
    private func probes(_ sites: [SiteAnalysis], count: Int, seed: UInt64) throws -> [Probe] {
        var random = SplitMix(seed)
        let layers = Double((sites.map(\.layer).max() ?? 0) + 1)
        return try (0..<count).map { _ in
            let site = try #require(sites.randomElement(using: &random))
            let patch = Int.random(in: site.patches.indices, using: &random)
            let found = site.patches[patch]
            let error = try Tensor([Double.random(in: -8 ... -5, using: &random)]).exp().item()
            let decay = -(found.spectra["weight"]?.last ?? 0) / 31
            let kurtosis = found.statistics["kurtosis"] ?? 3
            let correction =
                12 * (decay - 0.15) + 0.5 * (kurtosis - 5) - 2 * Double(site.layer) / layers
            return Probe(
                site: site.name, patch: patch,
                spec: FormatSpec(
                    format: "lowrank", ranks: [Int.random(in: 4...16, using: &random)]),
                error: error, divergence: try error * Tensor([correction]).exp().item())
        }
    }

    @Test func learnsALaw() throws {
        let sites = sites(layers: 6, heads: 6, seed: 1)
        let probes = try probes(sites, count: 160, seed: 2)
        let judged = try PredictorEvaluation.judge(
            sites, probes, given: nil, file: nil, seed: 5, progress: { _ in })
        let learned = try #require(judged.summary.spearman)
        let closed = try #require(judged.summary.closedFormSpearman)
        #expect(learned > 0.9 && closed < 0.75, "\(learned), \(closed)")
        #expect(judged.summary.used == "predictor")
        #expect(judged.summary.heldOutProbes == 160 && judged.summary.trainingProbes == 160)
        #expect(judged.probes.allSatisfy { $0.predicted != nil })

        // On a model of another depth and width that it never saw.
        let others = self.sites(layers: 9, heads: 4, seed: 11)
        let unseen = try self.probes(others, count: 100, seed: 12)
        let there = try PredictorEvaluation.judge(
            others, unseen, given: judged.predictor, file: "p", seed: 0, progress: { _ in })
        let transferred = try #require(there.summary.spearman)
        #expect(transferred > 0.85, "\(transferred)")
        #expect(there.summary.trainingProbes == 0 && there.summary.file == "p")
    }

    /// What cannot be learned is not used.
    @Test func theClosedFormWinsWhereItIsRight() throws {
        let sites = sites(layers: 3, heads: 4, seed: 1)
        var probes = try probes(sites, count: 60, seed: 2)
        for index in probes.indices { probes[index].divergence = 2 * probes[index].error }
        let judged = try PredictorEvaluation.judge(
            sites, probes, given: nil, file: nil, seed: 5, progress: { _ in })
        #expect(judged.summary.closedFormSpearman == 1)
        if judged.summary.used == "closed form" {
            #expect(abs(try Tensor([judged.model.offset]).exp().item() - 2) < 1e-9)
        } else {
            #expect(judged.summary.spearman == 1)
        }
    }

    @Test func foldsNeverShareAPatch() throws {
        let sites = sites(layers: 3, heads: 4, seed: 1)
        let probes = try probes(sites, count: 60, seed: 2)
        let lesson = try SensitivityPredictor.Lesson(sites, probes, seed: 4)
        let places = zip(probes, lesson.folds).map { ("\($0.site) \($0.patch)", $1) }
        for (_, group) in Dictionary(grouping: places, by: \.0) {
            #expect(Set(group.map(\.1)).count == 1)
        }
        #expect(Set(lesson.folds) == Set(0..<SensitivityPredictor.folds))
    }

    @Test func isDeterministicAndReloads() throws {
        let sites = sites(layers: 3, heads: 4, seed: 1)
        let probes = try probes(sites, count: 60, seed: 2)
        let lesson = try SensitivityPredictor.Lesson(sites, probes, seed: 4)
        let short = SensitivityPredictor.Training(epochs: 30)
        let first = try SensitivityPredictor.train([lesson], seed: 9, training: short)
        let second = try SensitivityPredictor.train([lesson], seed: 9, training: short)
        #expect(first.heldOut == second.heldOut)
        let scratch = try Scratch()
        let path = "\(scratch.path)/predictor.safetensors"
        try first.predictor.write(to: path, notes: ["model": "invented"])
        let loaded = try SensitivityPredictor(path: path)
        let map = try PatchMap(sites)
        let candidates = try probes.map { try Candidate($0, sites, map) }
        let (a, b) = (
            try first.predictor.predict(candidates, map), try loaded.predict(candidates, map)
        )
        #expect(a.map(\.mean) == b.map(\.mean) && a.map(\.deviation) == b.map(\.deviation))
        #expect(throws: PredictorError.self) {
            try SensitivityPredictor(
                path: "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5/model.safetensors"
            )
        }
    }

    /// An untrained network repeats the closed form.
    @Test func beginsAtTheClosedForm() throws {
        let sites = sites(layers: 2, heads: 3, seed: 1)
        let probes = try probes(sites, count: 10, seed: 2)
        let map = try PatchMap(sites)
        let candidates = try probes.map { try Candidate($0, sites, map) }
        let network = try SensitivityNetwork(seed: 1)
        let said = try SensitivityPredictor(members: [network]).predict(candidates, map)
        #expect(said.map(\.mean) == candidates.map(\.logError))
        #expect(network.parameters.reduce(0) { $0 + $1.count } < 10_000)
    }

    @Test func sensitivityIsMonotone() throws {
        let sites = sites(layers: 4, heads: 4, seed: 1)
        let found = try DamageModel(closedForm: []).applied(to: sites)
        let patches = found.flatMap(\.patches)
        let errors = patches.enumerated().map {
            Sensitivity.lowRank($1, index: $0, fraction: Sensitivity.referenceBudget).error
        }
        #expect(Ranking.spearman(errors, patches.map(\.sensitivity)) == 1)
        #expect(patches.allSatisfy { (0...1).contains($0.sensitivity) && $0.uncertainty == 0 })
        let fragile = patches.max { $0.sensitivity < $1.sensitivity }?.recommendation
        let indifferent = patches.min { $0.sensitivity < $1.sensitivity }?.recommendation
        #expect((fragile?.ranks.first ?? 99) >= (indifferent?.ranks.first ?? 0))
    }
}
