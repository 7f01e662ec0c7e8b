/// Decodes ids one at a time, as they are generated.
///
/// Text comes out as soon as no later token can change it: a scalar whose bytes are spread over
/// several tokens comes out whole, with the last of them. All that comes out, joined, is what
/// `Tokenizer.decode(_:skipSpecialTokens:)` gives for all ids.
public struct TokenStream: Sendable {
    private let tokenizer: Tokenizer
    private var stage: any DecoderStage
    private let skipsSpecialTokens: Bool
    /// Special tokens that come out all the same.
    private let kept: Set<Int32>
    private var isFinished = false

    init(
        tokenizer: Tokenizer, stage: any DecoderStage, skipsSpecialTokens: Bool, kept: Set<Int32>
    ) {
        self.tokenizer = tokenizer
        self.stage = stage
        self.skipsSpecialTokens = skipsSpecialTokens
        self.kept = kept
    }

    /// The text that `id` completes; often empty.
    public mutating func append(_ id: Int32) -> String {
        var bytes: [UInt8] = []
        append(id, to: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    /// The text that was held back, with U+FFFD for a scalar that stayed incomplete. The stream
    /// puts nothing out after it.
    public mutating func finish() -> String {
        var bytes: [UInt8] = []
        finish(into: &bytes)
        return String(decoding: bytes, as: UTF8.self)
    }

    mutating func append(_ id: Int32, to bytes: inout [UInt8]) {
        guard !isFinished,
            let token = tokenizer.addedTokens.text(id)?[...] ?? tokenizer.vocabulary.token(id)
        else { return }
        if skipsSpecialTokens, tokenizer.addedTokens.isSpecial(token), !kept.contains(id) { return }
        var output: [TokenPart] = []
        stage.consume(TokenPart(bytes: Array(token), endsToken: true), into: &output)
        for part in output { bytes.append(contentsOf: part.bytes) }
    }

    mutating func finish(into bytes: inout [UInt8]) {
        guard !isFinished else { return }
        isFinished = true
        var output: [TokenPart] = []
        stage.finish(into: &output)
        for part in output { bytes.append(contentsOf: part.bytes) }
    }
}
