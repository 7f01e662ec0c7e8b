import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Compressed output projections")
struct CompressorHeadTests {
    private struct Stop: Error {}

    private func spec(_ bits: Int, _ part: String = Dense.name) -> FormatSpec {
        FormatSpec(
            format: Quantized.name, bits: bits, groupSize: 64, parts: [FormatSpec(format: part)])
    }

    /// At 8 bits KL(dense ‖ model) is below 10⁻⁴ nats per token; at 4 bits GPTQ under the final norm's
    /// moment does better than rounding.
    @Test func theExampleModelKeepsItsDistribution() throws {
        let scratch = try Scratch()
        let parent = try exampleModel()
        let model = try parent.loadModel()
        let text = try sampledText(model, windows: 24, length: 48, seed: 4)
        let fitting = [CalibrationSource(name: "test", windows: Array(text[..<16]))]
        func compressed(_ bits: Int, _ name: String, _ sources: [CalibrationSource]) throws
            -> (CompressionResult, Checkpoint, Double)
        {
            let plan = try CompressionPlan.dense(parent.path, version: "test")
                .withHead(bits: bits, of: parent)
            let path = "\(scratch.path)/\(name)"
            let result = try Compressor(parent, compression(parent, plan, sources: sources))
                .run(output: path)
            let small = try Checkpoint(path: path)
            let evaluator = try Evaluator(small.loadModel(), against: model)
            return (result, small, try #require(try evaluator.measure(Array(text[16...])).kl))
        }
        let (result, small, kl) = try compressed(8, "int8", fitting)
        #expect(kl > 0 && kl < 1e-4)
        #expect(result.modules.map(\.name) == ["lm_head"])
        #expect(result.modules[0].outputError < 0.005 && result.modules[0].compensation == nil)
        // Tied before; now the embedding lies beside codes that stand for as many numbers.
        let site = try parent.config.headSite()
        let totals = result.totals
        #expect(try small.config.tieWordEmbeddings == false)
        #expect(totals.parametersAfter == totals.parametersBefore + site.parameters)
        #expect(totals.bytesAfter == small.byteCount)
        #expect(totals.bytesAfter == totals.bytesBefore + result.modules[0].bytes)
        #expect(totals.linearBytesAfter == totals.linearBytesBefore)
        #expect(totals.linearParametersAfter == totals.linearParametersBefore)
        for tensor in parent.tensors {
            #expect(
                try small.tensor(tensor.name).isIdentical(to: parent.tensor(tensor.name)),
                "\(tensor.name)")
        }
        let (_, fitted, near) = try compressed(4, "int4", fitting)
        let rounded = try Quantized.decompose(
            parent.tensor("model.embed_tokens.weight"), spec: spec(4), metric: nil)
        let ends = try fitted.loadModel()
        let hidden = try withoutGradients { try model.run(ids(text[16...])) }
        let exact = try model.logits(hidden)
        let own = try (ends.logits(hidden) - exact).norm().item()
        #expect(try own < 0.95 * (hidden.linear(rounded.reconstruct()) - exact).norm().item())
        #expect(near > kl && near < 0.1)
    }

    private func ids(_ rows: ArraySlice<[Int32]>) throws -> Tensor {
        try TokenWindows.tensor(Array(rows))
    }

    /// Layers in one format, the output projection in codes; untied it takes the dense one's place.
    @Test(arguments: ["llama-gqa2-bias-v5", "qwen3-gqa4-tied-v5", "qwen3moe-step2-bf16-v4"])
    func besideLayers(name: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel(name)
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.3, format: LowRank.name, version: "test")
        let with = try plan.withHead(bits: 6, of: parent)
        #expect(with.modules.count == plan.modules.count + 1)
        #expect(try with.withHead(bits: 6, of: parent) == with)
        let result = try Compressor(parent, compression(parent, with, compensation: .fixed(0.5)))
            .run(output: "\(scratch.path)/x")
        let less = try Compressor(parent, compression(parent, plan, compensation: .fixed(0.5)))
            .run(output: "\(scratch.path)/y")
        let small = try Checkpoint(path: "\(scratch.path)/x")
        #expect(try CompressionManifest(small.config).modules["lm_head"] == spec(6))
        #expect(small.info("lm_head.weight") == nil)
        #expect(small.info("model.embed_tokens.weight") != nil)
        #expect(try small.loadModel().head.weight.spec == spec(6))
        // The layers are those of a compression without it.
        let other = try Checkpoint(path: "\(scratch.path)/y")
        for tensor in other.tensors where tensor.name != "lm_head.weight" {
            #expect(
                try small.tensor(tensor.name).isIdentical(to: other.tensor(tensor.name)),
                "\(tensor.name)")
        }
        let head = try #require(result.modules.last)
        #expect(head.name == "lm_head" && head.bytes == with.modules.last?.bytes)
        #expect(Array(result.modules.dropLast()).map(\.name) == less.modules.map(\.name))
        #expect(result.totals.linearBytesAfter == less.totals.linearBytesAfter)
        #expect(result.totals.bytesAfter == small.byteCount)
        let isTied = parent.info("lm_head.weight") == nil
        #expect(
            result.totals.parametersAfter
                == less.totals.parametersAfter + (isTied ? head.parameters : 0))
    }

    @Test("a run that stops goes on and writes the same bytes", arguments: [false, true])
    func resumes(isCompensated: Bool) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.35, format: LowRank.name, version: "test"
        ).withHead(bits: 4, of: parent)
        let compressor = try Compressor(
            parent,
            compression(
                parent, plan, compensation: isCompensated ? .fixed(0.5) : .off,
                sources: someSources(parent, windows: 6, length: 8)))
        _ = try compressor.run(output: "\(scratch.path)/whole")
        let expected = try weights("\(scratch.path)/whole")
        for note in ["layer 1 done", "lm_head: ", "writing the rest", "the rest done"] {
            var isStopped = false
            #expect(throws: Stop.self) {
                try compressor.run(output: "\(scratch.path)/x") {
                    isStopped = $0.note.hasPrefix(note)
                    if isStopped { throw Stop() }
                }
            }
            #expect(isStopped && scratch.entries == ["whole", "x.minima-work"], "\(note)")
            _ = try compressor.run(output: "\(scratch.path)/x")
            #expect(try weights("\(scratch.path)/x") == expected, "\(note)")
            try FileManager.default.removeItem(atPath: "\(scratch.path)/x")
        }
    }

    @Test func plansAreChecked() throws {
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let site = try parent.config.headSite()
        let shape = [site.outputs, site.inputs]
        func refusal(_ modules: [(name: String, shape: [Int], spec: FormatSpec)]) throws
            -> CompressionError?
        {
            do {
                try plan(parent, modules).check(against: parent)
                return nil
            } catch let error as CompressionError {
                return error
            }
        }
        #expect(try refusal([("lm_head", shape, spec(8))]) == nil)
        #expect(
            try refusal([("lm_head", [7, 7], spec(8))])
                == .otherShape(name: "lm_head", planned: [7, 7], found: shape))
        #expect(
            try refusal([("lm_head", shape, spec(8)), ("lm_head", shape, spec(8))])
                == .plannedTwice("lm_head", and: "lm_head"))
        #expect(try refusal([("lm_head", shape, FormatSpec(format: Dense.name))]) == .nothingToDo)
        for wrong in [
            spec(7), spec(8, "svd"), FormatSpec(format: LowRank.name, ranks: [4]),
            FormatSpec(
                format: Quantized.name, bits: 8,
                parts: [FormatSpec(format: LowRank.name, ranks: [4])]),
        ] {
            guard case .unusable("lm_head", _)? = try refusal([("lm_head", shape, wrong)]) else {
                Issue.record("\(wrong) was taken")
                continue
            }
        }
    }
}
