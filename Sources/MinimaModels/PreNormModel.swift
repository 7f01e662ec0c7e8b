import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// A family of models whose layers are the common ones: RMSNorm and grouped-query attention, RMSNorm and
/// SwiGLU or experts, each added to the residual stream. Names of tensors are those of transformers'
/// Llama.
public protocol PreNormModel: LanguageModel {
    /// What the family takes from a configuration.
    static func sizes(_ config: ModelConfig) throws -> PreNormSizes

    /// The weights.
    var decoder: PreNormDecoder { get }
}

extension PreNormModel {
    /// Sizes of this model.
    public var dimensions: ModelDimensions {
        ModelDimensions(
            layers: decoder.sizes.layers, hidden: decoder.sizes.hidden,
            vocabulary: decoder.sizes.vocabulary, context: decoder.sizes.context)
    }

    /// Where the weights are.
    public var device: Device { decoder.device }

    /// The type that the model computes in.
    public var dtype: DType { decoder.dtype }

    /// Rotary embedding of queries and keys.
    public var rotary: RotaryEmbedding { decoder.rotary }

    /// The output projection.
    public var head: Linear { decoder.head }

    /// Rows of the embedding.
    public func embed(_ tokens: Tensor) throws -> Tensor {
        try decoder.embedding.embedding(tokens)
    }

    /// Attention and feed-forward network, each with its norm before and the residual around it.
    public func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor {
        let (layer, epsilon) = (decoder.layers[index], decoder.sizes.epsilon)
        let attended = try layer.attention(
            x.rmsNorm(layer.inputNorm, epsilon: epsilon), addingTo: x, layer: index, context)
        return try layer.network(
            attended.rmsNorm(layer.postNorm, epsilon: epsilon), addingTo: attended, context)
    }

    /// The final norm.
    public func normed(_ x: Tensor) throws -> Tensor {
        try x.rmsNorm(decoder.norm, epsilon: decoder.sizes.epsilon)
    }

    /// `model.layers.0.` and so on.
    public static func layerPrefix(_ index: Int) -> String {
        "\(PreNormSizes.layerName(index))."
    }
}

/// A ``PreNormModel`` without experts.
extension PreNormModel where Self: DecoderModel {
    /// Query, key and value; output; gate and up; down; layer by layer.
    public static func sites(_ config: ModelConfig) throws -> [Site] {
        let sizes = try sizes(config)
        return (0..<sizes.layers).flatMap {
            sizes.attentionSites(layer: $0) + sizes.networkSites(layer: $0)
        }
    }

    /// Sizes, norms and rotary embedding.
    public static func decoder(_ config: ModelConfig) throws -> DecoderArchitecture {
        let sizes = try sizes(config)
        return DecoderArchitecture(
            dimensions: DecoderDimensions(
                layers: sizes.layers, hiddenSize: sizes.hidden, heads: sizes.heads,
                keyValueHeads: sizes.kvHeads, headDim: sizes.headDim,
                intermediateSize: sizes.intermediate, vocabularySize: sizes.vocabulary,
                tiesEmbedding: sizes.tied),
            epsilon: sizes.epsilon, rope: sizes.rope,
            normalisesQueriesAndKeys: sizes.normalisesQueriesAndKeys)
    }

    /// The weights of decoder layer `index`.
    public func decoderLayer(_ index: Int) -> DecoderLayerWeights {
        let layer = decoder.layers[index]
        guard case .dense(let network) = layer.network else {
            preconditionFailure("layer \(index) of a model without experts has some")
        }
        return DecoderLayerWeights(
            inputNorm: layer.inputNorm, qkv: layer.attention.qkv,
            queryNorm: layer.attention.norms?.query, keyNorm: layer.attention.norms?.key,
            output: layer.attention.output, postNorm: layer.postNorm, gateUp: network.gateUp,
            down: network.down)
    }

    /// Embedding, final norm and output projection.
    public var ends: DecoderEnds {
        DecoderEnds(embedding: decoder.embedding, norm: decoder.norm, head: decoder.head)
    }
}

extension PreNormDecoder {
    /// A model without experts.
    init(
        _ sizes: PreNormSizes, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        try self.init(sizes, device: device, dtype: dtype, weights: &weights) {
            .dense(try SwiGLU(layer: $0, sizes, &$1))
        }
    }
}
