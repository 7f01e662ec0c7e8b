import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Qwen3, dense: grouped-query attention with normalised queries and keys, SwiGLU.
///
/// - Note: Yang et al. 2025, "Qwen3 Technical Report"; transformers' `modeling_qwen3`.
public struct Qwen3: DensePreNormModel {
    /// `qwen3`.
    public static let modelTypes = ["qwen3"]

    let parts: PreNormParts

    /// Heads without a `head_dim` have 128 dimensions.
    static func configuration(_ config: ModelConfig) throws -> PreNormConfiguration {
        try configuration(config, headDim: 128)
    }

    /// With other heads.
    ///
    /// - Parameter headDim: Dimensions of those without a `head_dim`; `nil`: they share
    ///   `hidden_size`.
    /// - Throws: `CheckpointError` or ``ModelError``, also for sliding windows.
    static func configuration(_ config: ModelConfig, headDim: Int?) throws -> PreNormConfiguration {
        let result = try PreNormConfiguration(
            config, headDim: headDim, normalisesQueriesAndKeys: true)
        guard try config.boolIfPresent("use_sliding_window") != true else {
            throw ModelError.unsupported(
                path: config.path, key: "use_sliding_window", found: "true",
                supported: "full attention")
        }
        return result
    }

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        parts = try PreNormParts(
            dense: Self.configuration(config), device: device, dtype: dtype, weights: &weights)
    }
}
