/// Rewrites a pattern of Oniguruma's Ruby syntax, which tokenizer.json uses, for PCRE2.
///
/// Most constructs are spelled alike and mean the same. What differs:
/// - `\h` is a hexadecimal digit, `\v` a vertical tab, `\uXXXX` a scalar, `\O` any scalar;
/// - `\s` leaves U+180E out; `\w` and `\b` know combining marks;
/// - `(?m)` lets `.` match newlines; `x{n,m}+` and `x{n}?` repeat a repetition; `{,n}` starts at 0;
/// - `\p{Name}` is a general category, a script (not its extensions) or a bracket name.
///
/// What PCRE2 cannot express (set intersections, nested sets, absence operators) is an error.
struct OnigurumaSyntax {
    /// Why a pattern cannot be translated.
    struct Failure: Error {
        let reason: String
    }

    let source: [Unicode.Scalar]
    var position = 0
    private var output: [UInt8] = []
    /// Where the last repeatable item starts in `output`; `nil` where a quantifier is a literal.
    private var itemStart: Int?
    private var itemIsQuantified = false
    private var openGroups: [OpenGroup] = []
    /// Groups that options opened outside of any group, and that end with the pattern.
    private var impliedAtEnd = 0

    private struct OpenGroup {
        /// Where the group starts in `output`.
        let start: Int
        /// Groups that options such as `(?i)` opened inside and that end with this one.
        var implied = 0
    }

    /// Whether sets list the scalars of `RecentScalars` that PCRE2's properties may lack.
    let listsRecentScalars: Bool

    private init(_ source: String, listsRecentScalars: Bool) {
        self.source = Array(source.unicodeScalars)
        self.listsRecentScalars = listsRecentScalars
    }

    /// The pattern for PCRE2 with UTF, UCP and MULTILINE, in UTF-8.
    ///
    /// - Parameter listsRecentScalars: Whether the pattern is for texts with `RecentScalars`.
    static func translated(
        _ source: String, listsRecentScalars: Bool = false
    ) throws(Failure) -> [UInt8] {
        var syntax = OnigurumaSyntax(source, listsRecentScalars: listsRecentScalars)
        while syntax.position < syntax.source.count { try syntax.translateItem() }
        syntax.append(String(repeating: ")", count: syntax.impliedAtEnd))
        return syntax.output
    }

    var current: Unicode.Scalar? {
        position < source.count ? source[position] : nil
    }

    func peek(_ offset: Int) -> Unicode.Scalar? {
        position + offset < source.count ? source[position + offset] : nil
    }

    /// Appends something that a quantifier may follow.
    private mutating func append(item: String) {
        itemStart = output.count
        itemIsQuantified = false
        append(item)
    }

    private mutating func append(_ text: String) {
        output.append(contentsOf: text.utf8)
    }

    private mutating func translateItem() throws(Failure) {
        let scalar = source[position]
        switch scalar {
        case "\\": try translateEscape()
        case "[": append(item: try characterClass())
        case "(": try openGroup()
        case ")":
            position += 1
            let group = openGroups.popLast()
            append(String(repeating: ")", count: group?.implied ?? 0) + ")")
            itemStart = group?.start
            itemIsQuantified = false
        case "|":
            position += 1
            append("|")
            itemStart = nil
        case "*", "+", "?": try quantify(String(scalar), length: 1)
        case "{":
            if let interval = interval() {
                try quantify(interval.text, length: interval.length, isInterval: true)
            } else {
                position += 1
                append(item: "\\{")
            }
        default:
            position += 1
            append(item: String(scalar))
        }
    }

    /// `{n}`, `{n,}`, `{,m}` or `{n,m}` at the current position, as PCRE2 writes it.
    private func interval() -> (text: String, length: Int)? {
        guard let end = source[position...].firstIndex(of: "}") else { return nil }
        let body = source[(position + 1)..<end]
        let parts = body.split(separator: ",", omittingEmptySubsequences: false)
        guard parts.count <= 2, parts.contains(where: { !$0.isEmpty }),
            parts.allSatisfy({ $0.allSatisfy { ("0"..."9").contains($0) } })
        else { return nil }
        let texts = parts.map { String(String.UnicodeScalarView($0)) }
        let least = texts[0].isEmpty ? "0" : texts[0]
        let text = texts.count == 2 ? "{\(least),\(texts[1])}" : "{\(least)}"
        return (text, end - position + 1)
    }

    private mutating func quantify(
        _ quantifier: String, length: Int, isInterval: Bool = false
    ) throws(Failure) {
        guard let start = itemStart else {
            throw Failure(reason: "\"\(quantifier)\" has nothing to repeat")
        }
        if itemIsQuantified {
            output.insert(contentsOf: "(?:".utf8, at: start)
            append(")")
        }
        append(quantifier)
        position += length
        itemIsQuantified = true
        // A lazy mark belongs to the quantifier, and so does a possessive one except behind an
        // interval; `{n}?` is an optional repetition in Ruby, not a lazy one.
        let isFixed = isInterval && !quantifier.contains(",")
        if current == "?", !isFixed {
            append("?")
            position += 1
        } else if current == "+", !isInterval {
            append("+")
            position += 1
        }
    }
}

// MARK: - Groups

extension OnigurumaSyntax {
    private mutating func openGroup() throws(Failure) {
        let start = output.count
        position += 1
        itemStart = nil
        guard current == "?" else {
            openGroups.append(OpenGroup(start: start))
            append("(")
            return
        }
        switch peek(1) {
        case "#":
            guard let end = source[position...].firstIndex(of: ")") else {
                throw Failure(reason: "a comment that never ends")
            }
            position = end + 1
        case ":", "=", "!", ">", "<":
            openGroups.append(OpenGroup(start: start))
            append("(?")
            append(String(source[position + 1]))
            position += 2
            if source[position - 1] == "<", current == "=" || current == "!" {
                append(String(source[position]))
                position += 1
            }
        default: try optionGroup(start)
        }
    }

    private mutating func optionGroup(_ start: Int) throws(Failure) {
        position += 1
        var options = "(?"
        while let scalar = current, scalar != ":", scalar != ")" {
            switch scalar {
            case "i", "-": options.unicodeScalars.append(scalar)
            case "m": options += "s"
            default: throw Failure(reason: "the group option \"\(scalar)\" is not implemented")
            }
            position += 1
        }
        guard let end = current else { throw Failure(reason: "a group that never ends") }
        position += 1
        append(options + ":")
        if end == ":" {
            openGroups.append(OpenGroup(start: start))
        } else if openGroups.isEmpty {
            // In Ruby `a(?i)b|c` is `a(?i:b|c)`: options take in the alternatives behind them.
            impliedAtEnd += 1
        } else {
            openGroups[openGroups.count - 1].implied += 1
        }
    }
}

// MARK: - Escapes

extension OnigurumaSyntax {
    private mutating func append(set: String, negated: Bool) {
        append(item: "[\(negated ? "^" : "")\(completed(set))]")
    }

    private var wordBoundary: String {
        let word = "[\(completed(Self.word))]"
        return "(?<=\(word))(?!\(word))|(?<!\(word))(?=\(word))"
    }

    private mutating func translateEscape() throws(Failure) {
        guard let letter = peek(1) else { throw Failure(reason: "a backslash at the end") }
        if let (set, negated) = Self.shorthand(letter) {
            position += 2
            return append(set: set, negated: negated)
        }
        switch letter {
        case "p", "P":
            let (set, negated) = try property()
            append(set: set, negated: negated)
        case "b":
            position += 2
            append(item: "(?:\(wordBoundary))")
        case "B":
            position += 2
            append(item: "(?!\(wordBoundary))")
        case "O":
            position += 2
            append(item: "(?s:.)")
        case "y", "Y", "C":
            throw Failure(reason: "\\\(letter) is not implemented")
        case "A", "z", "Z", "G", "K", "R", "X", "N", "k", "g", "0"..."9":
            position += 2
            append(item: "\\\(letter)")
            if letter == "k" || letter == "g" { try copyReference() }
        default: append(item: try literalEscape())
        }
    }

    /// `<name>` behind `\k` or `\g`.
    private mutating func copyReference() throws(Failure) {
        guard current == "<", let end = source[position...].firstIndex(of: ">") else {
            throw Failure(reason: "expected <name> behind \\k or \\g")
        }
        append(String(String.UnicodeScalarView(source[position...end])))
        position = end + 1
    }

    /// An escape that stands for one scalar, inside or outside a class.
    mutating func literalEscape() throws(Failure) -> String {
        guard let letter = peek(1) else { throw Failure(reason: "a backslash at the end") }
        position += 2
        switch letter {
        case "t", "n", "r", "f", "a", "e": return "\\\(letter)"
        case "v": return "\\x0B"
        case "u": return "\\x{\(try hexadecimalDigits(least: 4, most: 4))}"
        case "x":
            guard current == "{" else {
                return "\\x{\(try hexadecimalDigits(least: 1, most: 2))}"
            }
            position += 1
            let digits = try hexadecimalDigits(least: 1, most: 8)
            guard current == "}" else { throw Failure(reason: "expected '}' behind \\x{") }
            position += 1
            return "\\x{\(digits)}"
        case "c", "M":
            throw Failure(reason: "control escapes are not implemented")
        // A letter without a meaning is itself; PCRE2 would refuse the escape.
        case "a"..."z", "A"..."Z": return String(letter)
        default: return letter.isASCII ? "\\\(letter)" : String(letter)
        }
    }

    private mutating func hexadecimalDigits(least: Int, most: Int) throws(Failure) -> String {
        var digits = ""
        while digits.utf8.count < most, let scalar = current, Character(scalar).isHexDigit,
            scalar.isASCII
        {
            digits.unicodeScalars.append(scalar)
            position += 1
        }
        guard digits.utf8.count >= least else {
            throw Failure(reason: "expected hexadecimal digits in an escape")
        }
        return digits
    }
}
