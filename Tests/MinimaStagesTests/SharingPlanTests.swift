import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Plans of one ratio for whole sites")
struct SharingPlanTests {
    let parent: Checkpoint

    init() throws {
        parent = try goldenModel("qwen3-gqa4-tied-v5")
    }

    /// The sizes of Qwen3-32B.
    private static func large() throws -> RandomWeights {
        try RandomWeights(path: "\(packageFolder())/Examples/qwen3-32b-shape", seed: 0)
    }

    private static let budgeted = FormatRegistry.all.compactMap {
        $0 as? any BudgetedFormat.Type
    }
    /// Those with a bond next to the input.
    private static let bonded = budgeted.map { $0.name }
        .filter { ![Dense.name, Sparse.name].contains($0) }

    /// The rank of the bond next to the input.
    private func bond(_ spec: FormatSpec) -> Int {
        spec.format == BlockTerm.name ? spec.ranks.reduce(1, *) : spec.ranks.last ?? 0
    }

    private func sharing(
        _ source: any WeightSource, _ ratio: Double, _ format: String, alignment: Int = 1,
        _ quantization: (bits: Int, groupSize: Int, levels: FormatSpec.Levels)? = nil
    ) throws -> CompressionPlan {
        try .sharing(
            source, ratio: ratio, format: format, alignment: alignment,
            quantization: quantization, version: "test")
    }

    @Test("modes that are split truly", arguments: ["tt", "tr", "tucker"])
    func split(format: String) throws {
        let source = try Self.large()
        let plan = try CompressionPlan.sharing(
            source, ratio: 0.383, format: format, splitsModes: true, alignment: 128,
            quantization: nil, version: "test")
        for module in plan.modules.prefix(4) {
            let spec = module.spec
            #expect(spec.format == format)
            if format == "tucker" {
                #expect(zip(spec.ranks, spec.outputModes).contains { $0 < $1 }, "\(spec)")
            } else {
                #expect(!spec.inputModes.contains(module.inputs), "\(spec)")
            }
            let share = Double(module.parameters) / Double(module.outputs * module.inputs)
            #expect((0.58...0.617).contains(share), "\(spec) keeps \(share)")
        }
    }

    @Test("modes that cannot be split, and budgets that are too small for it")
    func notSplit() throws {
        func refusal(_ format: String, _ ratio: Double) -> String {
            do {
                _ = try CompressionPlan.sharing(
                    parent, ratio: ratio, format: format, splitsModes: true, alignment: 1,
                    quantization: nil, version: "test")
                return "taken"
            } catch { return "\(error)" }
        }
        for format in [LowRank.name, CP.name, BlockTerm.name] {
            let text = refusal(format, 0.3)
            #expect(text.contains("cannot be split: \(format) has no modes"), "\(text)")
            #expect(text.contains("qkv_proj") && !text.contains("lower the ratio"), "\(text)")
        }
        for format in [Tucker.name, TensorTrain.name, TensorRing.name] {
            let text = refusal(format, 0.9999)
            #expect(text.contains("needs at least") && text.contains("lower the ratio"), "\(text)")
            let site = try #require(try parent.sites().first)
            // Not as many as the dense weight has.
            #expect(!text.contains(" \(site.outputs * site.inputs);"), "\(text)")
        }
    }

    @Test("ranks are aligned, and the ratio is kept within half a step", arguments: bonded)
    func aligned(format: String) throws {
        let source = try Self.large()
        let type = try FormatRegistry.format(format)
        for (ratio, alignment) in [(0.2, 64), (0.383, 128), (0.6, 128)] {
            let plan = try sharing(source, ratio, format, alignment: alignment)
            #expect(plan.modules.map(\.name) == (try source.sites().map(\.name)))
            for module in plan.modules.prefix(4) {
                #expect(bond(module.spec) % alignment == 0, "\(module.spec)")
                let dense = module.outputs * module.inputs
                let count = try type.parameterCount(
                    module.spec, outputs: module.outputs, inputs: module.inputs)
                #expect(module.parameters == count && count < dense)
                // A bond of one more costs at most outputs + inputs + 1 numbers, but where it
                // multiplies the modes of a split side.
                let half = Double(alignment) / 2 * Double(module.outputs + module.inputs + 1)
                #expect(
                    abs(Double(count) - (1 - ratio) * Double(dense)) <= 1.01 * half,
                    "\(module.name) \(module.spec): \(count) of \(dense)")
            }
        }
    }

    @Test("what is removed may come from a part of the layers")
    func parts() throws {
        let source = try Self.large()
        let whole = try sharing(source, 0.383, Interpolative.name, alignment: 128)
        let plan = try CompressionPlan.sharing(
            source, ratio: 0.383, from: "mlp", format: Interpolative.name, alignment: 128,
            quantization: (4, 64, .uniform), version: "test")
        for module in plan.modules {
            let isTaken = module.name.contains(".mlp.")
            #expect(module.spec.format == Quantized.name)
            #expect(module.spec.parts[0].format == (isTaken ? Interpolative.name : Dense.name))
        }
        // Both keep their share within half a step of the ranks.
        let difference = Double(plan.linearParametersAfter - whole.linearParametersAfter)
        #expect(abs(difference) < 0.01 * Double(whole.linearParametersAfter))
        for (part, ratio) in [("mlp", 0.9), ("nothing", 0.1)] {
            #expect {
                try CompressionPlan.sharing(
                    source, ratio: ratio, from: part, format: Interpolative.name, alignment: 128,
                    quantization: nil, version: "test")
            } throws: { error in
                "\(error)".contains("\"\(part)\"") && "\(error)".contains("self_attn")
            }
        }
    }

    @Test("the whole of Qwen3-32B at 38.3%")
    func qwen() throws {
        let source = try Self.large()
        let plan = try sharing(source, 0.383, Interpolative.name, alignment: 128)
        let layers = 64
        let sites = [(10_240, 5120), (5120, 8192), (51_200, 5120), (5120, 25_600)]
        let dense = layers * sites.reduce(0) { $0 + $1.0 * $1.1 }
        #expect(plan.linearParametersBefore == dense && dense == 31_205_621_760)
        #expect(plan.linearBytesBefore == 2 * dense)
        #expect(plan.modules.count == 4 * layers)
        // Embedding and head; the norms of layers, heads and the end.
        let others = 2 * 151_936 * 5120 + layers * (2 * 5120 + 2 * 128) + 5120
        #expect(try StoredModel(source).size.parameters == dense + others)
        // The multiples of 128 next to the ranks at which r·(outputs + inputs − r + 1) is 61.7%.
        let ranks = [2560, 2304, 3072, 2944]
        #expect(plan.modules.map { $0.spec.ranks } == (0..<4 * layers).map { [ranks[$0 % 4]] })
        let after =
            layers * zip(sites, ranks).reduce(0) { $0 + $1.1 * ($1.0.0 + $1.0.1 - $1.1 + 1) }
        #expect(plan.linearParametersAfter == after)
        #expect(abs(Double(after + others) / 20.8e9 - 1) < 0.01)
        // Values take two bytes, pivots four.
        let pivots = plan.modules.reduce(0) { $0 + $1.spec.ranks[0] }
        #expect(plan.linearBytesAfter == 2 * plan.linearParametersAfter + 2 * pivots)
        #expect(plan.formats == [Interpolative.name] && plan.damage == nil)
    }

    @Test func aRatioOfZeroStacksTheSitesDense() throws {
        for source in [parent as any WeightSource, try Self.large()] {
            let plan = try sharing(source, 0, Interpolative.name, alignment: 128)
            #expect(plan.formats == [Dense.name])
            #expect(plan.modules.allSatisfy { $0.spec == FormatSpec(format: Dense.name) })
            #expect(plan.linearParametersAfter == plan.linearParametersBefore)
            #expect(plan.linearBytesAfter == plan.linearBytesBefore)
        }
    }

    @Test("codes wrap what the plan would be without them", arguments: [2, 3, 4, 5, 6, 8])
    func quantized(bits: Int) throws {
        for (ratio, format) in [(0, Dense.name), (0.4, Interpolative.name), (0.4, "tt")] {
            let plain = try sharing(parent, ratio, format)
            let coded = try sharing(parent, ratio, format, (bits, 16, .normal))
            #expect(coded.linearParametersAfter == plain.linearParametersAfter)
            #expect(coded.linearBytesAfter < plain.linearBytesAfter)
            for (one, other) in zip(plain.modules, coded.modules) {
                #expect(
                    other.spec
                        == FormatSpec(
                            format: Quantized.name, bits: bits, groupSize: 16, parts: [one.spec]))
                let bytes = try Quantized.byteCount(
                    other.spec, outputs: one.outputs, inputs: one.inputs, dtype: .float32)
                #expect(other.bytes == bytes)
            }
        }
        let large = try sharing(Self.large(), 0, Dense.name, (bits, 64, .uniform))
        // Codes, a byte per group of 64, and four bytes per matrix.
        let expected = large.linearParametersBefore * bits / 8 + large.linearParametersBefore / 64
        #expect(large.linearBytesAfter == expected + 4 * large.modules.count)
    }

    @Test("every format with a budget gives a model that loads and computes", arguments: bonded)
    func loads(format: String) throws {
        for quantization in [nil, (4, 16, .normal)]
            as [(bits: Int, groupSize: Int, levels: FormatSpec.Levels)?]
        {
            let plan = try sharing(parent, 0.3, format, alignment: 2, quantization)
            let source = try RandomWeights(path: parent.path, seed: 3, plan: plan.modules)
            let model = try source.loadModel()
            let row = try Tensor([1, 5, 9, 2].map { Int64($0) }).unsqueeze(0)
            let logits = try model.logits(model.run(row))
            #expect(try logits.isFinite().not().sum().item() == 0)
        }
    }

    @Test func whatIsNeverPossible() throws {
        for ratio in [-0.1, 1, 1.5, .nan, .infinity] {
            do {
                _ = try sharing(parent, ratio, LowRank.name)
                Issue.record("\(ratio) was taken")
            } catch StageError.badRatio(let found) {
                #expect(found == ratio || ratio.isNaN)
            }
        }
        #expect(throws: FormatError.unknownFormat("svd", known: FormatRegistry.all.map { $0.name }))
        {
            try sharing(parent, 0.3, "svd")
        }
        for format in FormatRegistry.all where !(format is any BudgetedFormat.Type) {
            do {
                _ = try sharing(parent, 0.3, format.name)
                Issue.record("\(format.name) has no budget")
            } catch CompressionError.notBudgeted(let name, let known) {
                #expect(name == format.name && known.contains(LowRank.name))
            }
        }
        // Nothing less than all of a dense weight is one.
        do {
            _ = try sharing(parent, 0.3, Dense.name)
            Issue.record("a dense weight was made smaller")
        } catch { #expect("\(error)".contains("lower the ratio"), "\(error)") }
        do {
            _ = try sharing(parent, 0.9999, LowRank.name)
            Issue.record("a matrix was compressed to nothing")
        } catch { #expect("\(error)".contains("qkv_proj"), "\(error)") }
        #expect(throws: FormatError.self) { try sharing(parent, 0, Dense.name, (7, 16, .normal)) }
        #expect(throws: FormatError.self) { try sharing(parent, 0, Dense.name, (4, 0, .normal)) }
        let plan = try sharing(parent, 0.3, LowRank.name)
        let compressed = try RandomWeights(path: parent.path, seed: 1, plan: plan.modules)
        do {
            _ = try sharing(compressed, 0.3, LowRank.name)
            Issue.record("a compressed model was planned again")
        } catch StageError.alreadyCompressed {}
    }

    @Test("alignments that layers are too small for", arguments: bonded)
    func alignments(format: String) throws {
        // Never an illegal rank: a plan whose modules all exist, or an error that says why not.
        for alignment in [0, -8, 1, 3, 16, 24, 48, 64, 4096, .max] {
            do {
                let plan = try sharing(parent, 0.05, format, alignment: alignment)
                #expect(alignment > 0)
                for module in plan.modules {
                    #expect(bond(module.spec) % alignment == 0)
                    let count = try FormatRegistry.format(format).parameterCount(
                        module.spec, outputs: module.outputs, inputs: module.inputs)
                    #expect(count < module.outputs * module.inputs)
                }
            } catch StageError.noAlignedRank(let name, let ranks, let found) {
                #expect(alignment == found && !ranks.isEmpty)
                let text = "\(StageError.noAlignedRank(name: name, ranks: ranks, alignment: found))"
                #expect(text.contains(name) && text.contains("\(alignment)"))
                // The smallest site is [24, 28]: a product of rank 8 is smaller than that.
                #expect(alignment < 1 || alignment > 8, "\(text)")
            }
        }
    }
}
