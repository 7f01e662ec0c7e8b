import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Llama 2 and 3 and models of their architecture: grouped-query attention, SwiGLU.
///
/// - Note: Touvron et al. 2023, "LLaMA"; Grattafiori et al. 2024, "The Llama 3 Herd of Models";
///   transformers' `modeling_llama`.
public struct Llama: DecoderModel {
    /// `llama`.
    public static let modelTypes = ["llama"]

    // MARK: Configuration

    struct Configuration: Sendable {
        let hidden: Int
        let intermediate: Int
        let layers: Int
        let heads: Int
        let kvHeads: Int
        let headDim: Int
        let vocabulary: Int
        let context: Int
        let rope: RoPEParameters
        let epsilon: Double
        let attentionBias: Bool
        let mlpBias: Bool
        let tied: Bool

        init(_ config: ModelConfig) throws {
            hidden = try config.int("hidden_size")
            intermediate = try config.int("intermediate_size")
            layers = try config.int("num_hidden_layers", in: 1...10_000)
            heads = try config.int("num_attention_heads", in: 1...65_536)
            kvHeads = try config.intIfPresent("num_key_value_heads", in: 1...heads) ?? heads
            headDim =
                try config.intIfPresent("head_dim", in: 1...65_536)
                ?? config.sharedHeadDim(hidden: hidden, heads: heads)
            vocabulary = try config.int("vocab_size")
            rope = try config.ropeParameters()
            context = rope.contextLength(
                maxPositions: try config.int("max_position_embeddings"))
            epsilon = try config.doubleIfPresent("rms_norm_eps", in: 0...1) ?? 1e-6
            attentionBias = try config.boolIfPresent("attention_bias") ?? false
            mlpBias = try config.boolIfPresent("mlp_bias") ?? false
            tied = try config.tiesHead
            try config.requireDivisible("num_attention_heads", heads, by: kvHeads)
            try config.requireMatrix(
                "num_attention_heads", rows: heads * headDim, hidden: hidden)
            try config.requireMatrix("intermediate_size", rows: intermediate, hidden: hidden)
            try config.requireMatrix("vocab_size", rows: vocabulary, hidden: hidden)
            try config.requirePairs(rope, headDim: headDim)
            try config.requireSiLU()
        }

        func attentionSites(_ name: String, layer: Int) -> [Site] {
            AttentionSites.sites(
                name, layer: layer, hidden: hidden, heads: heads, kvHeads: kvHeads,
                headDim: headDim)
        }
    }

    // MARK: Parts

    struct Attention {
        let qkv: LinearGroup
        let output: Linear
        let config: Configuration

        init(_ name: String, _ config: Configuration, _ weights: inout WeightLoader) throws {
            let sites = config.attentionSites(name, layer: 0)
            qkv = try weights.group(sites[0], bias: config.attentionBias)
            output = try weights.linear(sites[1], bias: config.attentionBias)
            self.config = config
        }

        /// The residual stream `stream` after this attention has read `x`, its norm.
        func callAsFunction(
            _ x: Tensor, addingTo stream: Tensor, layer: Int, _ context: ForwardContext
        ) throws -> Tensor {
            let projected = try context.apply(qkv, x)
            let split = [context.batch, context.tokens, -1, config.headDim]
            let heads = try projected.map { try $0.reshape(split).transpose(1, 2) }
            let attended = try context.attend(
                layer: layer,
                query: RotaryEmbedding.rotate(heads[0], context),
                key: RotaryEmbedding.rotate(heads[1], context),
                value: heads[2])
            return try context.apply(output, attended, addingTo: stream)
        }
    }

    struct Layer {
        let inputNorm: Tensor
        let attention: Attention
        let postNorm: Tensor
        let mlp: SwiGLU

        init(_ index: Int, _ config: Configuration, _ weights: inout WeightLoader) throws {
            let name = "model.layers.\(index)"
            inputNorm = try weights.tensor("\(name).input_layernorm.weight", shape: [config.hidden])
            attention = try Attention("\(name).self_attn", config, &weights)
            postNorm = try weights.tensor(
                "\(name).post_attention_layernorm.weight", shape: [config.hidden])
            mlp = try SwiGLU(
                "\(name).mlp", hidden: config.hidden, intermediate: config.intermediate,
                bias: config.mlpBias, &weights)
        }
    }

    // MARK: Whole

    /// Where the weights are.
    public let device: Device
    /// The type that the model computes in.
    public let dtype: DType
    /// Rotary embedding of queries and keys.
    public let rotary: RotaryEmbedding
    /// The output projection.
    public let head: Linear

    private let config: Configuration
    private let embedding: Tensor
    private let layers: [Layer]
    private let norm: Tensor

    /// Sizes of this model.
    public var dimensions: ModelDimensions {
        ModelDimensions(
            layers: config.layers, hidden: config.hidden, vocabulary: config.vocabulary,
            context: config.context)
    }

    /// Rows of the embedding.
    public func embed(_ tokens: Tensor) throws -> Tensor {
        try embedding.embedding(tokens)
    }

    /// Attention and feed-forward network, each with its norm before and the residual around it.
    public func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor {
        let layer = layers[index]
        let attended = try layer.attention(
            x.rmsNorm(layer.inputNorm, epsilon: config.epsilon), addingTo: x, layer: index,
            context)
        return try layer.mlp(
            attended.rmsNorm(layer.postNorm, epsilon: config.epsilon), addingTo: attended, context)
    }

    /// The final norm.
    public func normed(_ x: Tensor) throws -> Tensor {
        try x.rmsNorm(norm, epsilon: config.epsilon)
    }

    // MARK: Parts for kernels

    /// Sizes, norms and rotary embedding.
    public static func decoder(_ config: ModelConfig) throws -> DecoderArchitecture {
        let sizes = try Configuration(config)
        return DecoderArchitecture(
            dimensions: DecoderDimensions(
                layers: sizes.layers, hiddenSize: sizes.hidden, heads: sizes.heads,
                keyValueHeads: sizes.kvHeads, headDim: sizes.headDim,
                intermediateSize: sizes.intermediate, vocabularySize: sizes.vocabulary,
                tiesEmbedding: sizes.tied),
            epsilon: sizes.epsilon, rope: sizes.rope,
            normalisesQueriesAndKeys: false)
    }

    /// The weights of decoder layer `index`.
    public func decoderLayer(_ index: Int) -> DecoderLayerWeights {
        let layer = layers[index]
        return DecoderLayerWeights(
            inputNorm: layer.inputNorm, qkv: layer.attention.qkv,
            queryNorm: nil, keyNorm: nil,
            output: layer.attention.output, postNorm: layer.postNorm,
            gateUp: layer.mlp.gateUp, down: layer.mlp.down)
    }

    /// Embedding, final norm and output projection.
    public var ends: DecoderEnds { DecoderEnds(embedding: embedding, norm: norm, head: head) }

    // MARK: Loading

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        let sizes = try Configuration(config)
        self.config = sizes
        self.device = device
        self.dtype = dtype
        rotary = RotaryEmbedding(sizes.rope, headDim: sizes.headDim, device: device)
        embedding = try weights.tensor(
            "model.embed_tokens.weight", shape: [sizes.vocabulary, sizes.hidden])
        layers = try (0..<sizes.layers).map { try Layer($0, sizes, &weights) }
        norm = try weights.tensor("model.norm.weight", shape: [sizes.hidden])
        head = try weights.head(tied: sizes.tied, embedding: embedding)
        // Conversions of 2023 stored the frequencies, which follow from the configuration.
        weights.ignore { $0.hasSuffix(".rotary_emb.inv_freq") }
    }

    /// `model.layers.0.` and so on.
    public static func layerPrefix(_ index: Int) -> String { "model.layers.\(index)." }

    /// Query, key and value; output; gate and up; down; layer by layer.
    public static func sites(_ config: ModelConfig) throws -> [Site] {
        let sizes = try Configuration(config)
        return (0..<sizes.layers).flatMap { index in
            let name = "model.layers.\(index)"
            return sizes.attentionSites("\(name).self_attn", layer: index)
                + SwiGLU.sites(
                    "\(name).mlp", layer: index, hidden: sizes.hidden,
                    intermediate: sizes.intermediate)
        }
    }
}
