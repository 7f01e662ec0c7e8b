@_spi(_Unicode) import Swift

/// Unicode normalisation form C: canonical composition (Unicode Standard Annex 15).
///
/// The standard library's own normaliser does the work. It is only called for the stretches of text
/// that could change: between two scalars that are stable in form C whatever follows them.
struct NFCNormalizer: Normalizer {
    static let typeName = "NFC"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        text.bytes.withUnsafeBufferPointer { NFCNormalizer.normalized($0) }
            .map { text.bytes = $0 }
    }

    /// `bytes` in form C, or `nil` when they are in that form already.
    static func normalized(_ bytes: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        var output: [UInt8] = []
        var copied = 0
        // The start of the last scalar that composes with nothing before it.
        var boundary = 0
        var index = 0
        while index < bytes.count {
            if bytes[index] < 0xCC {
                // Below U+0300 nothing changes and nothing composes with what stands before.
                boundary = index
                index += bytes[index] < 0x80 ? 1 : 2
                continue
            }
            let (value, length) = UTF8Text.scalar(in: bytes, at: index)
            if isStable(value) {
                boundary = index
                index += length
                continue
            }
            index += length
            while index < bytes.count {
                let (value, length) = UTF8Text.scalar(in: bytes, at: index)
                if value < 0x300 || isStable(value) { break }
                index += length
            }
            output.append(contentsOf: bytes[copied..<boundary])
            let stretch = String(decoding: bytes[boundary..<index], as: UTF8.self)
            for scalar in stretch._nfc { UTF8Text.append(scalar, to: &output) }
            copied = index
            boundary = index
        }
        guard copied > 0 else { return nil }
        output.append(contentsOf: bytes[copied...])
        return output
    }

    /// Scripts and symbols that form C leaves alone: starters that neither change nor compose with
    /// a scalar before them. A sample of the commonest; leaving one out only costs time.
    static let stableRanges: [ClosedRange<UInt32>] = [
        0x0400...0x0482,  // Cyrillic
        0x048A...0x052F,
        0x0561...0x0586,  // Armenian
        0x05D0...0x05EA,  // Hebrew
        0x0621...0x064A,  // Arabic
        0x0660...0x066F,
        0x0905...0x0928,  // Devanagari, without nukta letters and signs
        0x0E01...0x0E37,  // Thai
        0x10D0...0x10FF,  // Georgian
        0x2010...0x2027,  // General punctuation
        0x2030...0x205E,
        0x2190...0x21CD,  // Arrows
        0x2500...0x26FF,  // Box drawing, shapes, symbols
        0x3001...0x3029,  // CJK punctuation
        0x3041...0x304A,  // Hiragana, Katakana
        0x304B...0x3096,
        0x30A1...0x30FA,
        0x30FC...0x30FC,
        0x4E00...0x9FFF,  // Han
        0xAC00...0xD7A3,  // Hangul syllables
        0xFF01...0xFF5E,  // Full-width forms
        0x1F300...0x1F64F,  // Pictographs
        0x1F680...0x1F6FF,
        0x1F900...0x1F9FF,
    ]

    @inline(__always)
    static func isStable(_ value: UInt32) -> Bool {
        if (0x4E00...0x9FFF).contains(value) || (0x2010...0x2027).contains(value) { return true }
        return stableRanges.contains { $0.contains(value) }
    }
}
