import MinimaCore
import MinimaFormats
import MinimaTensor

/// A linear layer `y = W·x + b` whose weight is in any registered format.
public struct Linear: Sendable {
    /// The module's name in the checkpoint, `model.layers.0.self_attn.q_proj`.
    public let name: String
    /// W `[outputs, inputs]` in its format.
    public let weight: any LinearWeight
    /// b `[outputs]`.
    public let bias: Tensor?

    /// `x` `[…, inputs]` to `[…, outputs]`.
    public func callAsFunction(_ x: Tensor) throws(TensorError) -> Tensor {
        if let dense = weight as? Dense { return try x.linear(dense.weight, bias: bias) }
        let y = try weight.forward(x)
        guard let bias else { return y }
        return try y + bias
    }
}
