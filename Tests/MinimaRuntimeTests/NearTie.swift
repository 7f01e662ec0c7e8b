import MinimaModels
import MinimaTensor

@testable import MinimaRuntime

/// Where tokens of two runs part whose sums of bfloat16 values were added in different orders.
enum NearTie {
    /// Whether both tokens that two runs chose first otherwise are what `parameters` choose from the
    /// logits of `model`, in float32, once the token has 2^-6 of the largest logit more: two roundings
    /// of a bfloat16 stream at logits of that size.
    ///
    /// - Parameters:
    ///   - tokens: The new tokens of either run; at least one differs in what both have.
    ///   - prompt: What both runs began with.
    static func explains(
        _ tokens: ([Int32], [Int32]), prompt: [Int32], _ parameters: SamplingParameters,
        _ model: any LanguageModel
    ) throws -> Bool {
        let pairs = Array(zip(tokens.0, tokens.1))
        guard let place = pairs.firstIndex(where: { $0.0 != $0.1 }) else { return false }
        let sequence = prompt + tokens.0.prefix(place)
        let input = try Tensor(sequence.map(Int64.init), shape: [1, sequence.count])
            .to(model.device)
        let logits = try withoutGradients {
            try model.logits(model.run(input).select(1, sequence.count - 1))
                .to(dtype: .float32).to(.cpu)
        }
        let values: [Float] = try logits.values()
        let more = Double(values.map(abs).max() ?? 0) * 0x1p-6
        return try [pairs[place].0, pairs[place].1].allSatisfy { token in
            var helped = parameters
            helped.logitBias[token, default: 0] += more
            let state = SamplingSequence(helped, tokens: sequence, promptCount: prompt.count)
            return try Sampler.sample(logits, [state])[0].id == token
        }
    }
}
