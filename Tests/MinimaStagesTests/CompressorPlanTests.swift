import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Plans that cannot be executed")
struct CompressorPlanTests {
    let parent: Checkpoint
    let site: Site
    let rank = FormatSpec(format: LowRank.name, ranks: [4])

    init() throws {
        parent = try goldenModel("qwen3-gqa4-tied-v5")
        site = try #require(try parent.sites().first)
    }

    private func refusal(_ plan: CompressionPlan) throws -> CompressionError {
        do {
            _ = try Compressor(parent, compression(parent, plan))
        } catch let error as CompressionError {
            return error
        }
        throw Issue("the plan was taken")
    }

    private struct Issue: Error {
        init(_ text: String) {}
    }

    @Test func modulesMustBeTheModels() throws {
        let shape = [site.outputs, site.inputs]
        let unknown = try refusal(plan(parent, [("model.layers.9.mlp", [1, 1], rank)]))
        guard case .unknownModule("model.layers.9.mlp", let examples) = unknown else {
            return #expect(Bool(false), "\(unknown)")
        }
        #expect(examples.first == site.name)
        let wrong = try refusal(plan(parent, [(site.name, [site.outputs, 7], rank)]))
        #expect(
            wrong == .otherShape(name: site.name, planned: [site.outputs, 7], found: shape))
        let twice = try refusal(plan(parent, [(site.name, shape, rank), (site.name, shape, rank)]))
        #expect(twice == .plannedTwice(site.name, and: site.name))
        let member = site.members[1]
        let both = try refusal(
            plan(
                parent,
                [(site.name, shape, rank), (member.name, [member.outputs, site.inputs], rank)]))
        #expect(both == .plannedTwice(member.name, and: site.name))
        #expect("\(both)".contains("both \(member.name) and \(site.name)"))
    }

    @Test func specificationsMustSuitThem() throws {
        let shape = [site.outputs, site.inputs]
        for spec in [
            FormatSpec(format: "svd"), FormatSpec(format: LowRank.name),
            FormatSpec(format: LowRank.name, ranks: [1 << 20]),
        ] {
            let error = try refusal(plan(parent, [(site.name, shape, spec)]))
            guard case .unusable(site.name, _) = error else {
                return #expect(Bool(false), "\(error)")
            }
        }
        let dense = FormatSpec(format: Dense.name)
        #expect(try refusal(plan(parent, [(site.name, shape, dense)])) == .nothingToDo)
    }

    @Test func plansForOtherWeightsAreRefused() throws {
        let scratch = try Scratch()
        var foreign = plan(parent, [(site.name, [site.outputs, site.inputs], rank)])
        foreign.fingerprints = ["model.safetensors": String(repeating: "0", count: 64)]
        #expect(
            throws: CompressionError.otherWeights(model: parent.path, planned: parent.path)
        ) {
            try Compressor(parent, compression(parent, foreign))
                .run(output: "\(scratch.path)/small")
        }
        #expect(scratch.entries.isEmpty)
        foreign.fingerprints = try parent.fingerprints { _, _ in }
        let result = try Compressor(parent, compression(parent, foreign))
            .run(output: "\(scratch.path)/small")
        #expect(result.parentHashes == foreign.fingerprints)
    }

    @Test func ratiosAndFormatsOfUniformPlans() throws {
        for ratio in [0, 1, -0.5, 2, .nan] {
            #expect(throws: StageError.self) {
                try CompressionPlan.uniform(
                    parent, ratio: ratio, format: LowRank.name, version: "test")
            }
        }
        #expect(throws: FormatError.self) {
            try CompressionPlan.uniform(parent, ratio: 0.3, format: "svd", version: "test")
        }
        do {
            _ = try CompressionPlan.uniform(
                parent, ratio: 0.9999, format: LowRank.name, version: "test")
            Testing.Issue.record("a matrix was compressed to nothing")
        } catch {
            #expect("\(error)".contains("q_proj") && "\(error)".contains("lower the ratio"))
        }
        for format in FormatRegistry.all where !(format is any BudgetedFormat.Type) {
            do {
                _ = try CompressionPlan.uniform(
                    parent, ratio: 0.3, format: format.name, version: "test")
                Testing.Issue.record("\(format.name) has no budget")
            } catch CompressionError.notBudgeted(let name, let known) {
                #expect(name == format.name && known.contains(LowRank.name))
            }
        }
    }

    @Test func outputsAndCompressedModels() throws {
        let scratch = try Scratch()
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.35, format: LowRank.name, version: "test")
        let request = try compression(parent, plan)
        _ = try Compressor(parent, request).run(output: "\(scratch.path)/once")
        let compressed = try Checkpoint(path: "\(scratch.path)/once")
        do {
            _ = try Compressor(compressed, request)
            Testing.Issue.record("a compressed model was compressed again")
        } catch StageError.alreadyCompressed {}
        // An output that exists is not overwritten.
        #expect(throws: CheckpointError.self) {
            _ = try Compressor(parent, request).run(output: "\(scratch.path)/once")
        }
        // Text is needed unless statistics stand for it.
        for sources in [[], [CalibrationSource(name: "empty", windows: [[]])]] {
            do {
                _ = try Compressor(parent, compression(parent, plan, sources: sources))
                Testing.Issue.record("there was no text")
            } catch StageError.tooLittleText {}
        }
        do {
            let few = try someSources(parent, windows: 4)
            _ = try Compressor(
                parent, compression(parent, plan, compensation: .automatic, sources: few)
            ).run(output: "\(scratch.path)/few")
            Testing.Issue.record("nothing was held out")
        } catch StageError.tooLittleText {}
        #expect(scratch.entries == ["once"])
    }

    @Test func compensationIsRead() throws {
        #expect(try Compensation("off") == .off && Compensation("auto") == .automatic)
        #expect(try Compensation("0.5") == .fixed(0.5) && Compensation("0") == .fixed(0))
        for text in ["on", "1", "-0.1", "nan", "", "2"] {
            #expect(throws: CompressionError.badCompensation(text)) { try Compensation(text) }
        }
        for value in [Compensation.off, .automatic, .fixed(0.25)] {
            #expect(try Compensation("\(value)") == value)
        }
    }
}
