/// Maps every scalar to its lower case (Unicode's full mapping, without context).
struct LowercaseNormalizer: Normalizer {
    static let typeName = "Lowercase"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        var lowered: [UInt8] = []
        lowered.reserveCapacity(text.bytes.count)
        text.bytes.withUnsafeBufferPointer { bytes in
            UTF8Text.forEachScalar(bytes) { scalar, _, _ in
                if scalar.isASCII {
                    let byte = UInt8(truncatingIfNeeded: scalar.value)
                    lowered.append((0x41...0x5A).contains(byte) ? byte + 0x20 : byte)
                } else {
                    lowered.append(contentsOf: scalar.properties.lowercaseMapping.utf8)
                }
            }
        }
        text.bytes = lowered
    }
}
