import MinimaTensor

/// A text cut into windows of `context` inputs, each followed by the token that its last one
/// predicts: the next window's first, so that every token but the first is predicted once.
struct PackedText: Sendable {
    let text: TokenizedText
    let context: Int
    /// Whole windows; the rest of the text, shorter than one, is left out.
    let count: Int

    /// - Throws: `HealingTextError.tooShort` for a text without a whole window.
    init(_ text: TokenizedText, context: Int) throws(HealingTextError) {
        count = (text.tokens.count - 1) / context
        guard text.tokens.count > context else {
            throw .tooShort(path: text.name, tokens: text.tokens.count, needed: context + 1)
        }
        self.text = text
        self.context = context
    }

    /// Inputs and last target of window `index`: `context` + 1 tokens.
    func tokens(_ index: Int) -> ArraySlice<Int32> {
        text.tokens[index * context..<(index + 1) * context + 1]
    }

    /// By input, 1 where its target counts for cross-entropy; `nil` where all count.
    func mask(_ index: Int) -> ArraySlice<UInt8>? {
        text.isTarget?[index * context + 1..<(index + 1) * context + 1]
    }
}
