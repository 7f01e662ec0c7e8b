import MinimaCore
import MinimaKernels
import MinimaTensor

@testable import MinimaRuntime

/// What sampling is checked against: float64, one token after the other, with nothing of libtorch.
struct PlainSampling {
    /// Logits after bias and penalties, by the definitions of transformers and OpenAI.
    static func adjusted(
        _ logits: [Double], _ parameters: SamplingParameters, prompt: [Int32] = [],
        answer: [Int32] = []
    ) -> [Double] {
        logits.indices.map { token in
            let id = Int32(token)
            var logit = logits[token] + (parameters.logitBias[id] ?? 0)
            if prompt.contains(id) || answer.contains(id) {
                let penalty = parameters.repetitionPenalty
                logit = logit > 0 ? logit / penalty : logit * penalty
            }
            let count = answer.count { $0 == id }
            logit -= parameters.frequencyPenalty * Double(count)
            if count > 0 { logit -= parameters.presencePenalty }
            return logit
        }
    }

    /// The distribution after temperature and filters.
    static func probabilities(_ adjusted: [Double], _ parameters: SamplingParameters) -> [Double] {
        let temperature = max(parameters.temperature, 1e-6)
        let largest = adjusted.max() ?? 0
        var weights = adjusted.map { exponential(($0 - largest) / temperature) }
        weights = weights.map { $0 >= parameters.minP ? $0 : 0 }
        if parameters.topK > 0, parameters.topK < weights.count {
            let limit = weights.sorted(by: >)[parameters.topK - 1]
            weights = weights.map { $0 >= limit ? $0 : 0 }
        }
        if parameters.topP < 1 {
            let total = weights.reduce(0, +)
            let above = weights.map { weight in
                weights.filter { $0 > weight }.reduce(0, +) / total
            }
            weights = zip(weights, above).map { $1 < parameters.topP ? $0 : 0 }
        }
        let total = weights.reduce(0, +)
        return weights.map { $0 / total }
    }

    /// e^x by its series after halving.
    static func exponential(_ x: Double) -> Double {
        guard x > -700 else { return 0 }
        var (term, sum) = (1.0, 1.0)
        let small = x / 1024
        for k in 1..<20 {
            term *= small / Double(k)
            sum += term
        }
        for _ in 0..<10 { sum *= sum }
        return sum
    }
}

/// Random logits, parameters and tokens that depend on the seed alone.
struct SamplingGenerator: RandomNumberGenerator {
    private var random: SplitMix

    init(state: UInt64) { random = SplitMix(state) }

    mutating func next() -> UInt64 { random.next() }

    /// Logits around 0, multiples of 1/64, so that some are equal.
    mutating func logits(_ count: Int, spread: Double = 3) -> [Float] {
        (0..<count).map { _ in
            let sum = (0..<4).reduce(0.0) { sum, _ in sum + .random(in: -1...1, using: &self) }
            return Float((sum * spread * 32).rounded() / 64)
        }
    }

    /// Parameters with some features on and others off.
    mutating func parameters(vocabulary: Int) throws -> SamplingParameters {
        func pick<Value>(_ values: Value..., with generator: inout Self) -> Value {
            values[Int.random(in: 0..<values.count, using: &generator)]
        }
        var bias: [Int32: Double] = [:]
        if Bool.random(using: &self) {
            for _ in 0..<5 {
                let token = Int32.random(in: 0..<Int32(vocabulary), using: &self)
                bias[token] = Double.random(in: -8...8, using: &self)
            }
        }
        return try SamplingParameters(
            temperature: pick(0, 0.3, 1, 1.5, 4, with: &self),
            topP: pick(1, 1, 0.95, 0.5, 0.02, with: &self),
            topK: pick(0, 0, 1, 3, 20, vocabulary, with: &self),
            minP: pick(0, 0, 0.01, 0.3, 1, with: &self),
            repetitionPenalty: pick(1, 1, 1.3, 0.7, with: &self),
            presencePenalty: pick(0, 0, 0.9, -1, with: &self),
            frequencyPenalty: pick(0, 0, 0.6, -0.3, with: &self), logitBias: bias,
            logprobs: pick(nil, 0, 3, with: &self), seed: next())
    }

    /// A few tokens.
    mutating func tokens(_ count: Int, vocabulary: Int) -> [Int32] {
        (0..<count).map { _ in .random(in: 0..<Int32(vocabulary), using: &self) }
    }
}

extension SamplingState {
    /// Bytes of its tensors.
    var heldBytes: Int {
        Mirror(reflecting: self).children.reduce(0) { sum, child in
            let tensor = (child.value as? Tensor) ?? (child.value as? Tensor?) ?? nil
            return sum + (tensor.map { $0.count * $0.dtype.byteCount } ?? 0)
        }
    }
}
