/// Removes white space from the ends.
struct StripNormalizer: Normalizer {
    static let typeName = "Strip"

    private let stripsLeft: Bool
    private let stripsRight: Bool

    init(_ section: ConfigSection) throws(TokenizerError) {
        stripsLeft = try section.bool("strip_left")
        stripsRight = try section.bool("strip_right")
    }

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        let kept = text.bytes.withUnsafeBufferPointer { bytes in
            let start = stripsLeft ? UTF8Text.endOfWhitespace(in: bytes, from: 0) : 0
            let end =
                stripsRight
                ? UTF8Text.startOfWhitespace(in: bytes, before: bytes.count) : bytes.count
            return start..<max(start, end)
        }
        if kept.lowerBound > 0 { text.startsAtOrigin = false }
        text.bytes = Array(text.bytes[kept])
    }
}
