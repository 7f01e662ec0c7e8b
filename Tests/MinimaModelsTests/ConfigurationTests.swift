import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import Testing

@testable import MinimaModels

/// Configurations whose numbers no model has are refused by name, without a trap.
@Suite("Hostile configurations")
struct ConfigurationTests {
    private func config(_ family: String, _ changes: [String: JSON?]) throws -> ModelConfig {
        let name = family == "llama" ? "llama-gqa2-bias-v5" : "qwen3-gqa4-tied-v5"
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

    @Test("rotated dimensions come in pairs", arguments: ["llama", "qwen3"])
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

    @Test func headsOfNothing() throws {
        try expectRefusal(
            "llama", "hidden_size",
            [
                "head_dim": .some(nil), "hidden_size": 7, "num_attention_heads": 8,
                "num_key_value_heads": 8,
            ])
    }
}
