/// Sets of scalars: what stands between brackets, and the escapes that stand for sets.
extension OnigurumaSyntax {
    /// White space as Oniguruma has it; PCRE2's own `\s` adds U+180E.
    static let space =
        #"\t-\r\x20\x{85}\x{A0}\x{1680}\x{2000}-\x{200A}\x{2028}\x{2029}\x{202F}\x{205F}\x{3000}"#
    /// Word scalars as Oniguruma has them inside a set.
    static let wordInSet = #"\p{Alphabetic}\p{M}\p{Nd}\p{Pc}"#
    /// Word scalars outside of sets: there superscripts and fractions of Latin-1 belong to them.
    static let word = wordInSet + #"\x{B2}\x{B3}\x{B9}\x{BC}-\x{BE}"#
    static let hexadecimal = "0-9a-fA-F"

    /// The inside of a class that an escape stands for, and whether it stands for the complement.
    static func shorthand(_ letter: Unicode.Scalar) -> (set: String, negated: Bool)? {
        switch letter {
        case "s": (space, false)
        case "S": (space, true)
        case "w": (word, false)
        case "W": (word, true)
        case "h": (hexadecimal, false)
        case "H": (hexadecimal, true)
        case "d": (#"\p{Nd}"#, false)
        case "D": (#"\p{Nd}"#, true)
        default: nil
        }
    }

    /// `set` with the scalars that PCRE2's properties may lack.
    func completed(_ set: String) -> String {
        listsRecentScalars ? set + RecentScalars.supplement(to: set) : set
    }

    /// `\p{Name}`, `\p{^Name}` or `\P{Name}`, as the inside of a class.
    mutating func property() throws(Failure) -> (set: String, negated: Bool) {
        var negated = source[position + 1] == "P"
        guard peek(2) == "{", let end = source[position...].firstIndex(of: "}") else {
            throw Failure(reason: "expected {Name} behind \\p")
        }
        var name = source[(position + 3)..<end]
        position = end + 1
        if name.first == "^" {
            negated.toggle()
            name = name.dropFirst()
        }
        guard name.allSatisfy({ $0.isASCII && ($0.isWord || $0 == " " || $0 == "-") }) else {
            throw Failure(reason: "\\p{…} has an unexpected character")
        }
        return (Self.propertySet(String(String.UnicodeScalarView(name))), negated)
    }

    private static func propertySet(_ name: String) -> String {
        let key = name.lowercased().filter { $0 != "_" && $0 != " " && $0 != "-" }
        if let category = categories[key] { return "\\p{\(category)}" }
        if binaryProperties.contains(key) { return "\\p{\(key)}" }
        return switch key {
        case "word": word
        case "punct": #"\p{P}"#
        default: bracketNames[key] ?? "\\p{sc:\(name)}"
        }
    }

    /// What `[[:name:]]` stands for, and `\p{name}` with few exceptions.
    private static let bracketNames: [String: String] = [
        "alnum": #"\p{Alphabetic}\p{Nd}"#, "alpha": #"\p{Alphabetic}"#, "ascii": #"\x00-\x7F"#,
        "blank": #"\p{Zs}\t"#, "cntrl": #"\p{Cc}"#, "digit": #"\p{Nd}"#,
        "lower": #"\p{Lowercase}"#, "punct": #"\p{P}\p{S}"#, "space": space,
        "upper": #"\p{Uppercase}"#, "word": wordInSet, "xdigit": hexadecimal, "any": #"\p{Any}"#,
    ]

    /// General categories by short and long name, without separators and in lower case.
    private static let categories: [String: String] = {
        let names: [(short: String, long: String)] = [
            ("C", "other"), ("Cc", "control"), ("Cf", "format"), ("Cn", "unassigned"),
            ("Co", "privateuse"), ("Cs", "surrogate"), ("L", "letter"), ("LC", "casedletter"),
            ("Ll", "lowercaseletter"), ("Lm", "modifierletter"), ("Lo", "otherletter"),
            ("Lt", "titlecaseletter"), ("Lu", "uppercaseletter"), ("M", "mark"),
            ("Mc", "spacingmark"), ("Me", "enclosingmark"), ("Mn", "nonspacingmark"),
            ("N", "number"), ("Nd", "decimalnumber"), ("Nl", "letternumber"),
            ("No", "othernumber"), ("P", "punctuation"), ("Pc", "connectorpunctuation"),
            ("Pd", "dashpunctuation"), ("Pe", "closepunctuation"), ("Pf", "finalpunctuation"),
            ("Pi", "initialpunctuation"), ("Po", "otherpunctuation"), ("Ps", "openpunctuation"),
            ("S", "symbol"), ("Sc", "currencysymbol"), ("Sk", "modifiersymbol"),
            ("Sm", "mathsymbol"), ("So", "othersymbol"), ("Z", "separator"),
            ("Zl", "lineseparator"), ("Zp", "paragraphseparator"), ("Zs", "spaceseparator"),
        ]
        var categories: [String: String] = [:]
        for (short, long) in names {
            let property = short == "LC" ? "L&" : short
            categories[short.lowercased()] = property
            categories[long] = property
        }
        return categories
    }()

    private static let binaryProperties: Set<String> = [
        "alphabetic", "uppercase", "lowercase", "whitespace", "emoji", "emojipresentation",
        "emojimodifier", "emojimodifierbase", "emojicomponent", "extendedpictographic",
        "ideographic", "idstart", "idcontinue", "xidstart", "xidcontinue", "math", "dash",
        "diacritic", "extender", "hexdigit", "cased", "caseignorable", "joincontrol",
        "variationselector", "regionalindicator", "unifiedideograph", "quotationmark",
        "defaultignorablecodepoint", "graphemebase", "graphemeextend",
    ]
}

// MARK: - Brackets

extension OnigurumaSyntax {
    mutating func characterClass() throws(Failure) -> String {
        var text = "["
        position += 1
        if current == "^" {
            text += "^"
            position += 1
        }
        if current == "]" {
            text += "\\]"
            position += 1
        }
        while let scalar = current {
            switch scalar {
            case "]":
                position += 1
                return text + "]"
            case "[":
                guard peek(1) == ":" else {
                    throw Failure(reason: "a set inside a set is not implemented")
                }
                text += try bracket()
                text += hyphenBehindSet()
            case "&" where peek(1) == "&":
                throw Failure(reason: "intersections of sets (&&) are not implemented")
            case "\\": text += try classEscape()
            default:
                text.unicodeScalars.append(scalar)
                position += 1
            }
        }
        throw Failure(reason: "a set that never ends")
    }

    private mutating func classEscape() throws(Failure) -> String {
        guard let letter = peek(1) else { throw Failure(reason: "a backslash at the end") }
        switch letter {
        case "w":
            position += 2
            return completed(Self.wordInSet) + hyphenBehindSet()
        case "s", "h":
            position += 2
            return (letter == "s" ? Self.space : Self.hexadecimal) + hyphenBehindSet()
        case "S":
            position += 2
            return #"\P{White_Space}"# + hyphenBehindSet()
        case "W", "H":
            throw Failure(reason: "\\\(letter) inside a set is not implemented")
        case "d":
            position += 2
            return completed(#"\p{Nd}"#) + hyphenBehindSet()
        case "D":
            position += 2
            return #"\P{Nd}"# + hyphenBehindSet()
        case "p", "P":
            let (set, negated) = try property()
            guard negated else { return completed(set) + hyphenBehindSet() }
            guard set.hasPrefix("\\p{"), set.firstIndex(of: "}") == set.indices.last else {
                throw Failure(reason: "this negated property inside a set is not implemented")
            }
            return "\\P" + set.dropFirst(2) + hyphenBehindSet()
        case "b":
            position += 2
            return "\\x08"
        case "0"..."9": throw Failure(reason: "octal escapes are not implemented")
        default: return try literalEscape()
        }
    }

    /// `[:name:]` inside a class.
    private mutating func bracket() throws(Failure) -> String {
        let rest = source[(position + 2)...]
        guard let colon = rest.firstIndex(of: ":"), colon + 1 < source.count,
            source[colon + 1] == "]",
            let set = Self.bracketNames[String(String.UnicodeScalarView(rest[..<colon]))]
        else { throw Failure(reason: "[: is not followed by a known name and :]") }
        position = colon + 2
        return completed(set)
    }

    /// A hyphen behind a set is itself; left alone, PCRE2 might read a range.
    private mutating func hyphenBehindSet() -> String {
        guard current == "-" else { return "" }
        position += 1
        return "\\-"
    }
}
