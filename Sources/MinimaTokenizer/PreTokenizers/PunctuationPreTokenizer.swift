/// Cuts at punctuation.
struct PunctuationPreTokenizer: PreTokenizer {
    static let typeName = "Punctuation"

    private let behavior: SplitBehavior

    init(_ section: ConfigSection) throws(TokenizerError) {
        behavior = try SplitBehavior(section, default: .isolated)
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        try pieces.split(behavior) { $0.isPunctuationOrASCIISymbol }
    }
}
