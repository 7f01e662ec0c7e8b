import MinimaTokenizer

/// The text of single tokens, as they stand inside a text.
struct TokenTexts: Sendable {
    private let tokenizer: Tokenizer
    /// A token before the one asked for, and its text: a decoder may treat the first token of a text
    /// otherwise, such as by leaving out its space.
    private let anchor: Int32?
    private let anchorText: String

    init(_ tokenizer: Tokenizer) {
        self.tokenizer = tokenizer
        let plain = try? tokenizer.encode("a", addSpecialTokens: false)
        anchor = plain?.last
        anchorText = anchor.map { tokenizer.decode([$0], skipSpecialTokens: false) } ?? ""
    }

    /// The text of `id`, U+FFFD where it is not UTF-8 by itself; special tokens as they are spelt.
    func text(_ id: Int32) -> String {
        guard let anchor else { return tokenizer.decode([id], skipSpecialTokens: false) }
        let text = tokenizer.decode([anchor, id], skipSpecialTokens: false)
        guard text.utf8.starts(with: anchorText.utf8) else {
            return tokenizer.decode([id], skipSpecialTokens: false)
        }
        return String(decoding: text.utf8.dropFirst(anchorText.utf8.count), as: UTF8.self)
    }
}
