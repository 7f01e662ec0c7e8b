/// What `Split` and `Replace` look for: `{"String": …}` or `{"Regex": …}`.
enum TextPattern: Sendable {
    case literal([UInt8])
    case regex(Regex)

    /// Reads a component's `pattern`.
    init(_ section: ConfigSection) throws(TokenizerError) {
        if let text = try section.optionalString("String") {
            guard !text.isEmpty else { throw section.malformed("the string is empty") }
            self = .literal(Array(text.utf8))
        } else if let source = try section.optionalString("Regex") {
            self = .regex(try Regex(source, in: section))
        } else {
            throw section.malformed("expected {\"String\": …} or {\"Regex\": …}")
        }
    }

    /// Calls `body` with the bounds of every occurrence of `literal`, which is not empty.
    @inline(__always)
    static func forEachMatch(
        of literal: [UInt8], in text: UnsafeBufferPointer<UInt8>,
        _ body: (_ start: Int, _ end: Int) -> Void
    ) {
        let first = literal[0]
        var index = 0
        while index + literal.count <= text.count {
            if text[index] == first,
                literal.indices.allSatisfy({ text[index + $0] == literal[$0] })
            {
                body(index, index + literal.count)
                index += literal.count
            } else {
                index += 1
            }
        }
    }

    /// `text` with every occurrence of `literal` replaced by `content`.
    static func replacing(_ literal: [UInt8], in text: [UInt8], with content: [UInt8]) -> [UInt8] {
        var replaced: [UInt8] = []
        replaced.reserveCapacity(text.count + text.count / 2)
        var copied = 0
        text.withUnsafeBufferPointer { text in
            forEachMatch(of: literal, in: text) { start, end in
                replaced.append(contentsOf: text[copied..<start])
                replaced.append(contentsOf: content)
                copied = end
            }
            replaced.append(contentsOf: text[copied...])
        }
        return replaced
    }

    /// `text` with every match replaced by `content`.
    ///
    /// - Throws: `TokenizerError.textTooLong` when the result would pass what one call encodes.
    func replacing(in text: [UInt8], with content: [UInt8]) throws(TokenizerError) -> [UInt8] {
        var matches: [Range<Int>] = []
        try text.withUnsafeBufferPointer { (buffer) throws(TokenizerError) in
            switch self {
            case .literal(let literal):
                Self.forEachMatch(of: literal, in: buffer) { matches.append($0..<$1) }
            case .regex(let regex):
                try regex.matcher(for: text).forEachMatch(in: buffer) { matches.append($0..<$1) }
            }
        }
        let removed = matches.reduce(0) { $0 + $1.count }
        let (added, overflow) = matches.count.multipliedReportingOverflow(by: content.count)
        guard !overflow, added <= Tokenizer.maximumByteCount - (text.count - removed) else {
            throw .textTooLong(bytes: overflow ? .max : added, limit: Tokenizer.maximumByteCount)
        }
        var replaced: [UInt8] = []
        replaced.reserveCapacity(text.count - removed + added)
        var copied = 0
        for match in matches {
            replaced.append(contentsOf: text[copied..<match.lowerBound])
            replaced.append(contentsOf: content)
            copied = match.upperBound
        }
        replaced.append(contentsOf: text[copied...])
        return replaced
    }
}
