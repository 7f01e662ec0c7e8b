/// Joins all tokens into one.
struct FuseDecoder: Decoder {
    static let typeName = "Fuse"

    init(_ section: ConfigSection) throws(TokenizerError) {}

    func makeStage() -> any DecoderStage { Stage() }

    func bytes(of token: [UInt8]) -> [UInt8] { token }

    private struct Stage: DecoderStage {
        mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
            output.append(TokenPart(bytes: part.bytes, endsToken: false))
        }

        mutating func finish(into output: inout [TokenPart]) {
            output.append(TokenPart(bytes: [], endsToken: true))
        }
    }
}
