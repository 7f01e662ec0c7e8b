import MinimaCheckpoint
import MinimaCore

extension Checkpoint {
    /// Tokens that end a text, from `generation_config.json` and `config.json`.
    public func stopTokens() throws -> Set<Int32> {
        let ids = try (generationConfig?.eosTokenIDs ?? []) + config.eosTokenIDs
        return Set(ids.map { Int32(clamping: $0) })
    }
}

extension ModelConfig {
    /// The token that begins a document: the first token of a text, or the end of the one before.
    public func documentStart() throws -> Int32 {
        guard let id = try ints("bos_token_id").first ?? eosTokenIDs.first else {
            throw mismatch("bos_token_id", expected: "a token to begin a text with")
        }
        return Int32(clamping: id)
    }
}
