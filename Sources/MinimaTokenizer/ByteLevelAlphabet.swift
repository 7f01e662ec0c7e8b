/// GPT-2's reversible mapping of the 256 bytes to printable scalars.
///
/// Bytes that are printable Latin-1 stand for themselves; the other 68 take U+0100 onwards, so that
/// a space is "Ġ". Radford et al. 2019, `bytes_to_unicode` of the published encoder.
enum ByteLevelAlphabet {
    /// The scalar of each byte.
    static let scalars: [Unicode.Scalar] = {
        var next: UInt32 = 0x100
        return (UInt32(0)...255).map { byte in
            var value = byte
            if !isPrintable(byte) {
                value = next
                next += 1
            }
            return Unicode.Scalar(value) ?? "\u{FFFD}"
        }
    }()

    /// The byte of each scalar below U+0144; -1 for scalars that no byte maps to.
    private static let bytes: [Int16] = {
        var bytes = [Int16](repeating: -1, count: 0x144)
        for (byte, scalar) in scalars.enumerated() { bytes[Int(scalar.value)] = Int16(byte) }
        return bytes
    }()

    private static func isPrintable(_ byte: UInt32) -> Bool {
        (0x21...0x7E).contains(byte) || (0xA1...0xAC).contains(byte) || (0xAE...0xFF).contains(byte)
    }

    /// The byte that `scalar` stands for.
    @inline(__always)
    static func byte(of scalar: UInt32) -> UInt8? {
        guard scalar < 0x144, bytes[Int(scalar)] >= 0 else { return nil }
        return UInt8(truncatingIfNeeded: bytes[Int(scalar)])
    }

    /// The bytes that `text` spells, or `nil` when one of its scalars stands for none.
    static func decoded(_ text: UnsafeBufferPointer<UInt8>) -> [UInt8]? {
        var decoded: [UInt8] = []
        decoded.reserveCapacity(text.count)
        var index = 0
        while index < text.count {
            let (value, length) = UTF8Text.scalar(in: text, at: index)
            guard let byte = byte(of: value) else { return nil }
            decoded.append(byte)
            index += length
        }
        return decoded
    }

    /// The spelling of `bytes`, in UTF-8.
    static func encoded(_ bytes: some Sequence<UInt8>) -> [UInt8] {
        var encoded: [UInt8] = []
        encoded.reserveCapacity(2 * bytes.underestimatedCount)
        for byte in bytes { UTF8Text.append(scalars[Int(byte)], to: &encoded) }
        return encoded
    }
}
