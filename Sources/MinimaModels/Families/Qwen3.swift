import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Qwen3, dense: grouped-query attention with normalised queries and keys, SwiGLU.
///
/// - Note: Yang et al. 2025, "Qwen3 Technical Report"; transformers' `modeling_qwen3`.
public struct Qwen3: PreNormModel, DecoderModel {
    /// `qwen3`.
    public static let modelTypes = ["qwen3"]

    /// The weights.
    public let decoder: PreNormDecoder

    /// Heads without a `head_dim` have 128 dimensions.
    public static func sizes(_ config: ModelConfig) throws -> PreNormSizes {
        try sizes(config, headDim: 128)
    }

    /// - Parameter headDim: Dimensions of heads without a `head_dim`; `nil`: they share `hidden_size`.
    static func sizes(_ config: ModelConfig, headDim: Int?) throws -> PreNormSizes {
        let sizes = try PreNormSizes(config, headDim: headDim, normalisesQueriesAndKeys: true)
        guard try config.boolIfPresent("use_sliding_window") != true else {
            throw ModelError.unsupported(
                path: config.path, key: "use_sliding_window", found: "true",
                supported: "full attention")
        }
        return sizes
    }

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        decoder = try PreNormDecoder(
            Self.sizes(config), device: device, dtype: dtype, weights: &weights)
    }
}
