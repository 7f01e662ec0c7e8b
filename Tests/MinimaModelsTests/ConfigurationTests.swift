import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import Testing

@testable import MinimaModels

/// Configurations whose numbers no model has are refused by name, without a trap.
@Suite("Hostile configurations")
struct ConfigurationTests {
    private func config(_ family: String, _ changes: [String: JSON?]) throws -> ModelConfig {
        let name =
            [
                "llama": "llama-gqa2-bias-v5", "qwen3": "qwen3-gqa4-tied-v5",
                "qwen3_moe": "qwen3moe-normalised-v5",
            ][family] ?? family
        let original = try ModelConfig(path: "\(GoldenModel.folder)/\(name)/config.json")
        var members = try #require(original.json.object)
        for (key, value) in changes {
            members.removeValue(forKey: JSON.Name(key))
            if let value { members[JSON.Name(key)] = value }
        }
        return try ModelConfig(json: .object(members), path: "config.json")
    }

    private func expectRefusal(_ family: String, _ key: String, _ changes: [String: JSON?]) throws {
        let config = try config(family, changes)
        do {
            _ = try FamilyRegistry.family(config).sites(config)
            Issue.record("\(family) accepts \(changes)")
        } catch CheckpointError.value(_, let found, _, _) {
            #expect(found == key, "\(family) \(changes)")
        }
    }

    private static let largest = JSON.integer(Int64(ModelConfig.largestCount))

    @Test("products that overflow", arguments: ["llama", "qwen3"])
    func products(family: String) throws {
        let (largest, most) = (Self.largest, JSON.integer(65_536))
        try expectRefusal(
            family, "num_attention_heads",
            ["num_attention_heads": most, "head_dim": most, "hidden_size": largest])
        try expectRefusal(
            family, "intermediate_size", ["hidden_size": 131_072, "intermediate_size": largest])
        try expectRefusal(family, "vocab_size", ["hidden_size": 131_072, "vocab_size": largest])
        try expectRefusal(
            family, "intermediate_size", ["hidden_size": largest, "intermediate_size": largest])
        // The largest that passes.
        let limit = try config(
            family,
            ["hidden_size": 65_536, "vocab_size": 268_435_456, "intermediate_size": 268_435_456])
        #expect(try FamilyRegistry.family(limit).sites(limit).count == 8)
        try expectRefusal(
            family, "vocab_size", ["hidden_size": 65_536, "vocab_size": 268_435_457])
    }

    @Test("rotated dimensions come in pairs", arguments: ["llama", "qwen3", "qwen3_moe"])
    func pairs(family: String) throws {
        try expectRefusal(family, "head_dim", ["head_dim": 7])
        try expectRefusal(
            family, "head_dim",
            [
                "head_dim": 8,
                "rope_parameters": [
                    "rope_type": "default", "rope_theta": 10_000, "partial_rotary_factor": 0.4,
                ],
            ])
    }

    @Test func slidingWindows() throws {
        for family in ["qwen3", "qwen3_moe"] {
            let config = try config(family, ["use_sliding_window": true])
            #expect(throws: ModelError.self) { try FamilyRegistry.family(config).sites(config) }
        }
    }

    @Test func headsOfNothing() throws {
        try expectRefusal(
            "llama", "hidden_size",
            [
                "head_dim": .some(nil), "hidden_size": 7, "num_attention_heads": 8,
                "num_key_value_heads": 8,
            ])
    }

    @Test func experts() throws {
        let family = "qwen3_moe"
        let none = JSON?.none
        for (key, changes) in [
            ("num_experts", ["num_local_experts": none]),
            ("num_experts", ["num_local_experts": none, "num_experts": 100_000]),
            ("num_local_experts", ["num_local_experts": 0]),
            ("num_local_experts", ["num_hidden_layers": 10_000, "num_local_experts": 14]),
            ("num_local_experts", ["hidden_size": Self.largest, "num_local_experts": 40_000]),
            ("num_experts_per_tok", ["num_experts_per_tok": 5]),
            ("num_experts_per_tok", ["num_experts_per_tok": none]),
            ("moe_intermediate_size", ["moe_intermediate_size": none]),
            (
                "moe_intermediate_size",
                ["hidden_size": 131_072, "moe_intermediate_size": Self.largest]
            ),
            ("decoder_sparse_step", ["decoder_sparse_step": 0]),
            ("mlp_only_layers", ["mlp_only_layers": [-1]]),
        ] as [(String, [String: JSON?])] {
            try expectRefusal(family, key, changes)
        }
        // transformers 4 writes `num_experts`; a layer that there is not is no error in either.
        let old = try config(
            family,
            ["num_local_experts": none, "num_experts": 3, "mlp_only_layers": [0, 1, 77]])
        #expect(try Qwen3Moe.sites(old).filter { $0.layer == 2 }.count == 2 + 2 * 3)
        #expect(try Qwen3Moe.sites(old).filter { $0.tokenShare < 1 }.count == 2 * 3)
        // Heads share the width where nothing is said of them; other than in the dense family.
        let shared = try config(family, ["head_dim": none])
        #expect(try Qwen3Moe.Configuration(shared).base.headDim == 24 / 4)
        let dense = try config("qwen3", ["head_dim": none])
        #expect(try Qwen3.configuration(dense).headDim == 128)
    }
}
