/// Removes up to `start` copies of a scalar from a token's beginning and `stop` from its end.
struct StripDecoder: Decoder {
    static let typeName = "Strip"

    private let content: [UInt8]
    private let start: Int
    private let stop: Int

    init(_ section: ConfigSection) throws(TokenizerError) {
        var content: [UInt8] = []
        UTF8Text.append(try section.scalar("content"), to: &content)
        self.content = content
        start = try section.int("start", in: 0...Int(Int32.max))
        stop = try section.int("stop", in: 0...Int(Int32.max))
    }

    func makeStage() -> any DecoderStage {
        Stage(content: content, start: start, stop: stop, startsLeft: start)
    }

    func bytes(of token: [UInt8]) -> [UInt8] {
        var rest = token[...]
        var (startsLeft, stopsLeft) = (start, stop)
        while startsLeft > 0, rest.starts(with: content) {
            rest = rest.dropFirst(content.count)
            startsLeft -= 1
        }
        while stopsLeft > 0, rest.reversed().starts(with: content.reversed()) {
            rest = rest.dropLast(content.count)
            stopsLeft -= 1
        }
        return Array(rest)
    }

    private struct Stage: DecoderStage {
        let content: [UInt8]
        let start: Int
        let stop: Int
        /// Copies that may still be removed from the current token's beginning.
        var startsLeft: Int
        /// Copies held back because they may be the token's end.
        var held = 0

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            if startsLeft == 0, stop == 0, !part.endsToken { return output.append(part) }
            var text: [UInt8] = []
            var index = 0
            while index < part.bytes.count {
                if part.bytes[index...].starts(with: content) {
                    index += content.count
                    if startsLeft > 0 {
                        startsLeft -= 1
                    } else if held < stop {
                        held += 1
                    } else {
                        text.append(contentsOf: content)
                    }
                } else {
                    startsLeft = 0
                    for _ in 0..<held { text.append(contentsOf: content) }
                    held = 0
                    repeat {
                        text.append(part.bytes[index])
                        index += 1
                    } while index < part.bytes.count && part.bytes[index] & 0xC0 == 0x80
                }
            }
            output.append(TokenPart(bytes: text, endsToken: part.endsToken))
            if part.endsToken {
                startsLeft = start
                held = 0
            }
        }

        mutating func finish(into output: inout [TokenPart]) {}
    }
}
