import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Probes")
struct AnalyzeProbeTests {
    let source: Checkpoint
    let windows: [[Int32]]

    init() throws {
        source = try goldenModel("qwen3-gqa4-tied-v5")
        let vocabulary = try source.config.int("vocab_size")
        windows = (0..<3).map { someTokens(24, vocabulary: vocabulary, seed: $0 + 1) }
    }

    private func substitutes(_ count: Int) throws -> [PatchSubstitute] {
        let sites = try source.sites()
        let design = try ProbeDesign(sites, count: count, seed: 3, formats: ["lowrank"])
        return try design.entries.map { entry in
            let site = try #require(sites.first { $0.name == entry.site })
            let weight = try source.stackedWeight(site, on: .cpu).to(dtype: .float32)
            let metric = try Metric(input: Tensor.identity(site.inputs, dtype: .float64))
            return try PatchSubstitute(entry, weight: weight, metric: metric)
        }
    }

    /// A model whose substitutes are built in, for the evaluator.
    private struct Replaced: LanguageModel {
        static let modelTypes: [String] = []
        static func sites(_ config: ModelConfig) throws -> [Site] { [] }
        static func layerPrefix(_ index: Int) -> String { "" }
        let base: any LanguageModel
        let substitutes: Substitutes

        init(base: any LanguageModel, substitutes: Substitutes) {
            (self.base, self.substitutes) = (base, substitutes)
        }

        init(
            _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
        ) throws {
            throw StageError.noOptions(site: "none")
        }

        var dimensions: ModelDimensions { base.dimensions }
        var rotary: RotaryEmbedding { base.rotary }
        var device: Device { base.device }
        var dtype: DType { base.dtype }
        var head: Linear { base.head }
        func embed(_ tokens: Tensor) throws -> Tensor { try base.embed(tokens) }
        func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor {
            let own = try ForwardContext(
                batch: context.batch, tokens: context.tokens, cache: nil, padding: nil,
                rotary: rotary, device: device, dtype: dtype, substitutes: substitutes)
            return try base.layer(index, x, own)
        }
        func normed(_ x: Tensor) throws -> Tensor { try base.normed(x) }
    }

    @Test func divergenceIsTheEvaluators() throws {
        let probes = try substitutes(8)
        let found = try ProbeRunner(source, windows: windows, device: .cpu).measure(probes)
        let dense = try source.loadModel()
        let sites = try source.sites()
        for (probe, divergence) in zip(probes, found) {
            let site = try #require(sites.first { $0.name == probe.entry.site })
            let weight = try source.stackedWeight(site, on: .cpu).to(dtype: .float32).clone()
            try weight.narrow(0, probe.entry.rowRange).narrow(1, probe.entry.columnRange)
                .copy(from: probe.values)
            let replaced = Replaced(base: dense, substitutes: [site.name: Dense(weight)])
            let expected = try #require(
                try Evaluator(replaced, against: dense).measure(windows).kl)
            // The same operators on the same shapes: only sums over windows differ in order.
            #expect(abs(divergence - expected) <= 1e-6 * max(expected, 1e-3))
            #expect(divergence > 0)
        }
    }

    /// Loading one layer at a time gives what the whole model gives.
    @Test func streamingIsTheSame() throws {
        let probes = try substitutes(4)
        let whole = try ProbeRunner(source, windows: windows, device: .cpu).measure(probes)
        let streamed = try ProbeRunner(
            source, windows: windows, device: .cpu, keepsModel: false
        ).measure(probes)
        #expect(whole == streamed)
    }

    @Test func canBeCancelled() throws {
        struct Enough: Error {}
        let runner = try ProbeRunner(source, windows: windows, device: .cpu)
        let probes = try substitutes(2)
        #expect(throws: Enough.self) {
            try runner.measure(probes) { step in if step.done == 2 { throw Enough() } }
        }
        #expect(throws: StageError.self) {
            try ProbeRunner(source, windows: [[1]], device: .cpu)
        }
    }
}
