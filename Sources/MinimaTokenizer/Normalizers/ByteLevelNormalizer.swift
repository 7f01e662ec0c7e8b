/// Spells bytes as the scalars of `ByteLevelAlphabet`.
struct ByteLevelNormalizer: Normalizer {
    static let typeName = "ByteLevel"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        text.bytes = ByteLevelAlphabet.encoded(text.bytes)
    }
}
