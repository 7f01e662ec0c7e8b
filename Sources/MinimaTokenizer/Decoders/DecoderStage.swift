/// A stretch of a token's text on its way through the decoders.
struct TokenPart {
    /// Whole scalars in UTF-8.
    var bytes: [UInt8]
    /// Whether the token is complete with this stretch.
    var endsToken: Bool
}

/// A decoder at work: tokens go in one after the other, text comes out as soon as no later token
/// can change it. What all calls put out together is what decoding all tokens at once gives.
protocol DecoderStage: Sendable {
    mutating func consume(_ part: TokenPart, into output: inout [TokenPart])

    /// Puts out what was held back, after the last token.
    mutating func finish(into output: inout [TokenPart])
}

/// Collects the parts of a token, for stages that need it whole.
struct TokenAssembly: Sendable {
    private var bytes: [UInt8] = []

    /// The whole token once `part` completes it.
    mutating func token(adding part: TokenPart) -> [UInt8]? {
        if part.endsToken, bytes.isEmpty { return part.bytes }
        bytes.append(contentsOf: part.bytes)
        guard part.endsToken else { return nil }
        defer { bytes = [] }
        return bytes
    }
}
