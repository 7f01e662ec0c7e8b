import MinimaTensor

/// How far a residual stream is from the dense model's: Σ‖ŷ − y‖²/‖y‖ over Σ‖y‖, sums over tokens.
///
/// It is 0 where both agree and 1 where ŷ is 0. What follows reads a token's stream through a
/// normalisation, so that its error counts relative to its own norm; but a token whose norm is
/// hundreds of times the others' is one that all later tokens attend to (Sun et al. 2024, "Massive
/// Activations in Large Language Models", section 4). Squared errors alone would leave such a token
/// nothing beside itself, errors relative to ‖y‖² one token's share; ‖ŷ − y‖²/‖y‖ lies halfway.
struct StreamError {
    /// Σ‖ŷ − y‖²/‖y‖, a float32 scalar on the device.
    let error: Tensor
    /// Its gradient at ŷ, float32 of ŷ's shape.
    let gradient: Tensor
    /// Σ‖y‖, a float32 scalar on the device.
    let norm: Tensor

    /// Compares `output` with `target`, both `[window, token, hidden]`.
    init(_ output: Tensor, _ target: Tensor) throws {
        let target = try target.to(dtype: .float32)
        let norms = try Self.norms(target)
        let difference = try output.to(dtype: .float32) - target
        // A token of norm 0 has nothing to be relative to; its error is weighted as if at 1e-6 rms.
        let weighted = try difference / norms.clamp(min: 1e-6)
        error = try (difference * weighted).sum()
        gradient = try weighted * 2
        norm = try norms.sum()
    }

    /// ‖y‖ of each token, `[window, token, 1]` float32 for `[window, token, hidden]`.
    static func norms(_ target: Tensor) throws -> Tensor {
        try target.to(dtype: .float32).square().sum([-1], keepDims: true).sqrt()
    }
}
