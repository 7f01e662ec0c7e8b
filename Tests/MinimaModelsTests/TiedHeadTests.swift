import MinimaCheckpoint
import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Tied embeddings")
struct TiedHeadTests {
    /// Logits of a copy of a tied checkpoint that also stores `lm_head.weight`.
    private func logits(_ change: (Tensor) throws -> Tensor) throws -> [Float] {
        let source = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"
        let parent = try Checkpoint(path: source)
        let scratch = try Scratch()
        var tensors = try parent.tensors.map { ($0.name, try parent.tensor($0.name)) }
        let head = try change(parent.tensor("model.embed_tokens.weight"))
        tensors.append(("lm_head.weight", head))
        let path = "\(scratch.path)/model"
        try writeCheckpoint(tensors, config: parent.config.json, to: path)
        let model = try Checkpoint(path: path).loadModel()
        return try model.logits(model.run(tokens([[1, 2, 3]]))).values()
    }

    @Test func aStoredHeadIsUsedWhenItDiffers() throws {
        let model = try Checkpoint(path: "\(GoldenModel.folder)/qwen3-gqa4-tied-v5").loadModel()
        let tied: [Float] = try model.logits(model.run(tokens([[1, 2, 3]]))).values()
        #expect(try logits { $0 } == tied)
        let doubled = try logits { try $0 * 2 }
        // Doubling is exact in binary floating point.
        #expect(doubled == tied.map { 2 * $0 })
    }
}
