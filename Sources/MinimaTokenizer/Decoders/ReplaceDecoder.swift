/// Replaces every match of a string or a regular expression, token by token.
///
/// Of a token that arrives in parts (behind `Fuse`), a string's possible beginning is held back at
/// the end of each part; a regular expression needs the whole token.
struct ReplaceDecoder: Decoder {
    static let typeName = "Replace"

    private let pattern: TextPattern
    private let content: [UInt8]

    init(_ section: ConfigSection) throws(TokenizerError) {
        pattern = try TextPattern(try section.section("pattern"))
        content = Array(try section.string("content").utf8)
    }

    func makeStage() -> any DecoderStage {
        switch pattern {
        case .literal(let literal): LiteralStage(literal: literal, content: content)
        case .regex: RegexStage(pattern: pattern, content: content)
        }
    }

    func bytes(of token: [UInt8]) -> [UInt8] {
        // A part of a scalar has nothing that a pattern could be looked for in.
        guard String(validating: token, as: UTF8.self) != nil else { return token }
        return (try? pattern.replacing(in: token, with: content)) ?? token
    }

    private struct LiteralStage: DecoderStage {
        let literal: [UInt8]
        let content: [UInt8]
        var held: [UInt8] = []

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            var text = held + part.bytes
            held = []
            if !part.endsToken {
                let kept = Self.possibleStart(of: literal, in: text)
                held = Array(text[kept...])
                text.removeSubrange(kept...)
            }
            output.append(
                TokenPart(
                    bytes: TextPattern.replacing(literal, in: text, with: content),
                    endsToken: part.endsToken))
        }

        mutating func finish(into output: inout [TokenPart]) {}

        /// Where the part of `text` starts that later text may complete to `literal`.
        static func possibleStart(of literal: [UInt8], in text: [UInt8]) -> Int {
            // Occurrences are taken from the left, so only what follows the last one is open.
            var open = 0
            text.withUnsafeBufferPointer {
                TextPattern.forEachMatch(of: literal, in: $0) { _, end in open = end }
            }
            var start = max(open, text.count - literal.count + 1)
            while start < text.count, !literal.starts(with: text[start...]) { start += 1 }
            return start
        }
    }

    private struct RegexStage: DecoderStage {
        let pattern: TextPattern
        let content: [UInt8]
        var assembly = TokenAssembly()

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            guard let token = assembly.token(adding: part) else { return }
            // A match that gives up leaves the token as it is: decoding has to put something out.
            let text = (try? pattern.replacing(in: token, with: content)) ?? token
            output.append(TokenPart(bytes: text, endsToken: true))
        }

        mutating func finish(into output: inout [TokenPart]) {}
    }
}
