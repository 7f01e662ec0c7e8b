import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// What benchmarks say of a small model; skipped where there is no GPU.
@Suite("Benchmarks on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct DecodeBenchGPUTests {
    let kernels: CUDAContext
    let checkpoint: Checkpoint

    init() throws {
        kernels = try .forTests(ofModels: true)
        checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
    }

    private func bench(_ speculation: DecodeBench.Speculation? = nil) -> DecodeBench {
        DecodeBench(
            kernels: kernels, context: 200, requests: [2], format: .bfloat16,
            steps: underRacecheck(4, otherwise: 40), repeats: 2, chunk: 64, seed: 1,
            tunesKernels: false, speculation: speculation
        ) { _ in }
    }

    /// All sites in two blocks of inputs, which takes a norm, copies and a SwiGLU of their own.
    private func cut() throws -> (source: RandomWeights, modules: [CompressionPlan.Module]) {
        let dense = FormatSpec(format: Dense.name)
        let modules = try checkpoint.sites().map { site in
            CompressionPlan.Module(
                name: site.name, outputs: site.outputs, inputs: site.inputs,
                spec: FormatSpec(
                    format: Blocks.name, inputModes: [site.inputs / 2, site.inputs / 2],
                    parts: [dense, dense]), parameters: 0, bytes: 0, damage: nil)
        }
        return (
            try RandomWeights(checkpoint.config, path: "test", seed: 7, plan: modules), modules
        )
    }

    /// Every launch of a step is in the table, and moves something.
    @Test func profilesAreWhole() throws {
        var runs: [BenchResult.Run] = []
        try bench().run(checkpoint, label: "dense") { runs.append($0) }
        try bench().run(cut().source, label: "cut") { runs.append($0) }
        let names = runs.map { $0.kernels.map(\.name) }
        let own = ["begin", "embed", "qkv", "attention", "o", "gate_up", "down", "head", "sample"]
        #expect(names[0] == own)
        #expect(Set(names[1]) == Set(own + ["norm", "columns", "swiglu"]))
        for kernel in runs.flatMap(\.kernels) {
            #expect(kernel.bytes > 0 && kernel.seconds > 0, "\(kernel.name)")
        }
        #expect(runs[1].kernels.first { $0.name == "columns" }?.launches == 6 * 4 * 2)
    }

    /// A site's costs are those of all its launches.
    @Test func costsAreWhole() throws {
        let (source, modules) = try cut()
        let rows = try bench().costs(of: source, modules: modules, label: "some", tokens: 1)
        #expect(rows.map(\.site) == ["qkv", "o", "gate_up", "down"])
        #expect(rows.allSatisfy { $0.label == "some" })
        #expect(rows.count == 4)
        let decoder = try CUDADecoder(
            DecoderWeights(source, kernels: kernels, context: 64) { _ in },
            layout: CUDALayout(slots: 1, context: 64, chunk: 16, buckets: [1]), kernels: kernels)
        let step = try decoder.makeStep(StepSize(bucket: 1, draftTokens: 0))
        func names(_ site: String) -> [String] {
            Array(step.filter { $0.site == site }.map(\.name).prefix(step.count / 6)).uniqued()
        }
        #expect(names("qkv") == ["norm", "columns", "qkv"])
        #expect(names("o") == ["columns", "o"])
        #expect(names("gate_up") == ["norm", "columns", "gate_up", "swiglu"])
        #expect(names("down") == ["columns", "down"])
    }

    /// Chosen numbers of proposals beside a fixed one, and prompts with the draft.
    @Test func proposalsAreChosen() throws {
        // Numbers are chosen over hundreds of steps.
        let automatic = underRacecheck(nil, otherwise: 2)
        var runs: [BenchResult.Run] = []
        try bench(
            .init(
                draft: .ngram, label: "n-gram", draftTokens: [2], automatic: automatic,
                lengths: [1, 2.5])
        ).run(checkpoint, label: "dense") { runs.append($0) }
        try #require(runs.count == (automatic == nil ? 3 : 5))
        for run in runs.dropFirst() {
            #expect(run.prefill?.tokens == 200 && (run.prefill?.seconds.median ?? 0) > 0)
            let speculation = try #require(run.speculation)
            #expect(speculation.draftTokens == 2 && speculation.round.seconds > 0)
        }
        #expect(runs[1].kernels.contains { $0.name == "draft ngram" && $0.bytes == 4 * 200 * 2 })
        #expect(runs.prefix(3).allSatisfy { $0.speculation?.shares == nil })
        guard automatic != nil else { return }
        for run in runs.suffix(2) {
            let shares = try #require(run.speculation?.shares)
            #expect(
                abs(shares.values.reduce(0, +) - 1) < 1e-9 && shares.keys.allSatisfy { $0 <= 2 })
            #expect(run.step.repetitions == 5)
        }
        let useless = try #require(runs[3].speculation)
        // Proposals cost next to nothing beside so small a model: that none are chosen where they cost
        // something is for simulated devices to show.
        #expect(useless.acceptanceLength == 1 && useless.shares?[0] ?? 0 > 0, "\(useless)")
        let right = try #require(runs[4].speculation)
        #expect(right.acceptanceLength > 1 && right.acceptanceLength <= 2.5, "\(right)")
    }
}

extension Array where Element: Hashable {
    /// Each element once, in the order in which they come first.
    fileprivate func uniqued() -> Self {
        var seen: Set<Element> = []
        return filter { seen.insert($0).inserted }
    }
}
