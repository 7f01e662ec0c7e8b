/// Bytes that one decode step must move through device memory: every stored weight that is read and
/// every key and value once.
///
/// Activations and logits of a step are a few megabytes and stay in the L2 cache. At a card's read
/// bandwidth these bytes take the least time of a step, its roofline (Williams, Waterman & Patterson
/// 2009), as long as arithmetic takes less: see ``BenchResult/figures(_:)``.
public struct DecodeTraffic: Codable, Sendable, Hashable {
    /// Stored weights, without the embedding.
    public var weights: Int
    /// Keys and values that are read.
    public var cache: Int
    /// The tokens' embeddings, and keys and values that are written.
    public var other: Int

    /// Bytes by what they are.
    public init(weights: Int, cache: Int, other: Int) {
        self.weights = weights
        self.cache = cache
        self.other = other
    }

    /// Bytes of one step of `requests` requests, each with `context` tokens in the cache.
    ///
    /// - Parameters:
    ///   - weightBytes: Stored bytes of what a step reads: all but the embedding, of which it takes
    ///     single rows; a tied one counts as the output projection.
    ///   - cacheType: The type of stored keys and values.
    ///   - activationType: The type of the embedding.
    public init(
        _ dimensions: DecoderDimensions, weightBytes: Int, cacheType: DType, context: Int,
        requests: Int, activationType: DType = .bfloat16
    ) {
        let token = dimensions.cacheBytesPerToken(cacheType)
        let embedding = Int.saturatingProduct(dimensions.hiddenSize, activationType.byteCount)
        weights = weightBytes
        cache = .saturatingProduct(token, context, requests)
        other = .saturatingProduct(requests, .saturatingSum(token, embedding))
    }

    /// All of them.
    public var total: Double { Double(weights) + Double(cache) + Double(other) }
}
