/// Cuts at the matches of a string or a regular expression.
struct SplitPreTokenizer: PreTokenizer {
    static let typeName = "Split"

    private let pattern: TextPattern
    private let behavior: SplitBehavior
    private let invert: Bool

    init(_ section: ConfigSection) throws(TokenizerError) {
        pattern = try TextPattern(try section.section("pattern"))
        behavior = try SplitBehavior(section)
        invert = try section.bool("invert")
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        switch pattern {
        case .literal(let literal):
            try pieces.split(behavior, invert: invert) { (piece, found) throws(TokenizerError) in
                TextPattern.forEachMatch(of: literal, in: piece, found)
            }
        case .regex(let regex):
            try pieces.split(behavior, invert: invert, regex: regex)
        }
    }
}
