import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Mixtures of experts")
struct MoETests {
    private static let goldens = GoldenModel.all.filter { $0.name.hasPrefix("qwen3moe") }

    /// The expert of a site's name.
    private func expert(_ name: String) -> Int? {
        let parts = name.split(separator: ".")
        return parts.firstIndex(of: "experts").flatMap { Int(parts[$0 + 1]) }
    }

    @Test("layers are sparse where the configuration says so")
    func sparseLayers() throws {
        let layers = ["qwen3moe-normalised-v5": [0, 2], "qwen3moe-step2-bf16-v4": [1, 3]]
            .mapValues(Set.init)
        for golden in Self.goldens {
            let sites = try Checkpoint(path: golden.directory).sites()
            let sparse = sites.filter { $0.tokenShare < 1 }
            #expect(Set(sparse.map(\.layer)) == layers[golden.name])
            #expect(sparse.allSatisfy { expert($0.name) != nil && !$0.addsToResidual })
            let dense = sites.filter { $0.tokenShare == 1 }
            #expect(dense.allSatisfy { expert($0.name) == nil })
        }
        #expect(Self.goldens.count == layers.count)
    }

    @Test("every token reaches as many experts as are active", arguments: goldens)
    func tokensPerExpert(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let active = try checkpoint.config.int("num_experts_per_tok")
        let layers = Dictionary(
            grouping: try checkpoint.sites().filter { $0.tokenShare < 1 }, by: \.layer)
        let model = try checkpoint.loadModel()
        for length in [1, 5] {
            var reads: [String: Int] = [:]
            let ids = try Tensor.arange(3..<3 + 2 * length).reshape([2, length])
            _ = try model.run(ids) { name, input, _ in reads[name] = input.shape[1] }
            for sites in layers.values {
                let inputs = sites.filter { $0.name.hasSuffix(".gate_up_proj") }
                #expect(inputs.reduce(0) { $0 + (reads[$1.name] ?? 0) } == 2 * length * active)
                for (first, second) in zip(inputs, sites.filter { $0.members.count == 1 }) {
                    #expect(reads[first.name] == reads[second.name])
                }
            }
        }
    }

    /// A slow reference: all experts for all tokens, weighted by probabilities that are zero but for
    /// the largest.
    @Test("the layer is the weighted sum of its experts", arguments: goldens)
    func weightedSum(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let (layer, width) = (golden.name.hasSuffix("v5") ? 0 : 1, 24)
        let name = "model.layers.\(layer).mlp"
        func weight(_ role: String) throws -> Tensor {
            try checkpoint.tensor("\(name).\(role).weight").to(dtype: .float32)
        }
        let x = try Tensor.randn(
            [2, 7, width], generator: RandomGenerator(seed: 5, device: .cpu))
        let stream = try x * 0.5
        var weights = try WeightLoader(checkpoint, device: .cpu, dtype: .float32)
        let sizes = try Qwen3Moe.Configuration(checkpoint.config).experts
        let model = try checkpoint.loadModel()
        let context = try ForwardContext(
            batch: 2, tokens: 7, cache: nil, padding: nil, rotary: model.rotary, device: .cpu,
            dtype: .float32)
        let ours = try MoE(name, sizes, &weights)(x, addingTo: stream, context)

        let probabilities = try x.linear(weight("gate")).softmax()
        let threshold = try probabilities.topK(sizes.active).values
            .narrow(-1, sizes.active - 1..<sizes.active)
        var shares = try probabilities.maskedFill(threshold.isAtMost(probabilities).not(), 0)
        if sizes.isNormalised { shares = try shares / shares.sum([-1], keepDims: true) }
        var expected = stream
        for index in 0..<sizes.experts {
            let gate = try x.linear(weight("experts.\(index).gate_proj")).silu()
            let gated = try gate * x.linear(weight("experts.\(index).up_proj"))
            let output = try gated.linear(weight("experts.\(index).down_proj"))
            expected = try expected + output * shares.narrow(-1, index..<index + 1)
        }
        // Sums of at most 24 products and of the experts, each rounded to float32.
        let scale = try expected.abs().max().item()
        let largest = try (ours - expected).abs().max().item()
        #expect(largest <= 64 * scale * Double(Float.ulpOfOne))
    }

    @Test("an expert's substitute concerns its tokens alone", arguments: goldens)
    func substitutes(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let model = try checkpoint.loadModel()
        let row = try #require(golden.rows.last)
        var reached: Set<String> = []
        let before = try model.run(tokens([row])) { name, _, _ in reached.insert(name) }
        for site in try checkpoint.sites() where site.tokenShare < 1 {
            let zero = Dense(try .zeros([site.outputs, site.inputs]))
            let after = try model.run(tokens([row]), substitutes: [site.name: zero])
            #expect(try after.isIdentical(to: before) != reached.contains(site.name))
        }
    }

    @Test("gradients reach the input and every expert that was used", arguments: goldens)
    func gradients(golden: GoldenModel) throws {
        let model = try golden.load()
        let layer = golden.name.hasSuffix("v5") ? 0 : 1
        let x = try Tensor.randn(
            [1, 6, 24], generator: RandomGenerator(seed: 8, device: .cpu))
        try x.setRequiresGrad()
        var outputs: [Tensor] = []
        let context = try ForwardContext(
            batch: 1, tokens: 6, cache: nil, padding: nil, rotary: model.rotary, device: .cpu,
            dtype: .float32, observer: { outputs += $2 })
        let sum = try model.layer(layer, x, context).sum()
        let found = try sum.gradients([x] + outputs)
        #expect(outputs.count > 4 && found.allSatisfy { $0 != nil })
        // A step along the gradient changes the sum by the step times the gradient's square.
        let gradient = try #require(found[0])
        let square = try gradient.square().sum().item()
        let step = 1e-2 / square.squareRoot()
        func value(_ factor: Double) throws -> Double {
            try withoutGradients {
                let moved = try x.detach() + gradient * factor
                let other = try ForwardContext(
                    batch: 1, tokens: 6, cache: nil, padding: nil, rotary: model.rotary,
                    device: .cpu, dtype: .float32)
                return try model.layer(layer, moved, other).sum(dtype: .float64).item()
            }
        }
        let change = try (value(step) - value(-step)) / (2 * step)
        // The third derivative's term is of the order of the step's square; rounding is of the
        // order of ε over the step.
        #expect(abs(change / square - 1) < 1e-2)
    }

    @Test("inspection takes the experts of all layers together", arguments: goldens)
    func inspection(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let sizes = try Qwen3Moe.Configuration(checkpoint.config)
        let result = try InspectionResult(checkpoint)
        let roles = ["gate_proj", "up_proj", "down_proj"].map { "mlp.experts.*.\($0)" }
        let names = result.parts.map(\.name)
        let first = try #require(names.firstIndex(of: "mlp.gate"))
        #expect(names[(first + 1)...].prefix(3) == roles[...])
        for part in result.parts where roles.contains(part.name) {
            let (count, size) = (sizes.experts.experts, sizes.experts.intermediate * 24)
            let layers = sizes.isSparse.count { $0 }
            #expect(part.modules == layers * count && part.parameters == part.modules * size)
        }
        #expect(result.architecture["experts"] == "\(sizes.experts.experts)")
        #expect(result.architecture["active experts"] == "\(sizes.experts.active)")
    }

    @Test("a fused layout is refused by its tensors' names")
    func fused() throws {
        let golden = try #require(Self.goldens.first)
        let source = try Checkpoint(path: golden.directory)
        let scratch = try Scratch()
        let path = "\(scratch.path)/model"
        let prefix = "model.layers.0.mlp.experts."
        var tensors = try source.tensors.filter { !$0.name.hasPrefix(prefix) }
            .map { ($0.name, try source.tensor($0.name)) }
        tensors.append(("\(prefix)gate_up_proj", try .zeros([4, 20, 24])))
        try writeCheckpoint(tensors, config: source.config.json, to: path)
        do {
            try Checkpoint(path: path).checkModel()
            Issue.record("a fused layout loads")
        } catch CheckpointError.tensors(_, let mismatch) {
            #expect(mismatch.missing.contains("\(prefix)0.gate_proj.weight"))
            #expect(mismatch.unexpected == ["\(prefix)gate_up_proj"])
        }
    }
}
