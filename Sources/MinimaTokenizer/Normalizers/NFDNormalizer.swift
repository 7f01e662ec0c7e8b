@_spi(_Unicode) import Swift

/// Unicode normalisation form D: canonical decomposition (Unicode Standard Annex 15).
struct NFDNormalizer: Normalizer {
    static let typeName = "NFD"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        guard text.bytes.contains(where: { $0 >= 0x80 }) else { return }
        var decomposed: [UInt8] = []
        decomposed.reserveCapacity(text.bytes.count)
        for scalar in String(decoding: text.bytes, as: UTF8.self)._nfd {
            UTF8Text.append(scalar, to: &decomposed)
        }
        text.bytes = decomposed
    }
}
