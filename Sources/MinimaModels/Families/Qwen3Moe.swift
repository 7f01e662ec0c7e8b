import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Qwen3 with mixtures of experts in place of some or all feed-forward networks.
///
/// Experts are stored one by one, `mlp.experts.0.gate_proj.weight` and so on, as transformers 4 and
/// 5 write them; the router, `mlp.gate.weight`, is never compressed.
///
/// - Note: Yang et al. 2025, "Qwen3 Technical Report"; transformers' `modeling_qwen3_moe`.
public struct Qwen3Moe: LanguageModel {
    /// `qwen3_moe`.
    public static let modelTypes = ["qwen3_moe"]

    // MARK: Configuration

    struct Configuration: Sendable {
        /// Everything that is as in the dense family.
        let base: Qwen3.Configuration
        let experts: MoE.Configuration
        /// Which layers have experts.
        let isSparse: [Bool]

        /// Experts of all layers that are believed; the largest models have tens of thousands.
        static let largestExpertCount = 1 << 17

        init(_ config: ModelConfig) throws {
            base = try Qwen3.Configuration(config, sharesHeadDim: true)
            // Transformers 5 writes one name, transformers 4 the other.
            let key =
                config.value("num_local_experts") == nil ? "num_experts" : "num_local_experts"
            let experts = try config.int(key, in: 1...Self.largestExpertCount / base.layers)
            self.experts = MoE.Configuration(
                hidden: base.hidden,
                intermediate: try config.int("moe_intermediate_size"),
                experts: experts,
                active: try config.int("num_experts_per_tok", in: 1...experts),
                isNormalised: try config.boolIfPresent("norm_topk_prob") ?? false)
            let step = try config.intIfPresent("decoder_sparse_step") ?? 1
            let dense = Set(try config.ints("mlp_only_layers"))
            isSparse = (0..<base.layers).map {
                !dense.contains($0) && ($0 + 1).isMultiple(of: step)
            }
            try config.requireMatrix(
                "moe_intermediate_size", rows: self.experts.intermediate, hidden: base.hidden)
            try config.requireMatrix(key, rows: experts, hidden: base.hidden)
        }

        func sites(_ index: Int) -> [Site] {
            let name = "model.layers.\(index)"
            let mlp =
                isSparse[index]
                ? MoE.sites("\(name).mlp", layer: index, experts)
                : SwiGLU.sites(
                    "\(name).mlp", layer: index, hidden: base.hidden,
                    intermediate: base.intermediate)
            return base.attentionSites("\(name).self_attn", layer: index) + mlp
        }
    }

    // MARK: Parts

    enum FeedForward {
        case dense(SwiGLU)
        case sparse(MoE)

        /// The residual stream `stream` after this network has read `x`, its norm.
        func callAsFunction(_ x: Tensor, addingTo stream: Tensor, _ context: ForwardContext) throws
            -> Tensor
        {
            switch self {
            case .dense(let network): try network(x, addingTo: stream, context)
            case .sparse(let experts): try experts(x, addingTo: stream, context)
            }
        }
    }

    struct Layer {
        let inputNorm: Tensor
        let attention: Qwen3.Attention
        let postNorm: Tensor
        let mlp: FeedForward

        init(_ index: Int, _ config: Configuration, _ weights: inout WeightLoader) throws {
            let name = "model.layers.\(index)"
            let base = config.base
            inputNorm = try weights.tensor("\(name).input_layernorm.weight", shape: [base.hidden])
            attention = try Qwen3.Attention("\(name).self_attn", base, &weights)
            postNorm = try weights.tensor(
                "\(name).post_attention_layernorm.weight", shape: [base.hidden])
            mlp =
                try config.isSparse[index]
                ? .sparse(MoE("\(name).mlp", config.experts, &weights))
                : .dense(
                    SwiGLU(
                        "\(name).mlp", hidden: base.hidden, intermediate: base.intermediate,
                        bias: false, &weights))
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

    private let config: Qwen3.Configuration
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

    /// Attention and feed-forward network or experts, each with its norm before and the residual
    /// around it.
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

    // MARK: Loading

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        let sizes = try Configuration(config)
        self.config = sizes.base
        self.device = device
        self.dtype = dtype
        rotary = RotaryEmbedding(sizes.base.rope, headDim: sizes.base.headDim, device: device)
        embedding = try weights.tensor(
            "model.embed_tokens.weight", shape: [sizes.base.vocabulary, sizes.base.hidden])
        layers = try (0..<sizes.base.layers).map { try Layer($0, sizes, &weights) }
        norm = try weights.tensor("model.norm.weight", shape: [sizes.base.hidden])
        head = try weights.head(tied: sizes.base.tied, embedding: embedding)
    }

    /// `model.layers.0.` and so on.
    public static func layerPrefix(_ index: Int) -> String { "model.layers.\(index)." }

    /// Query, key and value; output; gate and up, then down, of the network or of each expert;
    /// layer by layer.
    public static func sites(_ config: ModelConfig) throws -> [Site] {
        let sizes = try Configuration(config)
        return (0..<sizes.base.layers).flatMap(sizes.sites)
    }
}
