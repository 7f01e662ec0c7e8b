/// Python's notions of text: a sequence of Unicode scalars, never of grapheme clusters.
enum PythonText {
    typealias Scalars = ArraySlice<Unicode.Scalar>

    static func string(_ scalars: Scalars) -> String {
        var text = String.UnicodeScalarView()
        text.append(contentsOf: scalars)
        return String(text)
    }

    static func scalars(_ text: String) -> [Unicode.Scalar] { Array(text.unicodeScalars) }

    /// Equality of scalars; Swift's `==` would also equate canonically equivalent texts.
    static func equal(_ left: String, _ right: String) -> Bool {
        left.utf8.elementsEqual(right.utf8)
    }

    /// Order by scalars, which is the order of UTF-8 bytes.
    static func precedes(_ left: String, _ right: String) -> Bool {
        left.utf8.lexicographicallyPrecedes(right.utf8)
    }

    /// `str.isspace` of one scalar: Unicode's White_Space and the four ASCII separators.
    static func isSpace(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x20, 0x09...0x0D, 0x1C...0x1F: true
        case ..<0x80: false
        default: scalar.properties.isWhitespace
        }
    }

    static func isDigit(_ scalar: Unicode.Scalar) -> Bool { ("0"..."9").contains(scalar) }

    /// Whether `str.splitlines` breaks here.
    static func isLineBreak(_ scalar: Unicode.Scalar) -> Bool {
        switch scalar.value {
        case 0x0A...0x0D, 0x1C...0x1E, 0x85, 0x2028, 0x2029: true
        default: false
        }
    }

    /// `str.isprintable` of one scalar.
    static func isPrintable(_ scalar: Unicode.Scalar) -> Bool {
        if (0x20..<0x7F).contains(scalar.value) { return true }
        return switch scalar.properties.generalCategory {
        case .control, .format, .surrogate, .privateUse, .unassigned, .lineSeparator,
            .paragraphSeparator, .spaceSeparator:
            false
        default: true
        }
    }

    /// The scalars with `\r\n` and `\r` as `\n`.
    static func normalizedNewlines(_ scalars: some Sequence<Unicode.Scalar>) -> [Unicode.Scalar] {
        var result: [Unicode.Scalar] = []
        var afterReturn = false
        for scalar in scalars {
            if !(afterReturn && scalar == "\n") { result.append(scalar == "\r" ? "\n" : scalar) }
            afterReturn = scalar == "\r"
        }
        return result
    }

    static func hexadecimal(_ value: UInt32, width: Int) -> String {
        let digits = String(value, radix: 16)
        return String(repeating: "0", count: max(0, width - digits.count)) + digits
    }

    /// What `repr` gives for a string.
    static func repr(_ text: String) -> String {
        let scalars = text.unicodeScalars
        let quote: Unicode.Scalar = scalars.contains("'") && !scalars.contains("\"") ? "\"" : "'"
        var result = String.UnicodeScalarView()
        result.append(quote)
        for scalar in scalars {
            switch scalar {
            case "\\", quote:
                result.append("\\")
                result.append(scalar)
            case "\n": result.append(contentsOf: "\\n".unicodeScalars)
            case "\r": result.append(contentsOf: "\\r".unicodeScalars)
            case "\t": result.append(contentsOf: "\\t".unicodeScalars)
            default:
                guard !isPrintable(scalar) else {
                    result.append(scalar)
                    continue
                }
                result.append(contentsOf: escape(scalar).unicodeScalars)
            }
        }
        result.append(quote)
        return String(result)
    }

    /// Python's shortest escape of a scalar: `\xe9`, `\u2028` or `\U0001f600`.
    private static func escape(_ scalar: Unicode.Scalar) -> String {
        switch scalar.value {
        case ..<0x100: "\\x" + hexadecimal(scalar.value, width: 2)
        case ..<0x10000: "\\u" + hexadecimal(scalar.value, width: 4)
        default: "\\U" + hexadecimal(scalar.value, width: 8)
        }
    }

    /// The text of a string literal's body.
    ///
    /// Jinja writes scalars beyond ASCII as escapes before it reads escapes, so that a backslash
    /// before such a scalar swallows the backslash of its escape; that is kept.
    static func unescaped(_ body: Scalars) throws(TemplateError) -> String {
        guard body.contains("\\") else { return string(normalizedNewlines(body)[...]) }
        var ascii: [Unicode.Scalar] = []
        for scalar in normalizedNewlines(body) {
            if scalar.isASCII {
                ascii.append(scalar)
            } else {
                ascii.append(contentsOf: escape(scalar).unicodeScalars)
            }
        }
        var result = String.UnicodeScalarView()
        var index = 0
        while index < ascii.count {
            guard ascii[index] == "\\" else {
                result.append(ascii[index])
                index += 1
                continue
            }
            guard index + 1 < ascii.count else {
                throw TemplateError(.syntax, "a string that ends in a backslash")
            }
            try appendEscape(in: ascii, at: &index, to: &result)
        }
        return String(result)
    }

    private static func appendEscape(
        in ascii: [Unicode.Scalar], at index: inout Int, to result: inout String.UnicodeScalarView
    ) throws(TemplateError) {
        let letter = ascii[index + 1]
        index += 2
        let plain: [Unicode.Scalar: Unicode.Scalar] = [
            "\\": "\\", "'": "'", "\"": "\"", "a": "\u{7}", "b": "\u{8}", "f": "\u{C}",
            "n": "\n", "r": "\r", "t": "\t", "v": "\u{B}",
        ]
        if let scalar = plain[letter] {
            result.append(scalar)
            return
        }
        let widths: [Unicode.Scalar: Int] = ["x": 2, "u": 4, "U": 8]
        if let width = widths[letter] {
            let digits = ascii[index..<min(index + width, ascii.count)]
            guard digits.count == width, digits.allSatisfy({ Character($0).isHexDigit }),
                let value = UInt32(string(digits), radix: 16)
            else {
                throw TemplateError(.syntax, "the escape '\\\(letter)' needs \(width) digits")
            }
            guard let scalar = Unicode.Scalar(value) else {
                throw TemplateError(
                    .unsupported, "the escape '\\\(letter)\(string(digits))', no Unicode scalar")
            }
            index += width
            result.append(scalar)
            return
        }
        switch letter {
        case "\n": break
        case "0"..."7":
            var value: UInt32 = letter.value - 0x30
            var count = 1
            while count < 3, index < ascii.count, ("0"..."7").contains(ascii[index]) {
                value = value * 8 + ascii[index].value - 0x30
                index += 1
                count += 1
            }
            if let scalar = Unicode.Scalar(value) { result.append(scalar) }
        case "N": throw TemplateError(.unsupported, "the escape '\\N{…}'; write '\\u' and digits")
        default:
            result.append("\\")
            result.append(letter)
        }
    }
}
