/// Puts a string in front of a text that is not empty.
struct PrependNormalizer: Normalizer {
    static let typeName = "Prepend"

    private let prefix: [UInt8]

    init(_ section: ConfigSection) throws(TokenizerError) {
        prefix = Array(try section.string("prepend").utf8)
    }

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        guard !text.bytes.isEmpty else { return }
        text.bytes.insert(contentsOf: prefix, at: 0)
    }
}
