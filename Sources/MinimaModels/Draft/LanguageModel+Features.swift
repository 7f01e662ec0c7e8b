import MinimaTensor

/// What a draft reads of its target's pass.
public struct TargetFeatures: Sendable {
    /// The residual stream entering the layers that were asked for, concatenated in their order:
    /// `[batch, token, layers · hidden]`.
    public let features: Tensor
    /// Normalised hidden states `[batch, token, hidden]`: what `LanguageModel.logits(_:)` takes.
    public let hidden: Tensor
}

extension LanguageModel {
    /// Runs the model over tokens and keeps the residual stream that enters some of its layers.
    ///
    /// - Parameters:
    ///   - tokens: int64 `[batch, token]` on the model's device; not checked.
    ///   - layers: Decoder layers, counted from 0; one may come twice.
    ///   - context: Of this pass.
    public func features(of tokens: Tensor, entering layers: [Int], _ context: ForwardContext)
        throws -> TargetFeatures
    {
        var x = try embed(tokens)
        var kept: [Int: Tensor] = [:]
        for index in 0..<dimensions.layers {
            if layers.contains(index) { kept[index] = x }
            x = try layer(index, x, context)
        }
        return TargetFeatures(
            features: try .cat(layers.compactMap { kept[$0] }, dim: -1), hidden: try normed(x))
    }
}
