/// Device memory that the decode engine holds at its peak, by what it is for.
///
/// Everything is allocated before the first token and kept, so that the peak does not depend on what
/// is asked; what the driver and loaded kernels take is not in it.
public struct DecodeMemory: Codable, Sendable, Hashable {
    /// What the engine is made for.
    public struct Layout: Sendable, Hashable {
        /// Requests at once.
        public var requests: Int
        /// Most tokens of a request, prompt and answer.
        public var context: Int
        /// The type of stored keys and values.
        public var cacheType: DType
        /// Tokens of a page of the cache.
        public var pageTokens: Int
        /// Tokens of a chunk of a prompt.
        public var chunk: Int
        /// Rank of the largest factored site; 0 where none is.
        public var largestRank: Int
        /// Whether weights are expanded to bfloat16 before they meet a chunk.
        public var expandsWeights: Bool
        /// Parts into which the cache of one request is split for attention, at most.
        public var splits: Int
        /// Bytes that matrix products of the library take as workspace.
        public var workspace: Int

        /// A layout.
        public init(
            requests: Int, context: Int, cacheType: DType = .bfloat16, pageTokens: Int,
            chunk: Int, largestRank: Int = 0, expandsWeights: Bool = false, splits: Int,
            workspace: Int
        ) {
            self.requests = requests
            self.context = context
            self.cacheType = cacheType
            self.pageTokens = pageTokens
            self.chunk = chunk
            self.largestRank = largestRank
            self.expandsWeights = expandsWeights
            self.splits = splits
            self.workspace = workspace
        }
    }

    /// Stored weights, the embedding among them.
    public var weights: Int
    /// Pages of keys and values.
    public var cache: Int
    /// Buffers between kernels: those of a prompt's chunk, of a decode step, of attention's parts.
    public var activations: Int
    /// Workspace of the library's matrix products.
    public var workspace: Int
    /// Logits, float32.
    public var logits: Int

    /// Bytes by what they are for.
    public init(weights: Int, cache: Int, activations: Int, workspace: Int, logits: Int) {
        self.weights = weights
        self.cache = cache
        self.activations = activations
        self.workspace = workspace
        self.logits = logits
    }

    /// What an engine of this layout holds.
    ///
    /// A buffer of a chunk has `chunk` rows, of a step `requests` rows, bfloat16: residual stream and
    /// its norm `[hidden]` each; queries, keys and values; attention's output; gate and up; their
    /// product; the intermediate of a factored site `[rank]`. A chunk has beside them the gathered
    /// keys and values of one layer `[context, 2, KV heads, head dim]` and, where weights are
    /// expanded, the largest site's dense weight; attention in a step has float32 partial results
    /// `[requests, splits, heads, head dim + 2]`. Logits are `[requests, vocabulary]`.
    ///
    /// - Parameter weightBytes: Stored bytes of the whole model.
    public init(_ dimensions: DecoderDimensions, weightBytes: Int, layout: Layout) {
        weights = weightBytes
        cache = .saturatingProduct(
            layout.requests, Self.pages(layout.context, layout.pageTokens), layout.pageTokens,
            dimensions.cacheBytesPerToken(layout.cacheType))
        workspace = layout.workspace
        logits = .saturatingProduct(layout.requests, dimensions.vocabularySize, 4)
        let row = Int.saturatingProduct(2, Self.width(dimensions, layout.largestRank))
        let gathered = Int.saturatingProduct(
            4, layout.context, dimensions.keyValueHeads, dimensions.headDim)
        let largest =
            dimensions.sites.map { .saturatingProduct(2, $0.outputs, $0.inputs) }.max() ?? 0
        let partial = Int.saturatingProduct(
            4, layout.requests, layout.splits, dimensions.heads,
            .saturatingSum(dimensions.headDim, 2))
        activations = .saturatingSum(
            .saturatingProduct(.saturatingSum(layout.chunk, layout.requests), row), gathered,
            layout.expandsWeights ? largest : 0, partial)
    }

    /// All of them; the largest `Int` where they overflow.
    public var total: Int { .saturatingSum(weights, cache, activations, workspace, logits) }

    /// Values that a token has in all buffers of a layer.
    private static func width(_ dimensions: DecoderDimensions, _ rank: Int) -> Int {
        let sites = dimensions.sites
        return .saturatingSum(
            .saturatingProduct(2, dimensions.hiddenSize), sites[0].outputs, sites[1].inputs,
            sites[2].outputs, dimensions.intermediateSize, rank)
    }

    private static func pages(_ tokens: Int, _ pageTokens: Int) -> Int {
        let size = max(pageTokens, 1)
        return tokens / size + (tokens % size > 0 ? 1 : 0)
    }
}
