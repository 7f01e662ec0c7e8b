/// Turns the suffix that marks a word's end into a space, and drops it from the last token.
struct BPEDecoder: Decoder {
    static let typeName = "BPEDecoder"

    private let suffix: [UInt8]

    init(_ section: ConfigSection) throws(TokenizerError) {
        suffix = Array(try section.string("suffix").utf8)
        guard !suffix.isEmpty else { throw section.malformed("\"suffix\" is empty") }
    }

    func makeStage() -> any DecoderStage { Stage(suffix: suffix) }

    func bytes(of token: [UInt8]) -> [UInt8] {
        TextPattern.replacing(suffix, in: token, with: [UInt8(ascii: " ")])
    }

    private struct Stage: DecoderStage {
        let suffix: [UInt8]
        var assembly = TokenAssembly()
        var last: [UInt8]?

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            guard let token = assembly.token(adding: part) else { return }
            put([UInt8(ascii: " ")], into: &output)
            last = token
        }

        mutating func finish(into output: inout [TokenPart]) {
            put([], into: &output)
            last = nil
        }

        private func put(_ replacement: [UInt8], into output: inout [TokenPart]) {
            guard let last else { return }
            let text = TextPattern.replacing(suffix, in: last, with: replacement)
            output.append(TokenPart(bytes: text, endsToken: true))
        }
    }
}
