/// Keeps runs of word scalars and runs of other visible scalars, and drops white space:
/// `\w+|[^\w\s]+`.
struct WhitespacePreTokenizer: PreTokenizer {
    static let typeName = "Whitespace"

    private enum Kind {
        case word, space, other
    }

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        try pieces.split(.removed, invert: true) { (piece, found) throws(TokenizerError) in
            var runStart = 0
            var runKind = Kind.space
            UTF8Text.forEachScalar(piece) { scalar, start, _ in
                let kind: Kind = scalar.isWord ? .word : scalar.isWhitespace ? .space : .other
                if kind != runKind {
                    if runKind != .space { found(runStart, start) }
                    runStart = start
                    runKind = kind
                }
            }
            if runKind != .space { found(runStart, piece.count) }
        }
    }
}
