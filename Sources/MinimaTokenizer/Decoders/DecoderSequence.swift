/// Applies decoders one after the other.
struct DecoderSequence: Decoder {
    static let typeName = "Sequence"

    private let parts: [any Decoder]

    init(_ section: ConfigSection) throws(TokenizerError) {
        var parts: [any Decoder] = []
        for element in try section.section("decoders").elements() {
            parts.append(try Registry.decoder(element))
        }
        self.parts = parts
    }

    func makeStage() -> any DecoderStage { Stage(stages: parts.map { $0.makeStage() }) }

    /// Behind ``FuseDecoder`` there is one token, the whole text: what is done at a token's ends is
    /// then not done to those in the middle.
    func bytes(of token: [UInt8]) -> [UInt8] {
        var bytes = token
        var isFused = false
        for part in parts {
            if part is FuseDecoder { isFused = true }
            if isFused, part is StripDecoder { continue }
            bytes = part.bytes(of: bytes)
        }
        return bytes
    }

    private struct Stage: DecoderStage {
        var stages: [any DecoderStage]

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            var parts = [part]
            for index in stages.indices {
                var next: [TokenPart] = []
                for part in parts { stages[index].consume(part, into: &next) }
                parts = next
            }
            output.append(contentsOf: parts)
        }

        mutating func finish(into output: inout [TokenPart]) {
            var parts: [TokenPart] = []
            for index in stages.indices {
                var next: [TokenPart] = []
                for part in parts { stages[index].consume(part, into: &next) }
                stages[index].finish(into: &next)
                parts = next
            }
            output.append(contentsOf: parts)
        }
    }
}
