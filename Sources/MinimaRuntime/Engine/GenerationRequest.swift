/// A prompt to continue.
public struct GenerationRequest: Sendable {
    /// Token ids, at least one.
    public var prompt: [Int32]
    /// New tokens at most; the context limits them too. 0 only with ``promptLogprobs``.
    public var maxTokens: Int
    /// How tokens are chosen.
    public var sampling: SamplingParameters
    /// Tokens that end the text; they are not part of it.
    public var stop: Set<Int32>
    /// Whether the prompt's own log-probabilities are told, and with how many of the likeliest tokens
    /// at each place, 0 to ``SamplingParameters/mostLogprobs``; `nil`: they are not.
    public var promptLogprobs: Int?
    /// Which tokens may come; this request's own. Steps propose nothing for it.
    public var constraint: (any TokenConstraint)?
    /// Requests with different ones share no pages, so that nobody can learn from times what others
    /// ask.
    public var cacheSalt: String

    /// A request for up to `maxTokens` tokens after `prompt`.
    public init(
        prompt: [Int32], maxTokens: Int, sampling: SamplingParameters, stop: Set<Int32> = [],
        promptLogprobs: Int? = nil, constraint: (any TokenConstraint)? = nil,
        cacheSalt: String = ""
    ) {
        self.prompt = prompt
        self.maxTokens = maxTokens
        self.sampling = sampling
        self.stop = stop
        self.promptLogprobs = promptLogprobs
        self.constraint = constraint
        self.cacheSalt = cacheSalt
    }
}

/// Why a request ended.
public enum FinishReason: Error, Sendable, Hashable, CustomStringConvertible {
    /// The model wrote an end token.
    case stop
    /// The limit on new tokens, or the context, was reached.
    case length
    /// The caller cancelled it, or the engine shut down.
    case cancelled
    /// It could not be computed.
    case failed(EngineError)

    /// The error of a failure; otherwise ``name``.
    public var description: String {
        if case .failed(let error) = self { error.description } else { name }
    }

    /// `stop`, `length`, `cancelled` or `failed`.
    public var name: String {
        switch self {
        case .stop: "stop"
        case .length: "length"
        case .cancelled: "cancelled"
        case .failed: "failed"
        }
    }
}

/// One new token of a request.
public struct GeneratedToken: Sendable, Hashable {
    /// The token, with likelihoods where the sampling parameters ask for them.
    public var token: SampledToken
    /// Seconds from the request's submission until the host had this token.
    public var seconds: Double

    /// The token's id.
    public var id: Int32 { token.id }
}

/// What came of a request.
public struct GenerationOutcome: Sendable {
    /// All new tokens, without the end token.
    public var tokens: [GeneratedToken]
    /// The prompt's tokens with their log-probabilities, of which the first has none; empty unless the
    /// request asks for them and the prompt was computed.
    public var prompt: [SampledToken]
    /// The end token that ended it, which is not among ``tokens``; `nil` when none did.
    public var ending: SampledToken?
    /// Why it ended.
    public var reason: FinishReason
    /// Tokens of the prompt.
    public var promptTokens: Int
    /// Times it took, in seconds.
    public var timings: GenerationTimings

    /// Ids of the new tokens.
    public var ids: [Int32] { tokens.map(\.id) }
}

/// Where a request's time went, in seconds.
public struct GenerationTimings: Sendable, Hashable {
    /// Submission to the first slot.
    public var queue = 0.0
    /// First slot to the first token; `nil` without one.
    public var prefill: Double?
    /// Submission to the first token; `nil` without one.
    public var firstToken: Double?
    /// Mean from one token to the next; `nil` below two tokens.
    public var perToken: Double?
    /// Submission to the end.
    public var total = 0.0
    /// Times that the request lost its pages and was computed again.
    public var preemptions = 0
    /// Tokens of the prompt that were not computed, as their keys and values were there.
    public var cachedTokens = 0
}
