/// Applies normalizers one after the other.
struct NormalizerSequence: Normalizer {
    static let typeName = "Sequence"

    private let parts: [any Normalizer]

    init(_ section: ConfigSection) throws(TokenizerError) {
        var parts: [any Normalizer] = []
        for element in try section.section("normalizers").elements() {
            parts.append(try Registry.normalizer(element))
        }
        self.parts = parts
    }

    func normalize(_ text: inout NormalizedText) throws(TokenizerError) {
        for part in parts { try part.normalize(&text) }
    }
}
