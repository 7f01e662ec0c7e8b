/// Cuts at one scalar and drops it.
struct DelimiterPreTokenizer: PreTokenizer {
    static let typeName = "CharDelimiterSplit"

    private let delimiter: Unicode.Scalar

    init(_ section: ConfigSection) throws(TokenizerError) {
        delimiter = try section.scalar("delimiter")
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        try pieces.split(.removed) { $0 == delimiter }
    }
}
