/// Cuts as GPT-2 does and spells bytes as the scalars of `ByteLevelAlphabet`.
struct ByteLevelPreTokenizer: PreTokenizer {
    static let typeName = "ByteLevel"

    /// GPT-2's pattern: contractions, words, numbers and punctuation with the space before them.
    private static let pattern =
        #"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"#

    private let addsPrefixSpace: Bool
    private let regex: Regex?
    private var mapsBytes = true

    init(_ section: ConfigSection) throws(TokenizerError) {
        addsPrefixSpace = try section.bool("add_prefix_space")
        regex =
            try section.bool("use_regex", default: true)
            ? try Regex(Self.pattern, in: section) : nil
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        if addsPrefixSpace {
            try pieces.rewrite { piece, _, rewritten in
                if piece.first != UInt8(ascii: " ") { rewritten.append(UInt8(ascii: " ")) }
                rewritten.append(contentsOf: piece)
            }
        }
        if let regex { try pieces.split(.isolated, regex: regex) }
        if mapsBytes {
            try pieces.rewrite { piece, _, rewritten in
                for byte in piece {
                    UTF8Text.append(ByteLevelAlphabet.scalars[Int(byte)], to: &rewritten)
                }
            }
        }
    }

    func leavingRawBytes() -> (any PreTokenizer)? {
        var raw = self
        raw.mapsBytes = false
        return raw
    }
}
