import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

@testable import MinimaModels

@Suite("Random weights")
struct RandomWeightsTests {
    private let folder = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"

    @Test("every family's sizes load without files of weights", arguments: GoldenModel.all)
    func families(golden: GoldenModel) throws {
        let random = try RandomWeights(path: golden.directory, seed: 1)
        let row = try #require(golden.rows.first)
        let model = try random.loadModel()
        let logits = try model.logits(model.run(tokens([row])))
        #expect(logits.shape == [1, row.count, model.dimensions.vocabulary])
        #expect(try logits.isFinite().not().sum().item() == 0)
        let stored = try Checkpoint(path: golden.directory)
        #expect(try random.sites() == stored.sites())
    }

    @Test func valuesDependOnSeedAndName() throws {
        let (one, two) = (
            try RandomWeights(path: folder, seed: 1), try RandomWeights(path: folder, seed: 2)
        )
        let first = try one.tensor("a.weight", shape: [64, 32], on: .cpu)
        #expect(try first.isIdentical(to: one.tensor("a.weight", shape: [64, 32], on: .cpu)))
        #expect(try !first.isIdentical(to: one.tensor("b.weight", shape: [64, 32], on: .cpu)))
        #expect(try !first.isIdentical(to: two.tensor("a.weight", shape: [64, 32], on: .cpu)))
        #expect(try one.fingerprints { _, _ in } != two.fingerprints { _, _ in })
    }

    @Test func matricesKeepTheScaleOfTheirInput() throws {
        let random = try RandomWeights(path: folder, seed: 3)
        let matrix = try random.tensor("a.weight", shape: [256, 400], on: .cpu)
        // The mean of 102 400 squares with mean 1/400 has a relative deviation of √(2/102400).
        let mean = try matrix.to(dtype: .float64).square().mean().item() * 400
        #expect(abs(mean - 1) < 5 * (2.0 / 102_400).squareRoot())
        #expect(
            try random.tensor("a.bias", shape: [3], on: .cpu).values(as: Float.self) == [0, 0, 0])
        #expect(
            try random.tensor("norm.weight", shape: [2], on: .cpu).values(as: Float.self) == [1, 1])
    }

    @Test func tiedHeadsStayTied() throws {
        let random = try RandomWeights(path: folder, seed: 1)
        #expect(!random.holds("lm_head.weight") && random.holds("model.norm.weight"))
        #expect(try !random.checkModel().contains { $0.name == "lm_head.weight" })
        let untied = try RandomWeights(
            path: "\(GoldenModel.folder)/qwen3-gqa3-untied-bf16-v4", seed: 1)
        #expect(try untied.checkModel().contains { $0.name == "lm_head.weight" })
    }
}

/// A way of storing a weight, and how large its outputs are for inputs of 1.
private struct Storage: CustomTestStringConvertible, Sendable {
    let testDescription: String
    let spec: @Sendable (_ outputs: Int, _ inputs: Int) throws -> FormatSpec
    let scale: @Sendable (FormatSpec) -> Double

    init(
        _ name: String, scale: @escaping @Sendable (FormatSpec) -> Double = { _ in 1 },
        _ spec: @escaping @Sendable (_ outputs: Int, _ inputs: Int) throws -> FormatSpec
    ) {
        testDescription = name
        self.spec = spec
        self.scale = scale
    }

    /// Every format with a budget, and the dense one.
    static let plain =
        FormatRegistry.all.compactMap { $0 as? any BudgetedFormat.Type }.map { format in
            let isSum = [CP.name, BlockTerm.name].contains(format.name)
            return Storage(
                format.name,
                // Terms are products of two factors that each sum over all of them.
                scale: { isSum ? 1 / Double($0.ranks[0]).squareRoot() : 1 },
                { outputs, inputs in
                    let count = outputs * inputs
                    return try format.spec(
                        fitting: format == Dense.self ? count : count * 6 / 10, outputs: outputs,
                        inputs: inputs)
                })
        }

    /// Those quantised, in groups and in whole rows, at every number of bits.
    static let quantized = plain.flatMap { inner in
        [2, 3, 4, 5, 6, 8].map { bits in
            Storage(
                "\(inner.testDescription) int\(bits)", scale: { inner.scale($0.parts[0]) },
                { outputs, inputs in
                    FormatSpec(
                        format: Quantized.name, bits: bits, groupSize: bits % 2 == 0 ? 16 : nil,
                        parts: [try inner.spec(outputs, inputs)])
                })
        }
    }

    /// Weights made of others.
    static let composite: [Storage] = {
        @Sendable func pivots(_ rank: Int) -> FormatSpec {
            FormatSpec(format: Interpolative.name, ranks: [rank])
        }
        @Sendable func coded(_ part: FormatSpec) -> FormatSpec {
            FormatSpec(format: Quantized.name, bits: 4, groupSize: 32, parts: [part])
        }
        let rank = FormatSpec(format: LowRank.name, ranks: [5])
        return [
            Storage("sum", scale: { Double($0.parts.count).squareRoot() }) { _, _ in
                FormatSpec(
                    format: Sum.name,
                    parts: [
                        coded(pivots(12)), rank, FormatSpec(format: Sparse.name, ranks: [400]),
                    ])
            },
            Storage("quantised sum", scale: { _ in Double(2).squareRoot() }) { _, _ in
                coded(FormatSpec(format: Sum.name, parts: [pivots(12), rank]))
            },
            Storage("blocks of rows") { outputs, _ in
                FormatSpec(
                    format: Blocks.name, outputModes: [outputs / 4, outputs * 3 / 4],
                    parts: [pivots(7), coded(pivots(6))])
            },
            Storage("blocks of columns", scale: { _ in Double(2).squareRoot() }) { _, inputs in
                FormatSpec(
                    format: Blocks.name, inputModes: [inputs / 2, inputs / 2],
                    parts: [pivots(9), FormatSpec(format: Sparse.name, ranks: [700])])
            },
            Storage("quantised blocks") { outputs, _ in
                coded(
                    FormatSpec(
                        format: Blocks.name, outputModes: [outputs / 2, outputs / 2],
                        parts: [pivots(9), FormatSpec(format: Dense.name)]))
            },
        ]
    }()

    static let all = plain + quantized + composite
}

@Suite("Random weights that are not dense")
struct RandomPlanTests {
    /// Sizes of a model of `type` with two layers, `scale` times the smallest.
    private static func config(_ type: String, scale: Int = 1) throws -> ModelConfig {
        let sizes: [(JSON.Name, Int)] = [
            ("hidden_size", 64 * scale), ("intermediate_size", 96 * scale),
            ("num_hidden_layers", 2), ("num_attention_heads", 4 * scale),
            ("num_key_value_heads", 2 * scale), ("head_dim", 16),
            ("vocab_size", 80), ("max_position_embeddings", 128), ("rope_theta", 10_000),
        ]
        var members: [(JSON.Name, JSON)] = [
            ("model_type", .string(type)), ("dtype", .string("float32")),
            ("tie_word_embeddings", .bool(false)), ("attention_bias", .bool(false)),
            ("hidden_act", .string("silu")), ("rms_norm_eps", .number(1e-6)),
        ]
        members += sizes.map { ($0, .integer(Int64($1))) }
        return try ModelConfig(
            json: .object(.init(uniqueKeysWithValues: members)), path: "tiny/config.json")
    }

    /// Every site, or every member alone, in `storage`.
    private static func plan(_ config: ModelConfig, _ storage: Storage, stacked: Bool) throws
        -> [CompressionPlan.Module]
    {
        try RandomWeights(config, path: "tiny", seed: 0).sites().flatMap { site in
            let shapes =
                stacked
                ? [(site.name, site.outputs)] : site.members.map { ($0.name, $0.outputs) }
            return try shapes.map { name, outputs in
                try module(name, outputs, site.inputs, storage.spec(outputs, site.inputs))
            }
        }
    }

    private static func module(_ name: String, _ outputs: Int, _ inputs: Int, _ spec: FormatSpec)
        throws -> CompressionPlan.Module
    {
        CompressionPlan.Module(
            name: name, outputs: outputs, inputs: inputs, spec: spec, parameters: 0, bytes: 0,
            damage: nil)
    }

    /// The weight of `module`, made of `source`'s tensors.
    private func weight(_ module: CompressionPlan.Module, of source: RandomWeights) throws
        -> any LinearWeight
    {
        let format = try FormatRegistry.format(module.spec.format)
        let layout = try format.layout(
            module.spec, outputs: module.outputs, inputs: module.inputs)
        return try format.init(
            spec: module.spec, outputs: module.outputs, inputs: module.inputs,
            tensors: layout.map {
                try source.tensor("\(module.name).\($0.name)", shape: $0.shape, on: .cpu)
            })
    }

    @Test(
        "models load and compute, sites stacked and members alone", arguments: Storage.all,
        [false, true])
    fileprivate func loads(storage: Storage, stacked: Bool) throws {
        for type in ["qwen3", "llama"] {
            let config = try Self.config(type)
            let modules = try Self.plan(config, storage, stacked: stacked)
            let source = try RandomWeights(config, path: "tiny", seed: 5, plan: modules)
            let names = Set(try source.checkModel().map(\.name))
            for module in modules {
                let layout = try FormatRegistry.format(module.spec.format).layout(
                    module.spec, outputs: module.outputs, inputs: module.inputs)
                #expect(names.isSuperset(of: layout.map { "\(module.name).\($0.name)" }))
            }
            let model = try source.loadModel()
            let logits = try model.logits(model.run(tokens([[1, 79, 3, 0]])))
            #expect(try logits.isFinite().not().sum().item() == 0)
        }
    }

    /// Levels have root mean squares of 0.78 (6 bits) to 1.28 (2 bits) times what is reckoned with, in
    /// each of up to four factors; a fifth or a quarter more for chance.
    @Test("outputs are of the order of inputs", arguments: Storage.all)
    fileprivate func scales(storage: Storage) throws {
        let config = try Self.config("qwen3", scale: 4)
        let modules = try Self.plan(config, storage, stacked: true)
        let source = try RandomWeights(config, path: "tiny", seed: 7, plan: modules)
        let x = try Tensor.randn(
            [64, 384], dtype: .float32, generator: RandomGenerator(seed: 1, device: .cpu))
        for module in modules.prefix(4) {
            let y = try weight(module, of: source).forward(x.narrow(1, 0..<module.inputs))
            let size = try y.to(dtype: .float64).square().mean().item().squareRoot()
            let expected = storage.scale(module.spec)
            let range = isCoded(module.spec) ? 0.3...3.3 : 0.8...1.25
            #expect(range.contains(size / expected), "\(module.name): \(size) of \(expected)")
        }
    }

    private func isCoded(_ spec: FormatSpec) -> Bool {
        spec.format == Quantized.name || spec.parts.contains(where: isCoded)
    }

    /// Names and limits of every tensor of places within `spec`.
    private func places(_ spec: FormatSpec, _ outputs: Int, _ inputs: Int) throws
        -> [(name: String, limit: Int)]
    {
        switch spec.format {
        case Quantized.name: return try places(spec.parts[0], outputs, inputs)
        case Interpolative.name: return [("pivots", outputs)]
        case Sparse.name: return [("indices", outputs * inputs)]
        case Sum.name, Blocks.name:
            return try spec.parts.enumerated().flatMap { index, part in
                let rows = spec.outputModes.isEmpty ? outputs : spec.outputModes[index]
                let columns = spec.inputModes.isEmpty ? inputs : spec.inputModes[index]
                let prefix = spec.format == Sum.name ? "parts" : "blocks"
                return try places(part, rows, columns).map {
                    ("\(prefix).\(index).\($0.name)", $0.limit)
                }
            }
        default: return []
        }
    }

    @Test("places are ascending, distinct and spread over the whole", arguments: Storage.all)
    fileprivate func pivots(storage: Storage) throws {
        let config = try Self.config("llama")
        let modules = try Self.plan(config, storage, stacked: true)
        let source = try RandomWeights(config, path: "tiny", seed: 11, plan: modules)
        for module in modules.prefix(4) {
            let layout = try FormatRegistry.format(module.spec.format).layout(
                module.spec, outputs: module.outputs, inputs: module.inputs)
            let limits = try places(module.spec, module.outputs, module.inputs)
            for (name, limit) in limits {
                let item = try #require(layout.first { $0.name == name })
                let values: [Int32] = try source.tensor(
                    "\(module.name).\(name)", shape: item.shape, on: .cpu
                ).values()
                #expect(zip(values, values.dropFirst()).allSatisfy(<))
                #expect(values.count == item.count && values.allSatisfy { $0 >= 0 })
                #expect(values.allSatisfy { Int($0) < limit })
                // That none of five or more is in the upper half has a chance below 1/32 each; the
                // seed is one of those where none is.
                #expect(values.contains { Int($0) >= limit / 2 }, "\(module.name).\(name)")
            }
        }
    }

    @Test func aTensorDependsOnSeedAndNameOnly() throws {
        let config = try Self.config("qwen3")
        let storage = Storage("") { outputs, inputs in
            FormatSpec(
                format: Quantized.name, bits: 4, groupSize: 16,
                parts: [FormatSpec(format: Interpolative.name, ranks: [20])])
        }
        let modules = try Self.plan(config, storage, stacked: true)
        let few = Array(modules.prefix(1))
        let sources = try [(1, modules), (1, few), (2, modules)].map { seed, plan in
            try RandomWeights(config, path: "tiny", seed: seed, plan: plan)
        }
        let module = modules[0]
        let layout = try Quantized.layout(
            module.spec, outputs: module.outputs, inputs: module.inputs)
        for item in layout where !item.name.hasSuffix("base") {
            let tensors = try sources.map {
                try $0.tensor("\(module.name).\(item.name)", shape: item.shape, on: .cpu)
            }
            #expect(try tensors[0].isIdentical(to: tensors[1]), "\(item.name)")
            #expect(try !tensors[0].isIdentical(to: tensors[2]), "\(item.name)")
        }
        let head = try sources.map { try $0.tensor("lm_head.weight", shape: [80, 64], on: .cpu) }
        #expect(try head[0].isIdentical(to: head[1]) && !head[0].isIdentical(to: head[2]))
    }

    @Test func theConfigurationsOwnFormatsAreMade() throws {
        let config = try Self.config("llama")
        let storage = Storage("") { _, _ in FormatSpec(format: Interpolative.name, ranks: [20]) }
        let modules = try Self.plan(config, storage, stacked: false)
        let planned = try RandomWeights(config, path: "tiny", seed: 1, plan: modules)
        let stored = try RandomWeights(planned.config, path: "tiny", seed: 1)
        let row = try tokens([[5, 6, 7]])
        let logits = try [planned, stored].map { source in
            let model = try source.loadModel()
            return try model.logits(model.run(row))
        }
        #expect(try logits[0].isIdentical(to: logits[1]))
    }

    @Test func plansForOtherModelsAreRefused() throws {
        let config = try Self.config("qwen3")
        func error(_ modules: [CompressionPlan.Module]) -> String {
            do {
                let source = try RandomWeights(config, path: "tiny", seed: 1, plan: modules)
                try source.checkModel()
                return ""
            } catch {
                return "\(error)"
            }
        }
        let spec = FormatSpec(format: LowRank.name, ranks: [4])
        let name = "model.layers.0.mlp.down_proj"
        #expect(error([try Self.module(name, 64, 96, spec)]).isEmpty)
        let sizes = error([try Self.module(name, 64, 100, spec)])
        #expect(sizes.contains(name) && sizes.contains("[64, 100]") && sizes.contains("[64, 96]"))
        let unknown = error([try Self.module("model.layers.7.mlp.down_proj", 64, 96, spec)])
        #expect(unknown.contains("model.layers.7.mlp.down_proj"), "\(unknown)")
        let rank = error([
            try Self.module(name, 64, 96, FormatSpec(format: LowRank.name, ranks: [65]))
        ])
        #expect(rank.contains("65") && rank.contains("1...64"), "\(rank)")
        let format = error([try Self.module(name, 64, 96, FormatSpec(format: "svd"))])
        #expect(format.contains("svd") && format.contains(LowRank.name), "\(format)")
        // A site and one of its members cannot both have a format.
        let gate = FormatSpec(format: LowRank.name, ranks: [4])
        let both = error([
            try Self.module("model.layers.0.mlp.gate_up_proj", 192, 64, gate),
            try Self.module("model.layers.0.mlp.up_proj", 96, 64, gate),
        ])
        #expect(both.contains("up_proj"), "\(both)")
    }
}
