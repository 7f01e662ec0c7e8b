import MinimaTokenizer

/// Single tokens as they stand inside a text.
struct TokenTexts: Sendable {
    let tokenizer: Tokenizer

    /// The bytes that `id` adds to a text.
    func bytes(_ id: Int32) -> [UInt8] { tokenizer.bytes(of: id) }

    /// The text of `id`, U+FFFD where it is not UTF-8 by itself; special tokens as they are spelt.
    func text(_ id: Int32) -> String { String(decoding: bytes(id), as: UTF8.self) }
}
