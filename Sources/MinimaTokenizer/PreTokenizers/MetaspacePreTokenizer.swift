/// Writes spaces as a visible scalar, puts one in front, and cuts before each of them.
struct MetaspacePreTokenizer: PreTokenizer {
    static let typeName = "Metaspace"

    private let settings: MetaspaceSettings

    init(_ section: ConfigSection) throws(TokenizerError) {
        settings = try MetaspaceSettings(section)
    }

    func split(_ pieces: inout Pieces) throws(TokenizerError) {
        let replacement = settings.replacement
        try pieces.rewrite { piece, isAtOrigin, rewritten in
            let starts =
                piece.first == UInt8(ascii: " ") || piece.starts(with: replacement)
            let prepends =
                switch settings.prependScheme {
                case .always: !starts
                case .first: !starts && isAtOrigin
                case .never: false
                }
            if prepends { rewritten.append(contentsOf: replacement) }
            for byte in piece {
                if byte == UInt8(ascii: " ") {
                    rewritten.append(contentsOf: replacement)
                } else {
                    rewritten.append(byte)
                }
            }
        }
        guard settings.splits else { return }
        try pieces.split(.mergedWithNext) { (piece, found) throws(TokenizerError) in
            TextPattern.forEachMatch(of: replacement, in: piece, found)
        }
    }
}

/// The settings that Metaspace has both as a pre-tokenizer and as a decoder.
struct MetaspaceSettings: Sendable {
    enum PrependScheme: String {
        case always, first, never
    }

    /// The scalar that stands for a space, in UTF-8.
    let replacement: [UInt8]
    let prependScheme: PrependScheme
    let splits: Bool

    init(_ section: ConfigSection) throws(TokenizerError) {
        var replacement: [UInt8] = []
        UTF8Text.append(try section.scalar("replacement"), to: &replacement)
        self.replacement = replacement
        let name = try section.optionalString("prepend_scheme") ?? "always"
        guard let scheme = PrependScheme(rawValue: name) else {
            throw section.malformed("prepend_scheme \"\(name)\" is none of always, first, never")
        }
        // Files from before tokenizers 0.15 say add_prefix_space; false has to agree with never.
        let addsPrefixSpace = try section.bool("add_prefix_space", default: true)
        guard addsPrefixSpace || scheme == .never else {
            throw section.malformed("add_prefix_space is false but prepend_scheme is \(name)")
        }
        prependScheme = scheme
        splits = try section.bool("split", default: true)
    }
}
