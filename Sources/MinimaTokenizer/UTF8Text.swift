/// Reading and writing UTF-8 scalar by scalar, on bytes that are known to be valid.
///
/// `Character` and `String` comparison follow canonical equivalence and grapheme clusters; tokens
/// are byte strings, so nothing below the public API touches either.
enum UTF8Text {
    /// The scalar that starts at `index`, and its length in bytes.
    @inline(__always)
    static func scalar(
        in bytes: UnsafeBufferPointer<UInt8>, at index: Int
    ) -> (value: UInt32, length: Int) {
        let lead = bytes[index]
        if lead < 0x80 { return (UInt32(lead), 1) }
        let length = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4
        // A text cut inside a scalar cannot come up; reading it would still stay within bounds.
        guard index + length <= bytes.count else { return (0xFFFD, bytes.count - index) }
        var value = UInt32(lead) & (0x7F >> UInt32(length))
        for offset in 1..<length { value = value << 6 | UInt32(bytes[index + offset] & 0x3F) }
        return (value, length)
    }

    /// The scalar that ends just before `index`, which is not 0.
    static func scalar(in bytes: UnsafeBufferPointer<UInt8>, before index: Int) -> (
        value: UInt32, length: Int
    ) {
        var start = index - 1
        while start > 0, bytes[start] & 0xC0 == 0x80 { start -= 1 }
        return (scalar(in: bytes, at: start).value, index - start)
    }

    /// Appends a scalar's encoding.
    static func append(_ scalar: Unicode.Scalar, to bytes: inout [UInt8]) {
        // Every `Unicode.Scalar` has an encoding, so the replacement never shows.
        bytes.append(contentsOf: UTF8.encode(scalar) ?? UTF8.encodedReplacementCharacter)
    }

    /// A copy in which every maximal ill-formed part is U+FFFD; valid input is returned as it is.
    static func repaired(_ bytes: [UInt8]) -> [UInt8] {
        var text = String(decoding: bytes, as: UTF8.self)
        return text.withUTF8 { Array($0) }
    }

    /// The end of the white space that starts at `index`.
    static func endOfWhitespace(in bytes: UnsafeBufferPointer<UInt8>, from index: Int) -> Int {
        var end = index
        while end < bytes.count {
            let (value, length) = scalar(in: bytes, at: end)
            guard Unicode.Scalar(value)?.isWhitespace == true else { break }
            end += length
        }
        return end
    }

    /// The start of the white space that ends just before `index`.
    static func startOfWhitespace(in bytes: UnsafeBufferPointer<UInt8>, before index: Int) -> Int {
        var start = index
        while start > 0 {
            let (value, length) = scalar(in: bytes, before: start)
            guard Unicode.Scalar(value)?.isWhitespace == true else { break }
            start -= length
        }
        return start
    }

    /// Calls `body` with every scalar of `bytes` and its range.
    @inline(__always)
    static func forEachScalar(
        _ bytes: UnsafeBufferPointer<UInt8>, from start: Int = 0,
        _ body: (_ scalar: Unicode.Scalar, _ start: Int, _ end: Int) -> Void
    ) {
        var index = start
        while index < bytes.count {
            let (value, length) = scalar(in: bytes, at: index)
            body(Unicode.Scalar(value) ?? "\u{FFFD}", index, index + length)
            index += length
        }
    }
}

extension Unicode.Scalar {
    /// Whether the scalar is white space (Unicode property White_Space).
    var isWhitespace: Bool {
        value < 0x80 ? value == 0x20 || (0x09...0x0D).contains(value) : properties.isWhitespace
    }

    /// Whether the scalar is a number (general categories Nd, Nl, No).
    var isNumeric: Bool {
        if value < 0x80 { return (0x30...0x39).contains(value) }
        return switch properties.generalCategory {
        case .decimalNumber, .letterNumber, .otherNumber: true
        default: false
        }
    }

    /// Whether the scalar is a combining mark (general categories Mn, Mc, Me) as of Unicode 9,
    /// which is what Hugging Face's library has for this question.
    var isMark: Bool {
        guard value >= 0x300, let age = properties.age, age.major <= 9 else { return false }
        return switch properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark: true
        default: false
        }
    }

    /// Whether the scalar is punctuation: ASCII punctuation and symbols, and general category P as
    /// of Unicode 8, which is what Hugging Face's library has for this one question.
    var isPunctuationOrASCIISymbol: Bool {
        if value < 0x80 {
            return (0x21...0x2F).contains(value) || (0x3A...0x40).contains(value)
                || (0x5B...0x60).contains(value) || (0x7B...0x7E).contains(value)
        }
        // Punctuation of Unicode 8 that has another category since.
        if value == 0x166D || value == 0x111C9 { return true }
        guard let age = properties.age, age.major <= 8 else { return false }
        return switch properties.generalCategory {
        case .connectorPunctuation, .dashPunctuation, .closePunctuation, .finalPunctuation,
            .initialPunctuation, .otherPunctuation, .openPunctuation:
            true
        default: false
        }
    }

    /// Whether the scalar is part of a word (Unicode TR 18, annex C, as Rust's `\w`; Unicode 16).
    var isWord: Bool {
        if value < 0x80 {
            return (0x30...0x39).contains(value) || (0x41...0x5A).contains(value)
                || (0x61...0x7A).contains(value) || value == 0x5F
        }
        guard let age = properties.age, age.major <= 16 else { return false }
        return switch properties.generalCategory {
        case .nonspacingMark, .spacingMark, .enclosingMark, .decimalNumber, .connectorPunctuation:
            true
        default: properties.isAlphabetic || properties.isJoinControl
        }
    }
}
