import MinimaCore
import MinimaTensor

/// The weights of a ``PreNormModel`` and what it computes with them.
public struct PreNormDecoder: Sendable {
    struct Layer {
        let inputNorm: Tensor
        let attention: GroupedQueryAttention
        let postNorm: Tensor
        let network: FeedForward
    }

    let sizes: PreNormSizes
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
        _ sizes: PreNormSizes, device: Device, dtype: DType, weights: inout WeightLoader,
        network: (Int, inout WeightLoader) throws -> FeedForward
    ) throws {
        self.sizes = sizes
        self.device = device
        self.dtype = dtype
        rotary = RotaryEmbedding(sizes.rope, headDim: sizes.headDim, device: device)
        embedding = try weights.tensor(
            "model.embed_tokens.weight", shape: [sizes.vocabulary, sizes.hidden])
        layers = try (0..<sizes.layers).map { index in
            let name = PreNormSizes.layerName(index)
            return Layer(
                inputNorm: try weights.tensor(
                    "\(name).input_layernorm.weight", shape: [sizes.hidden]),
                attention: try GroupedQueryAttention(layer: index, sizes, &weights),
                postNorm: try weights.tensor(
                    "\(name).post_attention_layernorm.weight", shape: [sizes.hidden]),
                network: try network(index, &weights))
        }
        norm = try weights.tensor("model.norm.weight", shape: [sizes.hidden])
        head = try weights.head(tied: sizes.tied, embedding: embedding)
    }
}
