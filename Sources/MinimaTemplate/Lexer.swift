/// Cuts a template into tokens as Jinja does with `trim_blocks` and `lstrip_blocks` on.
///
/// - Complexity: O(scalars).
struct Lexer {
    private let source: [Unicode.Scalar]
    private var position = 0
    private var line = 1
    /// Whether the token before ended a line, so that a block after spaces stands alone on its own.
    private var atLineStart = true
    /// Closing brackets that are due, innermost last.
    private var brackets: [Unicode.Scalar] = []
    private var tokens: [Token] = []

    /// Longest first, so that `**` is not read as two `*`.
    private static let symbols: [[Unicode.Scalar]] = [
        "==", "!=", ">=", "<=", "//", "**", "+", "-", "/", "*", "%", "~", "[", "]", "(", ")", "{",
        "}", ">", "<", "=", ".", ":", "|", ",", ";",
    ].map { Array($0.unicodeScalars) }

    /// Every token of `source`, an end token last.
    static func tokens(of source: String) throws(TemplateError) -> [Token] {
        guard source.utf8.count <= TemplateLimits.sourceBytes else {
            throw TemplateError(
                .limit,
                "the template has \(source.utf8.count) bytes; at most \(TemplateLimits.sourceBytes)"
            )
        }
        var lexer = Lexer(source: source)
        try lexer.run()
        return lexer.tokens
    }

    private init(source: String) {
        var scalars = PythonText.normalizedNewlines(source.unicodeScalars)
        if scalars.last == "\n" { scalars.removeLast() }
        self.source = scalars
    }

    private func failure(_ reason: String) -> TemplateError {
        TemplateError(.syntax, line: line, reason)
    }

    private func scalar(_ ahead: Int = 0) -> Unicode.Scalar? {
        position + ahead < source.count ? source[position + ahead] : nil
    }

    private func matches(_ text: StaticString, at index: Int) -> Bool {
        text.withUTF8Buffer { bytes in
            index >= 0 && index + bytes.count <= source.count
                && bytes.indices.allSatisfy { source[index + $0].value == UInt32(bytes[$0]) }
        }
    }

    /// Moves to `index`, counting the lines passed.
    private mutating func advance(to index: Int) {
        line += source[position..<index].count { $0 == "\n" }
        if index > position { atLineStart = source[index - 1] == "\n" }
        position = index
    }

    private func skippingSpace(from index: Int) -> Int {
        var index = index
        while index < source.count, PythonText.isSpace(source[index]) { index += 1 }
        return index
    }

    private mutating func run() throws(TemplateError) {
        while position < source.count {
            guard let tag = nextTag(from: position) else {
                emitText(from: position, to: source.count)
                break
            }
            let sign: Unicode.Scalar? =
                tag + 2 < source.count && (source[tag + 2] == "-" || source[tag + 2] == "+")
                ? source[tag + 2] : nil
            let isOutput = source[tag + 1] == "{"
            emitText(from: position, to: tag, sign: sign, keepsIndent: isOutput)
            if let body = rawBody(at: tag) {
                try raw(from: body)
                continue
            }
            let start = tag + (sign == nil ? 2 : 3)
            switch source[tag + 1] {
            case "#": try comment(from: start)
            case "{":
                tokens.append(Token(kind: .outputBegin, line: line))
                try readTag(from: start, closing: "}")
            default:
                tokens.append(Token(kind: .blockBegin, line: line))
                try readTag(from: start, closing: "%")
            }
        }
        tokens.append(Token(kind: .end, line: line))
    }

    private func nextTag(from index: Int) -> Int? {
        var index = index
        while index + 1 < source.count {
            if source[index] == "{" {
                let next = source[index + 1]
                if next == "{" || next == "%" || next == "#" { return index }
            }
            index += 1
        }
        return nil
    }

    /// Emits text up to a tag, stripped as the tag's sign asks, and moves to the tag.
    private mutating func emitText(
        from start: Int, to tag: Int, sign: Unicode.Scalar? = "+", keepsIndent: Bool = false
    ) {
        var end = tag
        if sign == "-" {
            while end > start, PythonText.isSpace(source[end - 1]) { end -= 1 }
        } else if sign == nil && !keepsIndent {
            var lineStart = end
            while lineStart > start, source[lineStart - 1] != "\n" { lineStart -= 1 }
            let alone = lineStart > start || atLineStart
            if alone, source[lineStart..<end].allSatisfy(PythonText.isSpace) { end = lineStart }
        }
        if end > start {
            let text = PythonText.string(source[start..<end])
            tokens.append(Token(kind: .text(text), line: line))
        }
        advance(to: tag)
    }

    private mutating func comment(from start: Int) throws(TemplateError) {
        var index = start
        while index + 1 < source.count, !matches("#}", at: index) { index += 1 }
        guard index + 1 < source.count else {
            // Jinja takes a comment that opens at the very end for an empty one.
            guard start < source.count else { return advance(to: source.count) }
            throw failure("a comment '{#' without its '#}'")
        }
        let sign: Unicode.Scalar? = index > start ? source[index - 1] : nil
        advance(to: end(of: index + 2, sign: sign))
    }

    /// Where text resumes after a tag that ends at `index`.
    private func end(of index: Int, sign: Unicode.Scalar?) -> Int {
        switch sign {
        case "-": skippingSpace(from: index)
        case "+": index
        default: index < source.count && source[index] == "\n" ? index + 1 : index
        }
    }

    /// Where the text of a raw block begins, when the tag at `tag` opens one.
    private func rawBody(at tag: Int) -> Int? {
        guard source[tag + 1] == "%" else { return nil }
        var index = tag + 2
        if index < source.count, source[index] == "-" || source[index] == "+" { index += 1 }
        index = skippingSpace(from: index)
        guard matches("raw", at: index) else { return nil }
        index = skippingSpace(from: index + 3)
        if matches("-%}", at: index) { return skippingSpace(from: index + 3) }
        return matches("%}", at: index) ? index + 2 : nil
    }

    private mutating func raw(from start: Int) throws(TemplateError) {
        var tag = start
        while tag < source.count {
            if matches("{%", at: tag) {
                var index = tag + 2
                var sign: Unicode.Scalar?
                if index < source.count, source[index] == "-" || source[index] == "+" {
                    sign = source[index]
                    index += 1
                }
                index = skippingSpace(from: index)
                if matches("endraw", at: index) {
                    index = skippingSpace(from: index + 6)
                    let closing: Unicode.Scalar? =
                        matches("-%}", at: index) || matches("+%}", at: index) ? source[index] : nil
                    if closing != nil { index += 1 }
                    if matches("%}", at: index) {
                        advance(to: start)
                        emitText(from: start, to: tag, sign: sign)
                        advance(to: end(of: index + 2, sign: closing))
                        return
                    }
                }
            }
            tag += 1
        }
        throw failure("'{% raw %}' without its '{% endraw %}'")
    }

    /// Reads the tokens of a tag up to its end, `%}` or `}}`.
    private mutating func readTag(
        from start: Int, closing: Unicode.Scalar
    ) throws(TemplateError) {
        let opening = line
        advance(to: start)
        brackets = []
        while let next = scalar() {
            if brackets.isEmpty, let after = tagEnd(closing: closing) {
                let kind: Token.Kind = closing == "%" ? .blockEnd : .outputEnd
                tokens.append(Token(kind: kind, line: line))
                advance(to: after)
                return
            }
            if PythonText.isSpace(next) {
                advance(to: skippingSpace(from: position))
            } else if next == "'" || next == "\"" {
                try string(quote: next)
            } else if PythonText.isDigit(next) {
                try number()
            } else if Self.isNamePart(next) {
                try name()
            } else {
                try symbol()
            }
        }
        throw TemplateError(
            .syntax, line: opening,
            "'{\(closing == "%" ? "%" : "{")' without its '\(closing == "%" ? "%" : "}")}'")
    }

    private func tagEnd(closing: Unicode.Scalar) -> Int? {
        var index = position
        var sign: Unicode.Scalar?
        if source[index] == "-" || (closing == "%" && source[index] == "+") {
            sign = source[index]
            index += 1
        }
        guard index + 1 < source.count, source[index] == closing, source[index + 1] == "}" else {
            return nil
        }
        if closing == "}" { return sign == "-" ? skippingSpace(from: index + 2) : index + 2 }
        return end(of: index + 2, sign: sign)
    }

    private mutating func symbol() throws(TemplateError) {
        let found = Self.symbols.first { candidate in
            candidate.indices.allSatisfy { scalar($0) == candidate[$0] }
        }
        guard let found, let first = found.first else {
            throw failure("unexpected character '\(source[position])'")
        }
        switch first {
        case "(": brackets.append(")")
        case "[": brackets.append("]")
        case "{": brackets.append("}")
        case ")", "]", "}":
            guard let due = brackets.popLast() else { throw failure("unexpected '\(first)'") }
            guard due == first else { throw failure("unexpected '\(first)', expected '\(due)'") }
        default: break
        }
        tokens.append(Token(kind: .symbol(PythonText.string(found[...])), line: line))
        advance(to: position + found.count)
    }
}

extension Lexer {
    private static func isNamePart(_ scalar: Unicode.Scalar) -> Bool {
        scalar == "_" || scalar.properties.isXIDContinue
    }

    private mutating func name() throws(TemplateError) {
        var end = position
        while end < source.count, Self.isNamePart(source[end]) { end += 1 }
        let name = PythonText.string(source[position..<end])
        guard source[position] == "_" || source[position].properties.isXIDStart else {
            throw failure("'\(name)' is not a name")
        }
        tokens.append(Token(kind: .name(name), line: line))
        advance(to: end)
    }

    private mutating func string(quote: Unicode.Scalar) throws(TemplateError) {
        var end = position + 1
        while end < source.count, source[end] != quote { end += source[end] == "\\" ? 2 : 1 }
        guard end < source.count else { throw failure("a string that never ends") }
        let text: String
        do {
            text = try PythonText.unescaped(source[(position + 1)..<end])
        } catch {
            throw failure(error.reason)
        }
        tokens.append(Token(kind: .string(text), line: line))
        advance(to: end + 1)
    }

    /// The end of digits with single underscores between them, from `index` on.
    private func digits(from index: Int, where isDigit: (Unicode.Scalar) -> Bool) -> Int {
        var end = index
        while end < source.count {
            if isDigit(source[end]) {
                end += 1
            } else if source[end] == "_", end > index, end + 1 < source.count,
                isDigit(source[end + 1])
            {
                end += 2
            } else {
                break
            }
        }
        return end
    }

    private mutating func number() throws(TemplateError) {
        if source[position] == "0", let marker = scalar(1) {
            let bases: [Unicode.Scalar: Int] = [
                "x": 16, "X": 16, "o": 8, "O": 8, "b": 2, "B": 2,
            ]
            if let base = bases[marker] {
                let start = position + 2 + (scalar(2) == "_" ? 1 : 0)
                let end = digits(from: start) {
                    Character($0).isASCII && (Character($0).hexDigitValue ?? 99) < base
                }
                if end > start { return try integer(from: start, to: end, base: base) }
            }
        }
        let whole = digits(from: position, where: PythonText.isDigit)
        var end = whole
        let afterDot = tokens.last.map { $0.kind == .symbol(".") } ?? false
        if !afterDot {
            if end < source.count, source[end] == "." {
                let fraction = digits(from: end + 1, where: PythonText.isDigit)
                if fraction > end + 1 { end = fraction }
            }
            if end < source.count, source[end] == "e" || source[end] == "E" {
                var exponent = end + 1
                if exponent < source.count, source[exponent] == "+" || source[exponent] == "-" {
                    exponent += 1
                }
                let last = digits(from: exponent, where: PythonText.isDigit)
                if last > exponent { end = last }
            }
        }
        if end == whole {
            if source[position] == "0" {
                // Python has no leading zeros: "012" is the number 0 and then 12.
                let zeros = digits(from: position) { $0 == "0" }
                return try integer(from: position, to: zeros, base: 10)
            }
            return try integer(from: position, to: whole, base: 10)
        }
        let text = PythonText.string(source[position..<end].filter { $0 != "_" }[...])
        guard let value = Double(text) else { throw failure("'\(text)' is not a number") }
        tokens.append(Token(kind: .float(value), line: line))
        advance(to: end)
    }

    private mutating func integer(
        from start: Int, to end: Int, base: Int
    ) throws(TemplateError) {
        let text = PythonText.string(source[start..<end].filter { $0 != "_" }[...])
        guard let value = Int(text, radix: base) else {
            throw TemplateError(
                .unsupported, line: line, "the integer \(text); integers have 64 bits")
        }
        tokens.append(Token(kind: .integer(value), line: line))
        advance(to: end)
    }
}
