import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaModels

@Suite("Tied embeddings")
struct TiedHeadTests {
    /// Logits of a copy of a tied checkpoint that also stores `lm_head.weight`.
    private func logits(_ change: (Tensor) throws -> Tensor) throws -> [Float] {
        let source = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"
        let parent = try Checkpoint(path: source)
        let path = FileManager.default.temporaryDirectory
            .appending(path: "minima-\(UUID().uuidString)").path
        defer { try? FileManager.default.removeItem(atPath: path) }
        let head = try change(parent.tensor("model.embed_tokens.weight"))
        let directory = try AtomicDirectory(destination: path)
        let names =
            parent.tensors.map {
                TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape)
            } + [TensorDescription(name: "lm_head.weight", dtype: head.dtype, shape: head.shape)]
        let writer = try SafetensorsWriter(in: directory, tensors: names)
        for tensor in parent.tensors {
            try parent.bytes(of: tensor.name).withUnsafeBytes {
                try writer.write($0, to: tensor.name)
            }
        }
        try head.withBytes { try writer.write($0, to: "lm_head.weight") }
        try writer.finish()
        try directory.copy("\(source)/config.json", to: "config.json")
        try directory.commit()
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
