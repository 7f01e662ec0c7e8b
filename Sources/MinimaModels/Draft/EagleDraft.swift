import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

/// The head of EAGLE-3: one decoder layer that reads three layers of a target model and guesses the
/// tokens that it will say.
///
/// At place i it reads the fused features of token i, g_i = fuse(f_i), and the embedding of token i + 1,
/// and predicts token i + 2:
///
///     a   = g_i + attention(norm(embedding) ∥ norm(g_i))      [2·hidden] → [hidden]
///     h_i = a + feed-forward(norm(a))
///     logits of token i + 2 = head(norm(h_i))
///
/// To go on, h_i takes the place of the features that the target has not computed: (h_i, embedding of
/// the guessed token) at place i + 1. A place's rotary position is its number.
///
/// - Note: Li, Wei, Zhang & Zhang 2025, "EAGLE-3", section 3.1; the places of norms and residual as in
///   the authors' code, SGLang and vLLM.
public struct EagleDraft: Sendable {
    /// Sizes.
    public let config: EagleConfiguration
    /// Where the weights are: where the target's are.
    public let device: Device
    /// The type that it computes in: the target's.
    public let dtype: DType
    /// Decoder layers of the target whose input is read, in the order in which it is concatenated.
    public let featureLayers: [Int]
    /// Rotary embedding of queries and keys.
    public let rotary: RotaryEmbedding
    /// The target's id of each of the draft's, int64 `[draft vocabulary]`, ascending in the usual
    /// layout.
    public let targetIds: Tensor

    /// Features `[…, 3·target hidden]` to `[…, hidden]`.
    public let fuseLayer: Linear
    /// Weight of the norm of the token's embedding, `[hidden]` (`input_layernorm`).
    public let embeddingNorm: Tensor
    /// Weight of the norm of the feature, `[hidden]` (`hidden_norm`).
    public let hiddenNorm: Tensor
    /// Query, key and value, of `2·hidden` inputs each: the embedding's norm before the feature's.
    public let qkv: LinearGroup
    /// Attention's output projection.
    public let output: Linear
    /// Weight of the norm before the feed-forward network, `[hidden]`.
    public let postNorm: Tensor
    /// Gate and up.
    public var gateUp: LinearGroup { mlp.gateUp }
    /// Down.
    public var down: Linear { mlp.down }
    /// Weight of the norm before the output projection, `[hidden]`.
    public let norm: Tensor
    /// Output projection `[draft vocabulary, hidden]`.
    public let head: Linear
    /// The draft's own embedding `[vocabulary, hidden]`; `nil`: the target's.
    public let embedding: Tensor?

    private let mlp: SwiGLU
    private let target: any LanguageModel

    // MARK: Forward

    /// The residual stream entering ``featureLayers``, concatenated `[…, 3·target hidden]`, to
    /// `[…, hidden]`.
    public func fuse(_ features: Tensor) throws(TensorError) -> Tensor {
        try fuseLayer(features)
    }

    /// Embedding of the target's token ids (int64), `[…]` to `[…, hidden]`.
    public func embed(_ tokens: Tensor) throws -> Tensor {
        try embedding?.embedding(tokens) ?? target.embed(tokens)
    }

    /// The decoder layer.
    ///
    /// - Parameters:
    ///   - embedding: Of each place's next token, `[batch, token, hidden]`.
    ///   - hidden: Each place's fused features, or what this function gave for the place before.
    ///   - context: Positions, mask and the store of keys and values.
    ///   - index: The layer's number in that store.
    /// - Returns: `[batch, token, hidden]` before the norm: what ``logits(_:)`` takes and what feeds
    ///   back.
    public func layer(
        embedding: Tensor, hidden: Tensor, context: ForwardContext, index: Int = 0
    ) throws -> Tensor {
        try layer(embedding: embedding, hidden: hidden, context: context) {
            try context.attend(layer: index, query: $0, key: $1, value: $2)
        }
    }

    /// The decoder layer with another attention: rotated queries `[batch, head, token, dim]`, keys and
    /// values `[batch, kvHead, token, dim]` to `[batch, token, head · dim]`.
    public func layer(
        embedding: Tensor, hidden: Tensor, context: ForwardContext,
        attention: (_ query: Tensor, _ key: Tensor, _ value: Tensor) throws -> Tensor
    ) throws -> Tensor {
        let normed = try hidden.rmsNorm(hiddenNorm, epsilon: config.epsilon)
        let x = try Tensor.cat(
            [try embedding.rmsNorm(embeddingNorm, epsilon: config.epsilon), normed], dim: -1)
        let split = [context.batch, context.tokens, -1, config.headDim]
        let heads = try context.apply(qkv, x).map { try $0.reshape(split).transpose(1, 2) }
        let attended = try attention(
            RotaryEmbedding.rotate(heads[0], context), RotaryEmbedding.rotate(heads[1], context),
            heads[2])
        let stream = try context.apply(
            output, attended, addingTo: config.normsBeforeResidual ? normed : hidden)
        return try mlp(
            stream.rmsNorm(postNorm, epsilon: config.epsilon), addingTo: stream, context)
    }

    /// What ``layer(embedding:hidden:context:index:)`` gave, `[…, hidden]`, to logits
    /// `[…, draft vocabulary]`.
    public func logits(_ hidden: Tensor) throws(TensorError) -> Tensor {
        try head(hidden.rmsNorm(norm, epsilon: config.epsilon))
    }

    // MARK: Loading

    /// Loads a draft for `target`, in its type and on its device.
    ///
    /// - Parameters:
    ///   - source: The draft's directory, or weights in memory.
    ///   - adapter: Puts others in place of the tensors that are read.
    ///   - onTensor: Called before each tensor is read; throws to stop.
    /// - Throws: `CheckpointError.tensors` for all tensors that are missing, misshapen or left over,
    ///   before any weight is read; `CheckpointError.value` and `ModelError` for a configuration
    ///   that is no EAGLE-3 draft's, `DraftError` for a draft of another target.
    public init(
        _ source: any WeightSource, target: any LanguageModel,
        adapter: (any WeightAdapter)? = nil, onTensor: () throws -> Void = {}
    ) throws {
        let config = try EagleConfiguration(source.config)
        let sizes = target.dimensions
        try DraftError.check(
            config, path: source.path, hidden: sizes.hidden, vocabulary: sizes.vocabulary,
            layers: sizes.layers)
        var checking = try WeightLoader(checking: source)
        _ = try Self(config, source, target, &checking)
        try checking.finish()
        self = try withoutActuallyEscaping(onTensor) { onTensor in
            var weights = try WeightLoader(
                source, device: target.device, dtype: target.dtype, adapter: adapter,
                onTensor: onTensor)
            let draft = try Self(config, source, target, &weights)
            try weights.finish()
            return draft
        }
        try DraftError.check(
            try targetIds.values(as: Int64.self),
            membership: source.holds(Self.membershipName)
                ? source.tensor(Self.membershipName, shape: [config.vocabulary], on: .cpu)
                    .to(dtype: .uint8).values() : nil,
            vocabulary: config.vocabulary, path: source.path)
    }

    private init(
        _ config: EagleConfiguration, _ source: any WeightSource, _ target: any LanguageModel,
        _ weights: inout WeightLoader
    ) throws {
        self.config = config
        self.target = target
        device = target.device
        dtype = target.dtype
        featureLayers =
            config.featureLayers
            ?? EagleConfiguration.usualFeatureLayers(of: target.dimensions.layers)
        rotary = RotaryEmbedding(config.rope, headDim: config.headDim, device: target.device)
        let name = Self.layerName(source)
        let sites = Self.sites(config, layer: name)
        let size = [config.hidden]
        fuseLayer = try weights.linear(sites[0], bias: config.fuseBias)
        embeddingNorm = try weights.tensor("\(name).input_layernorm.weight", shape: size)
        hiddenNorm = try weights.tensor("\(name).hidden_norm.weight", shape: size)
        qkv = try weights.group(sites[1], bias: config.attentionBias)
        output = try weights.linear(sites[2], bias: config.attentionBias)
        postNorm = try weights.tensor("\(name).post_attention_layernorm.weight", shape: size)
        mlp = try SwiGLU(
            "\(name).mlp", hidden: config.hidden, intermediate: config.intermediate,
            bias: config.feedForwardBias, &weights)
        norm = try weights.tensor("norm.weight", shape: size)
        head = try weights.linear(sites[5], bias: false)
        embedding =
            source.holds(Self.embeddingName)
            ? try weights.tensor(Self.embeddingName, shape: [config.vocabulary, config.hidden])
            : nil
        if source.holds(Self.offsetsName) || config.draftVocabulary < config.vocabulary {
            let offsets = try weights.stored(
                Self.offsetsName, shape: [config.draftVocabulary], dtype: .int64)
            let places = try Tensor.arange(0..<config.draftVocabulary, device: target.device)
            targetIds = try offsets.to(target.device) + places
        } else {
            targetIds = try .arange(0..<config.vocabulary, device: target.device)
        }
        // What d2t says, once more: for training.
        if source.holds(Self.membershipName) {
            _ = try weights.stored(
                Self.membershipName, shape: [config.vocabulary], dtype: .bool)
        }
        weights.ignore { $0.hasSuffix(".rotary_emb.inv_freq") }
    }

    /// The embedding's name, where a draft has its own.
    static let embeddingName = "embed_tokens.weight"
    /// Name of the target's id of each of the draft's, less the draft's: int64 `[draft vocabulary]`.
    static let offsetsName = "d2t"
    /// Name of whether the draft knows each of the target's tokens: bool `[vocabulary]`.
    static let membershipName = "t2d"
    /// The decoder layer's name as it is written.
    static let layerName = "midlayer"

    /// What the decoder layer's names begin with: `midlayer`, or `layers.0` as vLLM's tools have it.
    private static func layerName(_ source: any WeightSource) -> String {
        let others = ["\(layerName).hidden_norm.weight", "layers.0.hidden_norm.weight"]
        return !source.holds(others[0]) && source.holds(others[1]) ? "layers.0" : layerName
    }

    /// The linear layers that may be compressed, by the input they share, in forward order: features
    /// to hidden; query, key and value; output; gate and up; down; output projection.
    public static func sites(_ source: any WeightSource) throws -> [Site] {
        sites(try EagleConfiguration(source.config), layer: layerName(source))
    }

    private static func sites(_ config: EagleConfiguration, layer name: String) -> [Site] {
        func shape(_ name: String, _ outputs: Int, _ inputs: Int) -> LinearShape {
            LinearShape(
                name: name, outputs: outputs, inputs: inputs,
                patches: PatchGrid(.outputs, count: 1))
        }
        let (hidden, inputs) = (config.hidden, 2 * config.hidden)
        let wide = config.heads * config.headDim
        let narrow = config.keyValueHeads * config.headDim
        let attention = "\(name).self_attn"
        return [
            Site(
                shape("fc", hidden, EagleConfiguration.featureCount * config.targetHidden),
                layer: 0),
            Site(
                "\(attention).qkv_proj", layer: 0, inputs: inputs,
                members: [
                    shape("\(attention).q_proj", wide, inputs),
                    shape("\(attention).k_proj", narrow, inputs),
                    shape("\(attention).v_proj", narrow, inputs),
                ]),
            Site(shape("\(attention).o_proj", hidden, wide), layer: 0, addsToResidual: true),
        ]
            + SwiGLU.sites(
                "\(name).mlp", layer: 0, hidden: hidden, intermediate: config.intermediate)
            + [Site(shape("lm_head", config.draftVocabulary, hidden), layer: 0)]
    }
}
