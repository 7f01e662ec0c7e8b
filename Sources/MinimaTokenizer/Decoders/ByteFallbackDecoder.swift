/// Joins runs of byte tokens such as `<0xE2>` and reads them as UTF-8.
///
/// As in Hugging Face's library a run that is not UTF-8 becomes one U+FFFD a byte, however much of
/// it would be readable; hence a run is held back until a token that is not a byte ends it.
struct ByteFallbackDecoder: Decoder {
    static let typeName = "ByteFallback"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func makeStage() -> any DecoderStage { Stage() }

    func bytes(of token: [UInt8]) -> [UInt8] { Self.byte(of: token).map { [$0] } ?? token }

    /// The byte that a token such as `<0x0A>` stands for.
    static func byte(of token: [UInt8]) -> UInt8? {
        guard token.count == 6, token.starts(with: "<0x".utf8), token[5] == UInt8(ascii: ">")
        else { return nil }
        return UInt8(String(decoding: token[3..<5], as: UTF8.self), radix: 16)
    }

    private struct Stage: DecoderStage {
        var assembly = TokenAssembly()
        var run: [UInt8] = []

        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            guard let token = assembly.token(adding: part) else { return }
            if let byte = ByteFallbackDecoder.byte(of: token) {
                run.append(byte)
            } else {
                finish(into: &output)
                output.append(TokenPart(bytes: token, endsToken: true))
            }
        }

        mutating func finish(into output: inout [TokenPart]) {
            guard !run.isEmpty else { return }
            if String(validating: run, as: UTF8.self) != nil {
                output.append(TokenPart(bytes: run, endsToken: true))
            } else {
                for _ in run {
                    output.append(TokenPart(bytes: Array("\u{FFFD}".utf8), endsToken: true))
                }
            }
            run = []
        }
    }
}
