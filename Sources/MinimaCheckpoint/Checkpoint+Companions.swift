import MinimaCore

extension Checkpoint {
    /// Files that make a model directory usable besides its configuration and weights.
    private static let companions = [
        "added_tokens.json", "chat_template.jinja", "chat_template.json",
        "generation_config.json", "merges.txt", "special_tokens_map.json", "tokenizer.json",
        "tokenizer.model", "tokenizer_config.json", "vocab.json",
    ]

    /// Names of this directory's tokenizer, template and generation files, to be copied unchanged
    /// beside new weights.
    public func companionFiles() throws(CheckpointError) -> [String] {
        let names = try wrapping { () throws(SystemError) in try Files.names(in: path) }
        return names.filter { Self.companions.contains($0) }.sorted()
    }
}

extension SafetensorsFile {
    /// SHA-256 of the whole file, in hexadecimal.
    ///
    /// - Parameter onProgress: Called every 64 MiB; throws to cancel.
    public func sha256(onProgress: () throws -> Void = {}) throws -> String {
        var hash = SHA256()
        let bytes = mapping.bytes
        for start in stride(from: 0, to: bytes.count, by: 64 << 20) {
            let end = Swift.min(start + (64 << 20), bytes.count)
            hash.update(UnsafeRawBufferPointer(rebasing: bytes[start..<end]))
            mapping.release(start..<end)
            try onProgress()
        }
        return hash.hexadecimalDigest()
    }
}
