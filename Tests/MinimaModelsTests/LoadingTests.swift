import MinimaCheckpoint
import MinimaCore
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Loading")
struct LoadingTests {
    /// A golden checkpoint with a changed configuration, in a folder that ends with `body`.
    private func withChanged(
        _ changes: [String: JSON], _ body: (Checkpoint) throws -> Void
    ) throws {
        let source = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"
        let scratch = try Scratch()
        try scratch.copy("\(source)/model.safetensors", to: "model.safetensors")
        var members = try #require(try ModelConfig(path: "\(source)/config.json").json.object)
        for (key, value) in changes { members[JSON.Name(key)] = value }
        try scratch.write(JSON.object(members).text().utf8, to: "config.json")
        try body(Checkpoint(path: scratch.path))
    }

    @Test func everyTensorIsAnnounced() throws {
        let checkpoint = try Checkpoint(path: "\(GoldenModel.folder)/qwen3-gqa4-tied-v5")
        var calls = 0
        _ = try checkpoint.loadModel { calls += 1 }
        #expect(calls == checkpoint.tensors.count)
    }

    @Test func loadingCanBeStopped() throws {
        struct Stop: Error {}
        let checkpoint = try Checkpoint(path: "\(GoldenModel.folder)/qwen3-gqa4-tied-v5")
        var calls = 0
        #expect(throws: Stop.self) {
            _ = try checkpoint.loadModel {
                calls += 1
                if calls == 3 { throw Stop() }
            }
        }
        #expect(calls == 3)
    }

    @Test func defectsAreFoundBeforeAnyWeightIsRead() throws {
        for changes in [
            ["num_hidden_layers": 3], ["num_hidden_layers": 1], ["intermediate_size": 29],
        ] as [[String: JSON]] {
            try withChanged(changes) { checkpoint in
                var calls = 0
                do {
                    _ = try checkpoint.loadModel { calls += 1 }
                    Issue.record("\(changes) loads")
                } catch CheckpointError.tensors(_, let mismatch) {
                    let counts = [mismatch.missing, mismatch.unexpected, mismatch.misshapen]
                        .map { !$0.isEmpty }
                    #expect(counts.contains(true))
                }
                #expect(calls == 0)
                #expect(throws: CheckpointError.self) { try checkpoint.checkModel() }
            }
        }
    }

    @Test func aBadFormatIsNamedByItsModule() throws {
        let name = "model.layers.0.mlp.up_proj"
        var manifest = CompressionManifest(modules: [name: FormatSpec(format: "cp")])
        try withChanged(["quantization_config": manifest.json]) { checkpoint in
            do {
                try checkpoint.checkModel()
                Issue.record("an unknown format loads")
            } catch CheckpointError.value(_, let key, _, _) {
                #expect(key == "quantization_config.modules.\(name)")
            }
        }
        manifest.modules = ["model.head": FormatSpec(format: "dense")]
        try withChanged(["quantization_config": manifest.json]) { checkpoint in
            do {
                try checkpoint.checkModel()
                Issue.record("a module that the model lacks is accepted")
            } catch CheckpointError.value(_, let key, let found, _) {
                #expect(key == "quantization_config.modules" && found == "model.head")
            }
        }
    }
}
