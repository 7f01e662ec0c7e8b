import MinimaCore
import MinimaTensor

/// How the next token is chosen from the model's logits.
public struct SamplingParameters: Sendable, Hashable {
    /// Divides the logits; 0 takes the likeliest token.
    public var temperature: Double
    /// Smallest set of likeliest tokens whose probabilities reach this sum; 1 keeps all.
    public var topP: Double
    /// Number of likeliest tokens kept; 0 keeps all.
    public var topK: Int
    /// Seed of the draws.
    public var seed: UInt64

    /// Parameters of sampling; by default the likeliest token is taken.
    ///
    /// - Throws: `SamplingError` for values outside their ranges.
    public init(temperature: Double = 0, topP: Double = 1, topK: Int = 0, seed: UInt64 = 0)
        throws(SamplingError)
    {
        guard temperature >= 0, temperature.isFinite else { throw .badTemperature(temperature) }
        guard topP > 0, topP <= 1 else { throw .badTopP(topP) }
        guard topK >= 0 else { throw .badTopK(topK) }
        self.temperature = temperature
        self.topP = topP
        self.topK = topK
        self.seed = seed
    }
}

/// Why sampling parameters cannot be used.
public enum SamplingError: Error, Hashable, CustomStringConvertible {
    case badTemperature(Double)
    case badTopP(Double)
    case badTopK(Int)

    /// What was given and what is allowed.
    public var description: String {
        switch self {
        case .badTemperature(let value): "temperature \(value) is not a number of 0 or more"
        case .badTopP(let value): "top-p \(value) is not above 0 and at most 1"
        case .badTopK(let value): "top-k \(value) is negative; 0 keeps all tokens"
        }
    }
}

/// Draws tokens on the device that holds the logits.
public struct Sampler {
    private let parameters: SamplingParameters
    private let generator: RandomGenerator

    /// A sampler for logits on `device`.
    public init(_ parameters: SamplingParameters, device: Device) throws(TensorError) {
        self.parameters = parameters
        generator = try RandomGenerator(seed: parameters.seed, device: device)
    }

    /// One token per row.
    ///
    /// Filters apply in the order temperature, top-k, top-p; ties at the limit of top-k are kept.
    ///
    /// - Parameter logits: `[batch, vocabulary]`.
    /// - Returns: int64 `[batch]`.
    public func next(_ logits: Tensor) throws(TensorError) -> Tensor {
        if parameters.temperature == 0 { return try logits.argmax(-1) }
        let probabilities = try probabilities(logits)
        // The Gumbel-max trick in the form p / Exp(1): its argmax is distributed as p.
        let noise = try Tensor.empty(logits.shape, device: logits.device)
        try noise.fillExponential(generator: generator)
        return try (probabilities / noise).argmax(-1)
    }

    /// The distribution `[batch, vocabulary]`, float32, that ``next(_:)`` draws from when the
    /// temperature is above 0.
    public func probabilities(_ logits: Tensor) throws(TensorError) -> Tensor {
        // Relative to the largest, so that a small temperature cannot overflow; below 10⁻⁶ every
        // difference that float32 can hold decides alone.
        var logits = try logits.to(dtype: .float32)
        logits = try (logits - logits.max([1], keepDims: true)) / max(parameters.temperature, 1e-6)
        let vocabulary = logits.shape[1]
        if parameters.topK > 0 && parameters.topK < vocabulary {
            let limit = try logits.topK(parameters.topK).values.narrow(
                1, parameters.topK - 1..<parameters.topK)
            logits = try logits.maskedFill(limit.isAtMost(logits).not(), -.infinity)
        }
        if parameters.topP < 1 {
            let (sorted, order) = try logits.sorted(descending: true)
            let likelihood = try sorted.softmax()
            // A token stays while those before it have not reached the sum.
            let before = try likelihood.cumulativeSum(1) - likelihood
            let kept = try before.isLess(than: parameters.topP)
            logits = try Tensor.full(logits.shape, -.infinity, device: logits.device)
                .scatter(1, order, sorted.maskedFill(kept.not(), -.infinity))
        }
        return try logits.softmax()
    }
}
