/// Sizes of a dense decoder model of the Qwen3 and Llama kind: what fixes its traffic, its
/// arithmetic and its memory.
public struct DecoderDimensions: Codable, Sendable, Hashable {
    /// Linear layers that read one activation, stacked into one weight `[outputs, inputs]`.
    public struct Site: Sendable, Hashable {
        /// `qkv_proj`, `o_proj`, `gate_up_proj`, `down_proj`.
        public var name: String
        /// Rows.
        public var outputs: Int
        /// Columns.
        public var inputs: Int
    }

    /// Decoder layers.
    public var layers: Int
    /// Width of the residual stream.
    public var hiddenSize: Int
    /// Query heads.
    public var heads: Int
    /// Key and value heads.
    public var keyValueHeads: Int
    /// Channels of a head.
    public var headDim: Int
    /// Width of the FFN.
    public var intermediateSize: Int
    /// Rows of the embedding and of the output projection.
    public var vocabularySize: Int
    /// Whether the embedding is the output projection, too.
    public var tiesEmbedding: Bool

    /// Sizes, each at least 1.
    public init(
        layers: Int, hiddenSize: Int, heads: Int, keyValueHeads: Int, headDim: Int,
        intermediateSize: Int, vocabularySize: Int, tiesEmbedding: Bool = false
    ) {
        self.layers = layers
        self.hiddenSize = hiddenSize
        self.heads = heads
        self.keyValueHeads = keyValueHeads
        self.headDim = headDim
        self.intermediateSize = intermediateSize
        self.vocabularySize = vocabularySize
        self.tiesEmbedding = tiesEmbedding
    }

    /// The sites of one layer in forward order.
    public var sites: [Site] {
        let queries = Int.saturatingProduct(heads, headDim)
        let keys = Int.saturatingProduct(keyValueHeads, headDim)
        return [
            Site(
                name: "qkv_proj", outputs: .saturatingSum(queries, keys, keys), inputs: hiddenSize),
            Site(name: "o_proj", outputs: hiddenSize, inputs: queries),
            Site(
                name: "gate_up_proj", outputs: .saturatingProduct(2, intermediateSize),
                inputs: hiddenSize),
            Site(name: "down_proj", outputs: hiddenSize, inputs: intermediateSize),
        ]
    }

    /// Parameters of all layers' dense linear weights.
    public var linearParameters: Int {
        let layer = sites.reduce(0) {
            .saturatingSum($0, .saturatingProduct($1.outputs, $1.inputs))
        }
        return .saturatingProduct(layers, layer)
    }

    /// Parameters of the output projection; the embedding has as many.
    public var headParameters: Int { .saturatingProduct(vocabularySize, hiddenSize) }

    /// Bytes of keys and values that one token of context takes over all layers.
    public func cacheBytesPerToken(_ type: DType) -> Int {
        .saturatingProduct(2, layers, keyValueHeads, headDim, type.byteCount)
    }

    /// Floating-point operations of reading a prompt of `tokens` tokens: two per token and number
    /// that the linear layers store, causal attention, and the logits of the last token.
    ///
    /// - Parameter linearParameters: Numbers that the linear layers multiply by, fewer where they
    ///   are factored; `nil`: those of the dense ones.
    public func prefillFlops(tokens: Int, linearParameters: Int? = nil) -> Double {
        let count = Double(tokens)
        let linear = 2 * Double(linearParameters ?? self.linearParameters) * count
        // Scores and weighted sums, two operations each, over the tokens up to one's own.
        let attention =
            4 * Double(layers) * Double(heads) * Double(headDim) * count * (count + 1) / 2
        return linear + attention + 2 * Double(headParameters)
    }
}
