import FoundationEssentials
import MinimaCore

extension Tokenizer {
    /// Reads tokenizer.json, and tokenizer_config.json when it is there, of a checkpoint directory.
    ///
    /// - Throws: `TokenizerError` when tokenizer.json is missing or either file is malformed.
    public init(directory: String) throws(TokenizerError) {
        let path = "\(directory)/tokenizer.json"
        let configPath = "\(directory)/tokenizer_config.json"
        var config: JSON?
        if FileManager.default.fileExists(atPath: configPath) {
            config = try Self.document(configPath)
        }
        try self.init(tokenizerJSON: try Self.document(path), config: config, file: path)
    }

    private static func document(_ path: String) throws(TokenizerError) -> JSON {
        let bytes: [UInt8]
        do {
            // The largest public one has 33 MB.
            bytes = try readFile(path, limit: 1 << 30)
        } catch {
            throw .unreadable(path: path, reason: error.reason)
        }
        do {
            return try JSON(parsing: bytes)
        } catch {
            throw .invalidJSON(file: path, error: error)
        }
    }
}
