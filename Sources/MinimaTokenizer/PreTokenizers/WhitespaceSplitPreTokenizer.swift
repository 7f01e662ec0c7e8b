/// Cuts at white space and drops it.
struct WhitespaceSplitPreTokenizer: PreTokenizer {
    static let typeName = "WhitespaceSplit"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        try pieces.split(.removed) { $0.isWhitespace }
    }
}
