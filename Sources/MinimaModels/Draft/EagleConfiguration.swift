import MinimaCheckpoint
import MinimaCore

/// Sizes of an EAGLE-3 draft, as its `config.json` gives them.
///
/// Read are the layouts of the paper's authors and SGLang (`LlamaForCausalLMEagle3`), of vLLM
/// (`Eagle3LlamaForCausalLM`) and of its converters (`Eagle3Speculator`, whose sizes are in the section
/// `transformer_layer_config`); written is the first.
public struct EagleConfiguration: Sendable, Hashable {
    /// The model class that is written.
    public static let architecture = "LlamaForCausalLMEagle3"
    /// Layers of the target whose input is read.
    public static let featureCount = 3

    /// Width of the draft's residual stream.
    public var hidden: Int
    /// Width of the target's.
    public var targetHidden: Int
    /// Neurons of the feed-forward network.
    public var intermediate: Int
    /// Query heads.
    public var heads: Int
    /// Heads of keys and values.
    public var keyValueHeads: Int
    /// Values of a head.
    public var headDim: Int
    /// Tokens that the target knows.
    public var vocabulary: Int
    /// Tokens that the draft can propose.
    public var draftVocabulary: Int
    /// Rotary embedding.
    public var rope: RoPEParameters
    /// ε of every norm.
    public var epsilon: Double
    /// Whether the attention's linear layers have biases.
    public var attentionBias = false
    /// Whether those of the feed-forward network have.
    public var feedForwardBias = false
    /// Whether the layer that fuses features has.
    public var fuseBias = false
    /// Whether attention is added to the normalised feature rather than to the feature itself
    /// (`norm_before_residual`).
    public var normsBeforeResidual = false
    /// The target's decoder layers whose input is read; `nil`: those of
    /// ``usualFeatureLayers(of:)``.
    public var featureLayers: [Int]?

    /// The layers whose input is read where a configuration names none: 2, N/2 and N − 3 of N, as
    /// SGLang and vLLM have them; of fewer than seven, where these would not ascend, some that do.
    public static func usualFeatureLayers(of layers: Int) -> [Int] {
        layers >= 7
            ? [2, layers / 2, layers - 3]
            : [layers / 4, layers / 2, max(layers - 1, 0)]
    }

    /// Whether a `config.json` is an EAGLE-3 draft's: by its model class or, as some heads name their
    /// layer's (`LlamaForCausalLM`), by the size of the draft's vocabulary.
    public static func describes(_ config: ModelConfig) throws -> Bool {
        try config.architectures.contains { $0.lowercased().contains("eagle3") }
            || config.value("draft_vocab_size") != nil
    }

    /// Reads a draft's `config.json`.
    ///
    /// - Throws: `CheckpointError.value` for values that are missing, of another kind or out of
    ///   range, `ModelError.unsupported` for drafts of another kind.
    public init(_ config: ModelConfig) throws {
        guard try Self.describes(config) else {
            throw ModelError.unsupported(
                path: config.path, key: "architectures", found: "\(try config.architectures)",
                supported: "EAGLE-3 drafts here (\"\(Self.architecture)\")")
        }
        let sizes = try config.sectionIfPresent("transformer_layer_config") ?? config
        let layers = try sizes.intIfPresent("num_hidden_layers", in: 1...10_000) ?? 1
        guard layers == 1 else {
            throw ModelError.unsupported(
                path: config.path, key: "num_hidden_layers", found: "\(layers)",
                supported: "drafts of one decoder layer")
        }
        hidden = try sizes.int("hidden_size")
        targetHidden = try config.intIfPresent("target_hidden_size") ?? hidden
        intermediate = try sizes.int("intermediate_size")
        heads = try sizes.int("num_attention_heads", in: 1...65_536)
        keyValueHeads = try sizes.intIfPresent("num_key_value_heads", in: 1...heads) ?? heads
        headDim =
            try sizes.intIfPresent("head_dim", in: 1...65_536)
            ?? sizes.sharedHeadDim(hidden: hidden, heads: heads)
        vocabulary = try sizes.int("vocab_size")
        draftVocabulary =
            try config.intIfPresent("draft_vocab_size", in: 1...vocabulary) ?? vocabulary
        rope = try sizes.ropeParameters()
        epsilon = try sizes.doubleIfPresent("rms_norm_eps", in: 0...1) ?? 1e-6
        attentionBias = try sizes.boolIfPresent("attention_bias") ?? false
        feedForwardBias = try sizes.boolIfPresent("mlp_bias") ?? false
        fuseBias = try config.boolIfPresent("bias") ?? false
        normsBeforeResidual = try config.boolIfPresent("norm_before_residual") ?? false
        featureLayers = try Self.featureLayers(config)
        try sizes.requireDivisible("num_attention_heads", heads, by: keyValueHeads)
        // Attention reads two streams, and three are fused.
        try sizes.requireMatrix(
            "num_attention_heads", rows: heads * headDim, hidden: 2 * hidden)
        try sizes.requireMatrix("intermediate_size", rows: intermediate, hidden: hidden)
        try sizes.requireMatrix("vocab_size", rows: vocabulary, hidden: hidden)
        try config.requireMatrix(
            "target_hidden_size", rows: hidden, hidden: Self.featureCount * targetHidden)
        try sizes.requirePairs(rope, headDim: headDim)
        try sizes.requireSiLU()
    }

    /// vLLM counts the layers whose input is read, SGLang those whose output is.
    private static func featureLayers(_ config: ModelConfig) throws -> [Int]? {
        let key = "eagle_aux_hidden_state_layer_ids"
        let range = -1...10_000
        var section = config
        var layers = try config.ints(key, in: range)
        if layers.isEmpty, let eagle = try config.sectionIfPresent("eagle_config") {
            section = eagle
            guard try eagle.boolIfPresent("use_aux_hidden_state") ?? true else {
                throw ModelError.unsupported(
                    path: config.path, key: "eagle_config.use_aux_hidden_state", found: "false",
                    supported: "drafts that read \(featureCount) layers of the target")
            }
            layers = try eagle.ints(key, in: range).map { $0 + 1 }
        }
        guard !layers.isEmpty else { return nil }
        guard layers.count == featureCount, layers.allSatisfy({ $0 >= 0 }) else {
            throw section.mismatch(key, expected: "\(featureCount) layers of the target")
        }
        return layers
    }

    /// A draft for a target of `config`: one decoder layer with the target's heads and neurons.
    ///
    /// - Parameter draftVocabulary: Tokens that it can propose, at most the target's.
    /// - Throws: As ``init(_:)``.
    public init(target config: ModelConfig, draftVocabulary: Int) throws {
        hidden = try config.int("hidden_size")
        targetHidden = hidden
        intermediate = try config.int("intermediate_size")
        heads = try config.int("num_attention_heads", in: 1...65_536)
        keyValueHeads = try config.intIfPresent("num_key_value_heads", in: 1...heads) ?? heads
        headDim =
            try config.intIfPresent("head_dim", in: 1...65_536)
            ?? config.sharedHeadDim(hidden: hidden, heads: heads)
        vocabulary = try config.int("vocab_size")
        self.draftVocabulary = min(max(draftVocabulary, 1), vocabulary)
        rope = try config.ropeParameters()
        epsilon = try config.doubleIfPresent("rms_norm_eps", in: 0...1) ?? 1e-6
        featureLayers = Self.usualFeatureLayers(
            of: try config.int("num_hidden_layers", in: 1...10_000))
        _ = try Self(ModelConfig(json: json(target: config), path: config.path))
    }

    /// The `config.json` of a draft of these sizes in the layout that SGLang and vLLM read.
    ///
    /// - Parameter config: The target's, which gives the token ids, the longest context and the
    ///   rotary embedding.
    /// - Throws: `CheckpointError` for a type of weights that is none.
    public func json(target config: ModelConfig) throws(CheckpointError) -> JSON {
        var members: [(String, JSON)] = [
            ("architectures", [.string(Self.architecture)]),
            ("model_type", "llama"),
            ("hidden_size", .integer(Int64(hidden))),
            ("intermediate_size", .integer(Int64(intermediate))),
            ("num_attention_heads", .integer(Int64(heads))),
            ("num_key_value_heads", .integer(Int64(keyValueHeads))),
            ("head_dim", .integer(Int64(headDim))),
            ("num_hidden_layers", 1),
            ("vocab_size", .integer(Int64(vocabulary))),
            ("draft_vocab_size", .integer(Int64(draftVocabulary))),
            ("rms_norm_eps", .number(epsilon)),
            ("hidden_act", "silu"),
            ("attention_bias", .bool(attentionBias)),
            ("mlp_bias", .bool(feedForwardBias)),
            ("tie_word_embeddings", false),
            ("rope_theta", .number(rope.theta)),
        ]
        // transformers 4 names the base at the top level, 5 among the parameters.
        let section = config.value("rope_scaling") ?? config.value("rope_parameters")
        if rope.scaling != .none || rope.partialRotaryFactor != 1, let section {
            members.append(("rope_scaling", section))
        } else {
            members.append(("rope_scaling", .null))
        }
        if rope.partialRotaryFactor != 1 {
            members.append(("partial_rotary_factor", .number(rope.partialRotaryFactor)))
        }
        if targetHidden != hidden {
            members.append(("target_hidden_size", .integer(Int64(targetHidden))))
        }
        if fuseBias { members.append(("bias", true)) }
        if normsBeforeResidual { members.append(("norm_before_residual", true)) }
        if let featureLayers {
            let key = "eagle_aux_hidden_state_layer_ids"
            members.append((key, .array(featureLayers.map { .integer(Int64($0)) })))
            members.append(
                (
                    "eagle_config",
                    .object([
                        JSON.Name(key): .array(featureLayers.map { .integer(Int64($0 - 1)) }),
                        "use_aux_hidden_state": true,
                    ])
                ))
        }
        for key in [
            "max_position_embeddings", "bos_token_id", "eos_token_id", "pad_token_id",
        ] {
            if let value = config.value(key) { members.append((key, value)) }
        }
        // The key that both versions of transformers read.
        if let dtype = try config.weightDType() {
            members.append(("torch_dtype", .string("\(dtype)")))
        }
        return .object(.init(uniqueKeysWithValues: members.map { (JSON.Name($0.0), $0.1) }))
    }
}
