import MinimaCore

/// The tokens of one text: document after document, each begun by the document-start token.
public struct TokenizedText: Sendable {
    /// Its name.
    public let name: String
    /// Documents in it, or pairs of a prompt and a completion.
    public let documents: Int
    /// All tokens.
    public let tokens: [Int32]
    /// By token, 1 where it counts as a target of cross-entropy, else 0; `nil` where all count.
    public let isTarget: [UInt8]?

    /// A text from its tokens.
    ///
    /// - Precondition: `isTarget` has one number per token.
    public init(name: String, documents: Int, tokens: [Int32], isTarget: [UInt8]? = nil) {
        precondition(isTarget.map { $0.count == tokens.count } ?? true)
        self.name = name
        self.documents = documents
        self.tokens = tokens
        self.isTarget = isTarget
    }

    /// Reads a file: JSON Lines where its name ends in `.jsonl`, else plain text.
    ///
    /// Plain text is UTF-8, one document or several with NUL bytes between them. A line of JSON
    /// Lines is an object with "text", or with "prompt" and "completion": of such a pair only the
    /// completion counts for cross-entropy. Empty documents and lines are left out.
    ///
    /// - Parameters:
    ///   - documentStart: The token that begins each document.
    ///   - encode: The tokens of a text, without special tokens around it.
    /// - Throws: `HealingTextError` with the file, the line, what was found and what is needed.
    public init(
        file path: String, documentStart: Int32, encode: @escaping (String) throws -> [Int32]
    ) throws(HealingTextError) {
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: Self.maximumByteCount)
        } catch {
            throw .unreadable(path: path, reason: error.reason)
        }
        try self.init(path, bytes: bytes, documentStart: documentStart, encode: encode)
    }

    /// Bytes of the largest file that is read, so that an endless device cannot fill the memory.
    private static let maximumByteCount = 16 << 30

    /// The text in the file called `path` that holds `bytes`.
    init(
        _ path: String, bytes: [UInt8], documentStart: Int32,
        encode: @escaping (String) throws -> [Int32]
    ) throws(HealingTextError) {
        for packing in Packing.all where bytes.starts(with: packing.magic) {
            throw .compressed(
                path: path, kind: packing.kind, command: "\(packing.command) \(path)")
        }
        var reader = DocumentReader(path, documentStart: documentStart, encode: encode)
        if path.hasSuffix(".jsonl") {
            try reader.addLines(bytes)
        } else {
            try reader.addPlainText(bytes)
        }
        guard reader.documents > 0 else { throw .empty(path: path) }
        self.init(
            name: path, documents: reader.documents, tokens: reader.tokens,
            isTarget: reader.isTarget)
    }
}

/// A compressed file's first bytes, and what unpacks it.
private struct Packing {
    let kind: String
    let magic: [UInt8]
    let command: String

    static let all = [
        Packing(
            kind: "xz", magic: [0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00],
            command: "xz --decompress --keep"),
        Packing(kind: "gzip", magic: [0x1F, 0x8B], command: "gzip --decompress --keep"),
        Packing(kind: "Zstandard", magic: [0x28, 0xB5, 0x2F, 0xFD], command: "zstd --decompress"),
    ]
}
