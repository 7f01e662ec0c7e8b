import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

/// Experts in every stage, with text so short that some see no token.
@Suite("Experts in the stages")
struct ExpertTests {
    static let models = ["qwen3moe-normalised-v5", "qwen3moe-step2-bf16-v4"]
    private let short = [CalibrationSource(name: "short", windows: [[5]])]

    @Test("experts without tokens get the plain norm", arguments: models)
    func unreached(name: String) throws {
        let scratch = try Scratch()
        let calibrator = try smallCalibrator(
            name, gradientWindows: 1, directory: scratch.path, sources: short)
        let (tokens, read) = (
            try calibrator.source.config.int("num_experts_per_tok"), calibrator.store
        )
        try calibrator.run { statistics, _ in
            let experts = statistics.sites.filter { $0.site.tokenShare < 1 }
            #expect(experts.reduce(0) { $0 + $1.tokens } == (experts.isEmpty ? 0 : 2 * tokens))
            for site in experts where site.tokens == 0 {
                let scale = try site.input.select(0, 0).select(0, 0).item()
                let plain = try Tensor.identity(site.site.inputs, dtype: .float64) * scale
                #expect(try scale > 0 && site.input.isIdentical(to: plain))
                #expect(try #require(site.output).runs.map(\.shape) == [[site.site.outputs, 1, 1]])
                #expect(site.activations.rms == 0)
            }
            let stored = try #require(try read?.load(layer: statistics.layer))
            #expect(try Numbers(stored) == Numbers(statistics))
        }
    }

    /// H of an expert is a mean over all tokens: experts in equal parts have H of equal size.
    @Test("damage is a mean over all tokens", arguments: models)
    func metric(name: String) throws {
        let calibrator = try smallCalibrator(name, gradientWindows: 100)
        let model = try goldenModel(name).loadModel()
        let sites = try goldenModel(name).sites()
        let layer = try #require(sites.last { $0.tokenShare < 1 }?.layer)
        var norms: [String: Double] = [:]
        var all = 0.0
        for (index, batch) in calibrator.batches.enumerated() {
            var outputs: [(String, Tensor)] = []
            let ids = try TokenWindows.tensor(batch.windows)
            let context = try ForwardContext(
                batch: batch.windows.count, tokens: batch.length, cache: nil, padding: nil,
                rotary: model.rotary, device: .cpu, dtype: .float32,
                observer: { name, _, parts in outputs += parts.map { (name, $0) } })
            var x = try model.embed(ids).detach()
            try x.setRequiresGrad()
            for layer in 0..<model.dimensions.layers { x = try model.layer(layer, x, context) }
            let logits = try model.logits(model.normed(x)).to(dtype: .float32).reshape([
                batch.tokens, -1,
            ])
            let labels = try withoutGradients {
                try calibrator.labels(logits.detach(), index, 0..<batch.tokens)
            }
            let gradients = try logits.crossEntropy(labels).sum().gradients(outputs.map(\.1))
            for ((name, _), gradient) in zip(outputs, gradients) {
                let square = try #require(gradient).square().sum(dtype: .float64).item()
                norms[name, default: 0] += batch.weight * square
            }
            all += batch.weight * Double(batch.tokens)
        }
        try calibrator.run(isNeeded: { $0 == layer }) { statistics, _ in
            for site in statistics.sites where site.tokens > 0 {
                let trace = try #require(site.output).diagonal().sum(dtype: .float64).item()
                let exact = try #require(norms[site.site.name]) / all
                #expect(abs(trace / exact - 1) < 1e-4, "\(site.site.name)")
            }
        }
    }

    @Test(
        "experts are compressed, with and without compensation",
        arguments: models, [Compensation.off, .standard, .automatic])
    func compress(name: String, compensation: Compensation) throws {
        let source = try goldenModel(name)
        let sites = try source.sites()
        let plan = try CompressionPlan.uniform(
            source, ratio: 0.3, format: "lowrank", version: "test")
        #expect(plan.modules.count == sites.flatMap(\.members).count)
        let scratch = try Scratch()
        let sources = [
            CalibrationSource(
                name: "short", windows: (0..<5).map { [Int32($0 + 3), Int32($0 + 4)] })
        ]
        let path = "\(scratch.path)/out"
        let request = try compression(source, plan, compensation: compensation, sources: sources)
        _ = try Compressor(source, request).run(output: path)
        let compressed = try Checkpoint(path: path)
        let ids = try Tensor([3, 4, 5, 6, 7, 8] as [Int64], shape: [1, 6])
        let model = try compressed.loadModel()
        #expect(try model.logits(model.run(ids)).isFinite().not().sum().item() == 0)
    }

    @Test("experts are analysed and probed", arguments: models)
    func analyse(name: String) throws {
        let source = try goldenModel(name)
        var request = Analyzer.Request(
            sources: [CalibrationSource(name: "short", windows: [[5], [9, 11]])],
            calibration: CalibrationSettings(gradientWindows: 1, seed: 1),
            probeWindows: [[3, 4, 5, 6], [7, 8, 9, 10]], version: "test")
        request.probes = 12
        request.survey.formats = ["lowrank"]
        let (analysis, _) = try Analyzer(source, request).run()
        #expect(analysis.sites.map(\.name) == (try source.sites().map(\.name)))
        for option in analysis.sites.flatMap(\.cuts).flatMap(\.pieces).flatMap(\.options) {
            #expect(option.damage.isFinite && (option.error == 0) == (option.damage == 0))
        }
        #expect(analysis.probes.count == 12)
        #expect(analysis.probes.allSatisfy { $0.divergence.isFinite && $0.divergence >= 0 })
    }
}
