import MinimaKernels

/// How the next token of a request is chosen from the model's logits.
///
/// Applied in this order, as vLLM and transformers do: the mask of a ``TokenConstraint``;
/// ``logitBias``, ``repetitionPenalty``, ``frequencyPenalty``, ``presencePenalty``; then
/// ``temperature``, ``minP``, ``topK``, ``topP``, each on what the ones before it kept.
public struct SamplingParameters: Sendable, Hashable {
    /// Divides the logits; 0 takes the likeliest token.
    public var temperature: Double
    /// Smallest set of likeliest tokens whose probabilities reach this sum; 1 keeps all.
    public var topP: Double
    /// Number of likeliest tokens kept, with those that tie with the last; 0 keeps all.
    public var topK: Int
    /// Keeps tokens at least this times as probable as the likeliest; 0 keeps all.
    public var minP: Double
    /// Divides positive and multiplies negative logits of tokens that the prompt or the answer
    /// already holds (Keskar et al. 2019, section 4.1; as in transformers); 1 changes nothing.
    public var repetitionPenalty: Double
    /// Taken off the logits of tokens that the answer already holds (OpenAI); 0 changes nothing.
    public var presencePenalty: Double
    /// Taken off a token's logit for each time the answer holds it (OpenAI); 0 changes nothing.
    public var frequencyPenalty: Double
    /// Added to the logits of these tokens, before the penalties.
    public var logitBias: [Int32: Double]
    /// How many of the likeliest tokens are reported with their log-probabilities beside the chosen
    /// token's; `nil` reports none at all.
    ///
    /// As in OpenAI's interface these are natural logarithms of the model's own distribution:
    /// before a constraint's mask, bias, penalties, temperature and filters.
    public var logprobs: Int?
    /// Seed of the draws.
    public var seed: UInt64

    /// Biases of one request at most.
    public static let mostBiases = SamplingKernel.mostBiases
    /// Likeliest tokens reported at most.
    public static let mostLogprobs = 20

    /// Parameters of sampling; by default the likeliest token is taken.
    ///
    /// - Throws: `SamplingError` for values outside their ranges.
    public init(
        temperature: Double = 0, topP: Double = 1, topK: Int = 0, minP: Double = 0,
        repetitionPenalty: Double = 1, presencePenalty: Double = 0, frequencyPenalty: Double = 0,
        logitBias: [Int32: Double] = [:], logprobs: Int? = nil, seed: UInt64 = 0
    ) throws(SamplingError) {
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.presencePenalty = presencePenalty
        self.frequencyPenalty = frequencyPenalty
        self.logitBias = logitBias
        self.logprobs = logprobs
        self.seed = seed
        try check()
    }

    /// Checks every range.
    ///
    /// - Parameter vocabulary: The model's number of tokens, where known.
    public func check(vocabulary: Int? = nil) throws(SamplingError) {
        guard temperature >= 0, temperature.isFinite else { throw .badTemperature(temperature) }
        guard topP > 0, topP <= 1 else { throw .badTopP(topP) }
        guard topK >= 0 else { throw .badTopK(topK) }
        guard minP >= 0, minP <= 1 else { throw .badMinP(minP) }
        // The penalty divides and multiplies in float32: neither may overflow by itself.
        guard repetitionPenalty >= 0.01, repetitionPenalty <= 100 else {
            throw .badRepetitionPenalty(repetitionPenalty)
        }
        for (name, value) in [("presence", presencePenalty), ("frequency", frequencyPenalty)] {
            guard abs(value) <= 2 else { throw .badPenalty(name: name, value) }
        }
        guard logitBias.count <= Self.mostBiases else { throw .tooManyBiases(logitBias.count) }
        for (token, bias) in logitBias.sorted(by: { $0.key < $1.key }) {
            guard abs(bias) <= 100 else { throw .badBias(token: token, bias) }
            guard token >= 0, Int(token) < vocabulary ?? .max else {
                throw .badBiasToken(token, vocabulary: vocabulary)
            }
        }
        if let logprobs, !(0...Self.mostLogprobs).contains(logprobs) {
            throw .badLogprobs(logprobs)
        }
    }

    /// These parameters for the sequence of that index among several from one prompt: the draws of
    /// different sequences are independent; those of sequence 0 are the request's own.
    public func forSequence(_ index: Int) -> Self {
        var copy = self
        // The finaliser of SplitMix64 (Steele, Lea & Flood 2014) after odd steps: distinct indices
        // give distinct seeds.
        var bits = UInt64(truncatingIfNeeded: index) &* 0x9E37_79B9_7F4A_7C15
        bits = (bits ^ (bits >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        copy.seed = seed ^ bits ^ (bits >> 31)
        return copy
    }

    /// Whether a choice depends on which tokens came before.
    public var usesHistory: Bool {
        repetitionPenalty != 1 || presencePenalty != 0 || frequencyPenalty != 0
    }
}

/// Why sampling parameters cannot be used.
public enum SamplingError: Error, Hashable, CustomStringConvertible {
    case badTemperature(Double)
    case badTopP(Double)
    case badTopK(Int)
    case badMinP(Double)
    case badRepetitionPenalty(Double)
    case badPenalty(name: String, Double)
    case tooManyBiases(Int)
    case badBias(token: Int32, Double)
    case badBiasToken(Int32, vocabulary: Int?)
    case badLogprobs(Int)
    case wrongRows(logits: [Int], sequences: Int)
    case badMask(words: Int, needed: Int)

    /// What was given and what is allowed.
    public var description: String {
        switch self {
        case .badTemperature(let value): "temperature \(value) is not a number of 0 or more"
        case .badTopP(let value): "top-p \(value) is not above 0 and at most 1"
        case .badTopK(let value): "top-k \(value) is negative; 0 keeps all tokens"
        case .badMinP(let value): "min-p \(value) is not in 0...1"
        case .badRepetitionPenalty(let value):
            "repetition penalty \(value) is not in 0.01...100; 1 changes nothing"
        case .badPenalty(let name, let value): "\(name) penalty \(value) is not in -2...2"
        case .tooManyBiases(let count):
            "\(count) logit biases are more than \(SamplingParameters.mostBiases)"
        case .badBias(let token, let value):
            "the logit bias \(value) of token \(token) is not in -100...100"
        case .badBiasToken(let token, let vocabulary):
            "a logit bias names token \(token), which is not "
                + (vocabulary.map { "in 0..<\($0)" } ?? "0 or more")
        case .badLogprobs(let value):
            "log-probabilities of \(value) tokens were asked for; 0...\(SamplingParameters.mostLogprobs) are possible"
        case .wrongRows(let logits, let sequences):
            "logits of shape \(logits) do not have one row for each of \(sequences) sequences"
        case .badMask(let words, let needed):
            "a mask of \(words) words was given; the vocabulary needs \(needed) of 32 tokens each"
        }
    }
}
