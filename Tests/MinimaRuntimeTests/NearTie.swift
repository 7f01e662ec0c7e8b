import MinimaModels
import MinimaTensor

@testable import MinimaRuntime

/// Where tokens of two runs part whose sums of bfloat16 values were added in different orders.
enum NearTie {
    /// Whether both tokens that two runs chose first otherwise are what `parameters` choose from the
    /// logits of `model`, in float32, once the token has ``margin(_:)`` more.
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
        let logits = try model.lastLogits(sequence)
        let more = try margin(logits)
        return try [pairs[place].0, pairs[place].1].allSatisfy { token in
            var helped = parameters
            helped.logitBias[token, default: 0] += more
            let state = SamplingSequence(helped, tokens: sequence, promptCount: prompt.count)
            return try Sampler.sample(logits, [state])[0].id == token
        }
    }

    /// Two roundings of a bfloat16 stream, 2^-6, at the size of `logits`.
    static func margin(_ logits: Tensor) throws -> Double {
        let values: [Float] = try logits.values()
        return Double(values.map(abs).max() ?? 0) * 0x1p-6
    }
}

extension LanguageModel {
    /// Logits `[1, vocabulary]` after `sequence`, in float32 on the host.
    func lastLogits(_ sequence: [Int32]) throws -> Tensor {
        let input = try Tensor(sequence.map(Int64.init), shape: [1, sequence.count]).to(device)
        return try withoutGradients {
            try logits(run(input).select(1, sequence.count - 1)).to(dtype: .float32).to(.cpu)
        }
    }
}
