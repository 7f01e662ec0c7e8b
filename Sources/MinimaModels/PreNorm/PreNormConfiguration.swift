import MinimaCheckpoint

/// What a ``PreNormModel`` is made by.
struct PreNormConfiguration: Sendable {
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
    /// Whether query, key, value and output projection have biases.
    let attentionBias: Bool
    /// Whether gate, up and down have biases.
    let mlpBias: Bool
    /// Whether queries and keys are normalised per head.
    let normalisesQueriesAndKeys: Bool
    let tied: Bool

    /// What `config` says and the family knows.
    ///
    /// - Parameters:
    ///   - usual: Dimensions of heads without a `head_dim`; `nil`: they share `hidden_size`.
    ///   - readsMLPBias: Whether the family knows `mlp_bias`; else it has none.
    /// - Throws: `CheckpointError` or `ModelError` for what is missing, impossible or not supported.
    init(
        _ config: ModelConfig, headDim usual: Int? = nil, readsMLPBias: Bool = false,
        normalisesQueriesAndKeys: Bool
    ) throws {
        hidden = try config.int("hidden_size")
        intermediate = try config.int("intermediate_size")
        layers = try config.int("num_hidden_layers", in: 1...10_000)
        heads = try config.int("num_attention_heads", in: 1...65_536)
        kvHeads = try config.intIfPresent("num_key_value_heads", in: 1...heads) ?? heads
        headDim =
            try config.intIfPresent("head_dim", in: 1...65_536) ?? usual
            ?? config.sharedHeadDim(hidden: hidden, heads: heads)
        vocabulary = try config.int("vocab_size")
        rope = try config.ropeParameters()
        context = rope.contextLength(maxPositions: try config.int("max_position_embeddings"))
        epsilon = try config.doubleIfPresent("rms_norm_eps", in: 0...1) ?? 1e-6
        attentionBias = try config.boolIfPresent("attention_bias") ?? false
        mlpBias = try readsMLPBias && config.boolIfPresent("mlp_bias") ?? false
        self.normalisesQueriesAndKeys = normalisesQueriesAndKeys
        tied = try config.tiesHead
        try config.requireDivisible("num_attention_heads", heads, by: kvHeads)
        try config.requireMatrix("num_attention_heads", rows: heads * headDim, hidden: hidden)
        try config.requireMatrix("intermediate_size", rows: intermediate, hidden: hidden)
        try config.requireMatrix("vocab_size", rows: vocabulary, hidden: hidden)
        try config.requirePairs(rope, headDim: headDim)
        try config.requireSiLU()
    }

    /// What names in decoder layer `index` begin with, without the dot.
    static func layerName(_ index: Int) -> String { "model.layers.\(index)" }

    /// Query, key and value with their heads in groups of one key's; output.
    func attentionSites(layer: Int) -> [Site] {
        let name = "\(Self.layerName(layer)).self_attn"
        let (wide, narrow) = (heads * headDim, kvHeads * headDim)
        func shape(_ role: String, _ outputs: Int, _ inputs: Int, _ axis: PatchGrid.Axis)
            -> LinearShape
        {
            LinearShape(
                name: "\(name).\(role)", outputs: outputs, inputs: inputs,
                patches: PatchGrid(axis, count: kvHeads))
        }
        return [
            Site(
                "\(name).qkv_proj", layer: layer, inputs: hidden,
                members: [
                    shape("q_proj", wide, hidden, .outputs),
                    shape("k_proj", narrow, hidden, .outputs),
                    shape("v_proj", narrow, hidden, .outputs),
                ]),
            Site(shape("o_proj", hidden, wide, .inputs), layer: layer, addsToResidual: true),
        ]
    }

    /// Gate and up; down.
    func networkSites(layer: Int) -> [Site] {
        SwiGLU.sites(
            "\(Self.layerName(layer)).mlp", layer: layer, hidden: hidden,
            intermediate: intermediate)
    }
}
