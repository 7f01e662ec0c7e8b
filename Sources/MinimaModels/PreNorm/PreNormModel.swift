import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// A family whose layers are RMSNorm and grouped-query attention, RMSNorm and SwiGLU or experts, each
/// added to the residual stream. Its tensors have the names of transformers' Llama, with Qwen3's for
/// what Llama lacks.
///
/// - Note: Xiong et al. 2020, "On Layer Normalization in the Transformer Architecture"; Zhang &
///   Sennrich 2019, "Root Mean Square Layer Normalization".
protocol PreNormModel: LanguageModel {
    /// Embedding, layers, final norm and head, and what fixes them.
    var parts: PreNormParts { get }
}

/// One without experts, which Minima's own kernels can run.
protocol DensePreNormModel: PreNormModel, DecoderModel {
    /// What the family takes from a configuration.
    static func configuration(_ config: ModelConfig) throws -> PreNormConfiguration
}

extension PreNormModel {
    /// Sizes of this model.
    public var dimensions: ModelDimensions {
        ModelDimensions(
            layers: parts.config.layers, hidden: parts.config.hidden,
            vocabulary: parts.config.vocabulary, context: parts.config.context)
    }

    /// Where the weights are.
    public var device: Device { parts.device }

    /// The type that the model computes in.
    public var dtype: DType { parts.dtype }

    /// Rotary embedding of queries and keys.
    public var rotary: RotaryEmbedding { parts.rotary }

    /// The output projection.
    public var head: Linear { parts.head }

    /// Rows of the embedding.
    public func embed(_ tokens: Tensor) throws -> Tensor {
        try parts.embedding.embedding(tokens)
    }

    /// Attention and feed-forward network or experts, each with its norm before and the residual around it.
    public func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor {
        let (layer, epsilon) = (parts.layers[index], parts.config.epsilon)
        let attended = try layer.attention(
            x.rmsNorm(layer.inputNorm, epsilon: epsilon), addingTo: x, layer: index, context)
        return try layer.network(
            attended.rmsNorm(layer.postNorm, epsilon: epsilon), addingTo: attended, context)
    }

    /// The final norm.
    public func normed(_ x: Tensor) throws -> Tensor {
        try x.rmsNorm(parts.norm, epsilon: parts.config.epsilon)
    }

    /// `model.layers.0.` and so on.
    public static func layerPrefix(_ index: Int) -> String {
        "\(PreNormConfiguration.layerName(index))."
    }
}

extension DensePreNormModel {
    /// Query, key and value; output; gate and up; down; layer by layer.
    public static func sites(_ config: ModelConfig) throws -> [Site] {
        let sizes = try configuration(config)
        return (0..<sizes.layers).flatMap {
            sizes.attentionSites(layer: $0) + sizes.networkSites(layer: $0)
        }
    }

    /// Sizes, norms and rotary embedding.
    public static func decoder(_ config: ModelConfig) throws -> DecoderArchitecture {
        let sizes = try configuration(config)
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
        let layer = parts.layers[index]
        guard case .dense(let network) = layer.network else {
            preconditionFailure("layer \(index) has experts, which a DensePreNormModel has not")
        }
        return DecoderLayerWeights(
            inputNorm: layer.inputNorm, qkv: layer.attention.qkv,
            queryNorm: layer.attention.norms?.query, keyNorm: layer.attention.norms?.key,
            output: layer.attention.output, postNorm: layer.postNorm, gateUp: network.gateUp,
            down: network.down)
    }

    /// Embedding, final norm and output projection.
    public var ends: DecoderEnds {
        DecoderEnds(embedding: parts.embedding, norm: parts.norm, head: parts.head)
    }
}
