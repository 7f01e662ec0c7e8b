/// What decoding does without a decoder: tokens with a space between them.
struct JoinStage: DecoderStage {
    private var isFirst = true

    mutating func consume(_ part: TokenPart, into output: inout [TokenPart]) {
        if !isFirst { output.append(TokenPart(bytes: [UInt8(ascii: " ")], endsToken: false)) }
        output.append(part)
        isFirst = false
    }

    mutating func finish(into output: inout [TokenPart]) {}

    /// As ``Decoder/bytes(of:)``.
    static func bytes(of token: [UInt8]) -> [UInt8] { [UInt8(ascii: " ")] + token }
}
