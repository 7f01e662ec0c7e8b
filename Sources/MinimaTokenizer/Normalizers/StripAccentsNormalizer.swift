/// Removes combining marks.
struct StripAccentsNormalizer: Normalizer {
    static let typeName = "StripAccents"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        var stripped: [UInt8] = []
        stripped.reserveCapacity(text.bytes.count)
        text.bytes.withUnsafeBufferPointer { bytes in
            UTF8Text.forEachScalar(bytes) { scalar, start, end in
                if !scalar.isMark { stripped.append(contentsOf: bytes[start..<end]) }
            }
        }
        text.bytes = stripped
    }
}
