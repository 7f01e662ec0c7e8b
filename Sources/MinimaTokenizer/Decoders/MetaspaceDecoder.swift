/// Turns the visible space back into a space, and drops those of the first token when the
/// pre-tokenizer puts one in front.
struct MetaspaceDecoder: Decoder {
    static let typeName = "Metaspace"

    private let settings: MetaspaceSettings

    init(_ section: ConfigSection) throws(TokenizerError) {
        settings = try MetaspaceSettings(section)
    }

    func makeStage() -> any DecoderStage {
        Stage(
            replacement: settings.replacement, isFirst: settings.prependScheme != .never)
    }

    func bytes(of token: [UInt8]) -> [UInt8] {
        TextPattern.replacing(settings.replacement, in: token, with: [UInt8(ascii: " ")])
    }

    private struct Stage: DecoderStage {
        let replacement: [UInt8]
        var isFirst: Bool

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            let text = TextPattern.replacing(
                replacement, in: part.bytes, with: isFirst ? [] : [UInt8(ascii: " ")])
            output.append(TokenPart(bytes: text, endsToken: part.endsToken))
            if part.endsToken { isFirst = false }
        }

        mutating func finish(into output: inout [TokenPart]) {}
    }
}
