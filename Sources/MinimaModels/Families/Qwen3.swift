import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Qwen3, dense: grouped-query attention with normalised queries and keys, SwiGLU.
///
/// - Note: Yang et al. 2025, "Qwen3 Technical Report"; transformers' `modeling_qwen3`.
public struct Qwen3: DecoderModel {
    /// `qwen3`.
    public static let modelTypes = ["qwen3"]

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
        let tied: Bool

        /// - Parameter sharesHeadDim: Whether heads without a `head_dim` share `hidden_size`; else
        ///   they have 128 dimensions.
        init(_ config: ModelConfig, sharesHeadDim: Bool = false) throws {
            hidden = try config.int("hidden_size")
            intermediate = try config.int("intermediate_size")
            layers = try config.int("num_hidden_layers", in: 1...10_000)
            heads = try config.int("num_attention_heads", in: 1...65_536)
            kvHeads = try config.intIfPresent("num_key_value_heads", in: 1...heads) ?? heads
            headDim =
                try config.intIfPresent("head_dim", in: 1...65_536)
                ?? (sharesHeadDim ? config.sharedHeadDim(hidden: hidden, heads: heads) : 128)
            vocabulary = try config.int("vocab_size")
            rope = try config.ropeParameters()
            context = rope.contextLength(
                maxPositions: try config.int("max_position_embeddings"))
            epsilon = try config.doubleIfPresent("rms_norm_eps", in: 0...1) ?? 1e-6
            attentionBias = try config.boolIfPresent("attention_bias") ?? false
            tied = try config.tiesHead
            try config.requireDivisible("num_attention_heads", heads, by: kvHeads)
            try config.requireMatrix(
                "num_attention_heads", rows: heads * headDim, hidden: hidden)
            try config.requireMatrix("intermediate_size", rows: intermediate, hidden: hidden)
            try config.requireMatrix("vocab_size", rows: vocabulary, hidden: hidden)
            try config.requirePairs(rope, headDim: headDim)
            try config.requireSiLU()
            guard try config.boolIfPresent("use_sliding_window") != true else {
                throw ModelError.unsupported(
                    path: config.path, key: "use_sliding_window", found: "true",
                    supported: "full attention")
            }
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
        let queryNorm: Tensor
        let keyNorm: Tensor
        let config: Configuration

        init(_ name: String, _ config: Configuration, _ weights: inout WeightLoader) throws {
            let sites = config.attentionSites(name, layer: 0)
            qkv = try weights.group(sites[0], bias: config.attentionBias)
            output = try weights.linear(sites[1], bias: config.attentionBias)
            queryNorm = try weights.tensor("\(name).q_norm.weight", shape: [config.headDim])
            keyNorm = try weights.tensor("\(name).k_norm.weight", shape: [config.headDim])
            self.config = config
        }

        /// The residual stream `stream` after this attention has read `x`, its norm.
        func callAsFunction(
            _ x: Tensor, addingTo stream: Tensor, layer: Int, _ context: ForwardContext
        ) throws -> Tensor {
            let projected = try context.apply(qkv, x)
            let split = [context.batch, context.tokens, -1, config.headDim]
            let q = try projected[0].reshape(split).rmsNorm(queryNorm, epsilon: config.epsilon)
            let k = try projected[1].reshape(split).rmsNorm(keyNorm, epsilon: config.epsilon)
            let v = try projected[2].reshape(split)
            let attended = try context.attend(
                layer: layer,
                query: RotaryEmbedding.rotate(q.transpose(1, 2), context),
                key: RotaryEmbedding.rotate(k.transpose(1, 2), context),
                value: v.transpose(1, 2))
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
                bias: false, &weights)
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
            normalisesQueriesAndKeys: true)
    }

    /// The weights of decoder layer `index`.
    public func decoderLayer(_ index: Int) -> DecoderLayerWeights {
        let layer = layers[index]
        return DecoderLayerWeights(
            inputNorm: layer.inputNorm, qkv: layer.attention.qkv,
            queryNorm: layer.attention.queryNorm, keyNorm: layer.attention.keyNorm,
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
