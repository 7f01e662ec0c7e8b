/// What `minima generate` wrote.
public struct GenerationResult: StageResult, Hashable {
    /// `generation`.
    public static let kind = "generation"

    /// How tokens were chosen, beside temperature and seed; see `SamplingParameters`.
    public struct Sampling: Codable, Sendable, Hashable {
        /// Smallest set of likeliest tokens whose probabilities reach this sum; 1 keeps all.
        public var topP: Double
        /// Number of likeliest tokens kept; 0 keeps all.
        public var topK: Int
        /// Keeps tokens at least this times as probable as the likeliest; 0 keeps all.
        public var minP: Double
        /// Factor against tokens that the prompt or the answer already holds; 1 changes nothing.
        public var repetitionPenalty: Double
        /// Taken off the logits of tokens that the answer already holds.
        public var presencePenalty: Double
        /// Taken off a token's logit for each time the answer holds it.
        public var frequencyPenalty: Double
        /// Added to logits, by token id.
        public var logitBias: [String: Double]

        /// A way of choosing tokens.
        public init(
            topP: Double, topK: Int, minP: Double, repetitionPenalty: Double,
            presencePenalty: Double, frequencyPenalty: Double, logitBias: [String: Double]
        ) {
            self.topP = topP
            self.topK = topK
            self.minP = minP
            self.repetitionPenalty = repetitionPenalty
            self.presencePenalty = presencePenalty
            self.frequencyPenalty = frequencyPenalty
            self.logitBias = logitBias
        }
    }

    /// A token of the answer with its likelihood.
    public struct Token: Codable, Sendable, Hashable {
        /// A token that might have been chosen.
        public struct Alternative: Codable, Sendable, Hashable {
            /// Its id.
            public var id: Int32
            /// Its text in the vocabulary.
            public var token: String
            /// Natural logarithm of its probability in the model's own distribution.
            public var logprob: Float

            /// A token and its likelihood.
            public init(id: Int32, token: String, logprob: Float) {
                self.id = id
                self.token = token
                self.logprob = logprob
            }
        }

        /// Its id.
        public var id: Int32
        /// Its text in the vocabulary.
        public var token: String
        /// Natural logarithm of its probability in the model's own distribution: before bias,
        /// penalties, temperature and filters.
        public var logprob: Float
        /// The likeliest tokens at this place, likeliest first.
        public var alternatives: [Alternative]

        /// A token, its likelihood and what else might have stood there.
        public init(id: Int32, token: String, logprob: Float, alternatives: [Alternative]) {
            self.id = id
            self.token = token
            self.logprob = logprob
            self.alternatives = alternatives
        }
    }

    /// What proposed tokens did, in all that the engine had computed by the answer's end.
    public struct Speculation: Codable, Sendable, Hashable {
        /// `ngram`, or the draft's directory.
        public var draft: String
        /// Mean number of new tokens per sequence and step that proposed some; `nil` without one.
        public var acceptanceLength: Double?
        /// Share of proposals accepted, place by place, where all before them were.
        public var accepted: [Double]
        /// Decode steps by the number of tokens that they proposed per sequence.
        public var steps: [String: Int]
        /// Tokens per second of the steps that proposed nothing; `nil` without one.
        public var plainTokensPerSecond: Double?

        /// What proposed tokens did.
        public init(
            draft: String, acceptanceLength: Double?, accepted: [Double], steps: [String: Int],
            plainTokensPerSecond: Double?
        ) {
            self.draft = draft
            self.acceptanceLength = acceptanceLength
            self.accepted = accepted
            self.steps = steps
            self.plainTokensPerSecond = plainTokensPerSecond
        }
    }

    /// The checkpoint's directory.
    public var model: String
    /// The text given, after the chat template if one was applied.
    public var prompt: String
    /// The text that followed.
    public var text: String
    /// Tokens of the prompt.
    public var promptTokens: Int
    /// Tokens generated.
    public var tokens: Int
    /// Why it ended: `stop` (an end token) or `length`.
    public var finishReason: String
    /// Generated tokens per second, without the prompt's pass; of this answer, which others may have
    /// been computed beside.
    public var tokensPerSecond: Double
    /// Sampling temperature; 0 takes the likeliest token.
    public var temperature: Double
    /// Seed of the sampling.
    public var seed: UInt64
    /// Which of several answers to the prompt this is, from 0; it and the seed fix the draws. `nil`
    /// where one was asked for.
    public var answer: Int?
    /// The other parameters of sampling; `nil` in results of versions that did not store them.
    public var sampling: Sampling?
    /// The answer's tokens with their likelihoods; `nil` unless asked for.
    public var logprobs: [Token]?
    /// Seconds until the first token, waiting for others' included; `nil` without a token, and in
    /// results of versions that did not store it.
    public var firstTokenSeconds: Double?
    /// Where it ran, `cpu` or `cuda:0`; `nil` in results of versions that did not store it.
    public var device: String?
    /// The type it computed in; `nil` in results of versions that did not store it.
    public var dtype: String?
    /// What proposed tokens did; `nil` without a draft.
    public var speculation: Speculation?

    /// A generation.
    public init(
        model: String, prompt: String, text: String, promptTokens: Int, tokens: Int,
        finishReason: String, tokensPerSecond: Double, temperature: Double, seed: UInt64,
        answer: Int? = nil, sampling: Sampling? = nil, logprobs: [Token]? = nil,
        firstTokenSeconds: Double? = nil, device: String? = nil, dtype: String? = nil,
        speculation: Speculation? = nil
    ) {
        self.model = model
        self.prompt = prompt
        self.text = text
        self.promptTokens = promptTokens
        self.tokens = tokens
        self.finishReason = finishReason
        self.tokensPerSecond = tokensPerSecond
        self.temperature = temperature
        self.seed = seed
        self.answer = answer
        self.sampling = sampling
        self.logprobs = logprobs
        self.firstTokenSeconds = firstTokenSeconds
        self.device = device
        self.dtype = dtype
        self.speculation = speculation
    }
}
