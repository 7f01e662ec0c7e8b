import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Rotary position embedding in the half-split layout of Llama and its kin.
///
/// - Note: Su et al. 2021; frequencies and scalings as in transformers' `modeling_rope_utils`,
///   with which angles agree bit by bit (float32 products of position and frequency).
public struct RotaryEmbedding: Sendable {
    private let parameters: RoPEParameters
    private let headDim: Int
    private let device: Device

    /// An embedding of heads of `headDim` values.
    public init(_ parameters: RoPEParameters, headDim: Int, device: Device) {
        self.parameters = parameters
        self.headDim = headDim
        self.device = device
    }

    /// Whether the angles depend on the longest sequence so far, as with dynamic scaling.
    public var dependsOnLength: Bool {
        if case .dynamic = parameters.scaling { true } else { false }
    }

    /// Cosines and sines of the angles at `positions`.
    ///
    /// - Parameters:
    ///   - positions: int64 `[1 or batch, token]`.
    ///   - length: Tokens of the longest sequence so far; dynamic scaling depends on it.
    /// - Returns: `[1 or batch, 1, token, rotaryDim / 2]` each.
    public func table(_ positions: Tensor, length: Int, dtype: DType) throws(TensorError)
        -> (cosines: Tensor, sines: Tensor)
    {
        let (frequencies, scaling) = parameters.inverseFrequencies(
            headDim: headDim, sequenceLength: length)
        let row = try Tensor(frequencies.map { Float($0) }).to(device)
        let angles = try positions.to(dtype: .float32).unsqueeze(2) * row
        let (cosines, sines) = (try angles.cos(), try angles.sin())
        return (
            try (cosines * scaling).to(dtype: dtype).unsqueeze(1),
            try (sines * scaling).to(dtype: dtype).unsqueeze(1)
        )
    }

    /// Rotates `x` `[batch, head, token, headDim]`; dimensions past the rotary ones stay.
    public static func rotate(_ x: Tensor, _ context: ForwardContext) throws(TensorError) -> Tensor
    {
        let (cosines, sines) = (context.cosines, context.sines)
        let half = cosines.shape[3]
        let dim = x.shape[3]
        let first = try x.narrow(3, 0..<half)
        let second = try x.narrow(3, half..<2 * half)
        var parts = [
            try first * cosines - second * sines,
            try second * cosines + first * sines,
        ]
        if 2 * half < dim { parts.append(try x.narrow(3, 2 * half..<dim)) }
        return try Tensor.cat(parts, dim: 3)
    }
}

extension RoPEParameters {
    /// The longest context that a model of `maxPositions` positions reaches with this scaling.
    ///
    /// Checkpoints name either the trained or the stretched length in `max_position_embeddings`;
    /// the longer of the two is what their users run. Dynamic scaling has no end.
    func contextLength(maxPositions: Int) -> Int {
        switch scaling {
        case .none, .linear: maxPositions
        case .dynamic: ModelConfig.largestCount
        case .yarn(let yarn):
            Self.stretched(yarn.originalPositions, yarn.factor, atLeast: maxPositions)
        case .llama3(let factor, _, _, let original):
            Self.stretched(original, factor, atLeast: maxPositions)
        }
    }

    private static func stretched(_ length: Int, _ factor: Double, atLeast minimum: Int) -> Int {
        let product = Swift.min(Double(length) * factor, Double(ModelConfig.largestCount))
        return Swift.max(minimum, Int(product))
    }
}
