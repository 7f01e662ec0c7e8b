import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Llama 2 and 3 and models of their architecture: grouped-query attention, SwiGLU.
///
/// - Note: Touvron et al. 2023, "LLaMA"; Grattafiori et al. 2024, "The Llama 3 Herd of Models";
///   transformers' `modeling_llama`.
public struct Llama: DensePreNormModel {
    /// `llama`.
    public static let modelTypes = ["llama"]

    let parts: PreNormParts

    /// Heads without a `head_dim` share `hidden_size`.
    static func configuration(_ config: ModelConfig) throws -> PreNormConfiguration {
        try PreNormConfiguration(
            config, readsMLPBias: true, normalisesQueriesAndKeys: false)
    }

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        parts = try PreNormParts(
            dense: Self.configuration(config), device: device, dtype: dtype, weights: &weights)
        // Conversions of 2023 stored the frequencies, which follow from the configuration.
        weights.ignore { $0.hasSuffix(".rotary_emb.inv_freq") }
    }
}
