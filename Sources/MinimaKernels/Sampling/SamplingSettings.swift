/// How a slot's tokens are chosen, as ``SamplingKernel`` reads it. The values are within the ranges
/// that a request's parameters are checked for.
public struct SamplingSettings: Sendable, Hashable {
    /// Divides the logits; 0 takes the likeliest token.
    public var temperature: Double
    /// Likeliest tokens kept; 0 keeps all.
    public var topK: Int
    /// Sum of probabilities kept; 1 keeps all.
    public var topP: Double
    /// Least probability kept, relative to the largest; 0 keeps all.
    public var minP: Double
    /// Penalty of tokens of the prompt and the answer; 1 for none.
    public var repetitionPenalty: Double
    /// Penalty of tokens of the answer; 0 for none.
    public var presencePenalty: Double
    /// Penalty per occurrence in the answer; 0 for none.
    public var frequencyPenalty: Double
    /// Added to the logits of tokens.
    public var logitBias: [Int32: Double]
    /// Whether the log-sum-exp and the chosen logit are wanted.
    public var wantsLogprobs: Bool
    /// Seed of the draws.
    public var seed: UInt64

    /// Settings of a slot; by default the likeliest token is taken.
    public init(
        temperature: Double = 0, topK: Int = 0, topP: Double = 1, minP: Double = 0,
        repetitionPenalty: Double = 1, presencePenalty: Double = 0, frequencyPenalty: Double = 0,
        logitBias: [Int32: Double] = [:], wantsLogprobs: Bool = false, seed: UInt64 = 0
    ) {
        self.temperature = temperature
        self.topK = topK
        self.topP = topP
        self.minP = minP
        self.repetitionPenalty = repetitionPenalty
        self.presencePenalty = presencePenalty
        self.frequencyPenalty = frequencyPenalty
        self.logitBias = logitBias
        self.wantsLogprobs = wantsLogprobs
        self.seed = seed
    }

    /// Whether the choice depends on earlier tokens.
    public var usesHistory: Bool {
        repetitionPenalty != 1 || presencePenalty != 0 || frequencyPenalty != 0
    }

    /// The slot's row of the kernel's table.
    func words(vocabulary: Int) -> [Int32] {
        func bits(_ value: Double) -> UInt32 { Float(value).bitPattern }
        var words = [UInt32](repeating: 0, count: SamplingKernel.settingWords)
        words[0] = temperature == 0 ? 0 : bits(1 / max(temperature, 1e-6))
        words[1] = topK < vocabulary ? UInt32(clamping: topK) : 0
        words[2] = UInt32(clamping: Int((topP * 0x1p31).rounded()))
        words[3] = bits(minP)
        words[4] = bits(repetitionPenalty)
        words[5] = bits(frequencyPenalty)
        words[6] = bits(presencePenalty)
        words[7] = (usesHistory ? 1 : 0) | (wantsLogprobs ? 2 : 0)
        words[8] = UInt32(truncatingIfNeeded: seed)
        words[9] = UInt32(truncatingIfNeeded: seed >> 32)
        words[10] = UInt32(logitBias.count)
        return words.map { Int32(bitPattern: $0) }
    }
}
