/// Replaces every match of a string or a regular expression by a string.
struct ReplaceNormalizer: Normalizer {
    static let typeName = "Replace"

    private let pattern: TextPattern
    private let content: [UInt8]

    init(_ section: ConfigSection) throws(TokenizerError) {
        pattern = try TextPattern(try section.section("pattern"))
        content = Array(try section.string("content").utf8)
    }

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        text.bytes = try pattern.replacing(in: text.bytes, with: content)
    }
}
