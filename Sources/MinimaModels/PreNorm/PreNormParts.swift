import MinimaCore
import MinimaTensor

/// Configuration and weights of a ``PreNormModel``.
struct PreNormParts {
    struct Layer {
        let inputNorm: Tensor
        let attention: GroupedQueryAttention
        let postNorm: Tensor
        let network: FeedForward
    }

    let config: PreNormConfiguration
    let device: Device
    let dtype: DType
    let rotary: RotaryEmbedding
    let embedding: Tensor
    let layers: [Layer]
    let norm: Tensor
    let head: Linear

    /// Asks the loader for every tensor.
    ///
    /// - Parameter network: What a layer has behind attention.
    init(
        _ config: PreNormConfiguration, device: Device, dtype: DType, weights: inout WeightLoader,
        network: (Int, inout WeightLoader) throws -> FeedForward
    ) throws {
        self.config = config
        self.device = device
        self.dtype = dtype
        rotary = RotaryEmbedding(config.rope, headDim: config.headDim, device: device)
        embedding = try weights.tensor(
            "model.embed_tokens.weight", shape: [config.vocabulary, config.hidden])
        layers = try (0..<config.layers).map { index in
            let name = PreNormConfiguration.layerName(index)
            return Layer(
                inputNorm: try weights.tensor(
                    "\(name).input_layernorm.weight", shape: [config.hidden]),
                attention: try GroupedQueryAttention(layer: index, config, &weights),
                postNorm: try weights.tensor(
                    "\(name).post_attention_layernorm.weight", shape: [config.hidden]),
                network: try network(index, &weights))
        }
        norm = try weights.tensor("model.norm.weight", shape: [config.hidden])
        head = try weights.head(tied: config.tied, embedding: embedding)
    }

    /// Those of a model without experts.
    init(
        dense config: PreNormConfiguration, device: Device, dtype: DType,
        weights: inout WeightLoader
    ) throws {
        try self.init(config, device: device, dtype: dtype, weights: &weights) {
            .dense(try SwiGLU(layer: $0, config, &$1))
        }
    }
}
