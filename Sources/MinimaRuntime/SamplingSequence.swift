/// What the choice of a sequence's next token depends on besides the logits.
public struct SamplingSequence: Sendable {
    /// How its tokens are chosen.
    public let parameters: SamplingParameters
    /// Index of the next token in the sequence, the prompt's tokens counted. With the seed it decides
    /// the draw.
    public private(set) var position: Int
    /// The prompt's tokens, without order.
    public private(set) var prompt: Set<Int32> = []
    /// How often the answer holds each of its tokens.
    public private(set) var counts: [Int32: Int] = [:]
    /// Which tokens may be the next one, 32 to a word, token 0 the lowest bit of the first, at least one
    /// of them; `nil`: any. Goes with the token that is chosen by it.
    public var mask: [UInt32]?

    /// A sequence that begins with `tokens`, the first `promptCount` of them the prompt (by default
    /// all) and the others already generated.
    public init(
        _ parameters: SamplingParameters, tokens: [Int32] = [], promptCount: Int? = nil
    ) {
        self.parameters = parameters
        position = tokens.count
        guard parameters.usesHistory else { return }
        let end = min(promptCount ?? tokens.count, tokens.count)
        prompt = Set(tokens[..<end])
        for token in tokens[end...] { counts[token, default: 0] += 1 }
    }

    /// Appends the token that was chosen.
    public mutating func append(_ token: Int32) {
        position += 1
        mask = nil
        if parameters.usesHistory { counts[token, default: 0] += 1 }
    }

    /// Moves on by tokens that no penalty will ask for.
    mutating func skip(_ count: Int) { position += count }
}
