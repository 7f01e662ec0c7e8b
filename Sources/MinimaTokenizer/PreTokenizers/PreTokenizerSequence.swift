/// Applies pre-tokenizers one after the other.
struct PreTokenizerSequence: PreTokenizer {
    static let typeName = "Sequence"

    private var parts: [any PreTokenizer]

    init(_ section: ConfigSection) throws(TokenizerError) {
        parts = []
        for element in try section.section("pretokenizers").elements() {
            parts.append(try Registry.preTokenizer(element))
        }
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        for part in parts { try part.split(&pieces) }
    }

    func leavingRawBytes() -> (any PreTokenizer)? {
        guard let last = parts.last?.leavingRawBytes() else { return nil }
        var raw = self
        raw.parts[parts.count - 1] = last
        return raw
    }
}
