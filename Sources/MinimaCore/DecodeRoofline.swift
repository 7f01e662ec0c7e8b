/// Bytes that one decode step must move through device memory: every stored weight that is read and
/// every key and value once.
///
/// Activations and logits of a step are a few megabytes and stay in the L2 cache.
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
    ///   - weightBytes: Stored bytes of what a step reads, see
    ///     ``readWeights(_:embedding:dimensions:)``.
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

    /// Stored bytes that a decode step reads of a model's modules: all but the embedding, of which a
    /// step takes single rows; a tied embedding is read as the output projection.
    ///
    /// - Parameters:
    ///   - modules: Stored bytes by module: linear layers or sites, norms, embedding, output
    ///     projection.
    ///   - embedding: The embedding's name among them.
    public static func readWeights(
        _ modules: [String: Int], embedding: String = "model.embed_tokens",
        dimensions: DecoderDimensions
    ) -> Int {
        modules.reduce(0) { sum, module in
            let isSkipped = module.key == embedding && !dimensions.tiesEmbedding
            return isSkipped ? sum : .saturatingSum(sum, module.value)
        }
    }

    /// All of them.
    public var total: Double { Double(weights) + Double(cache) + Double(other) }
}

/// How fast a card could decode at best: its measured rates against what a step must move and
/// compute.
///
/// - Note: Williams, Waterman & Patterson 2009, "Roofline".
public struct DecodeRoofline: Sendable, Hashable {
    /// Bytes per second that a large read reaches on this card.
    public var bytesPerSecond: Double
    /// Floating-point operations per second that a large matrix product reaches on it; infinite
    /// where arithmetic does not count.
    public var flopsPerSecond: Double

    /// Rates of a card.
    public init(bytesPerSecond: Double, flopsPerSecond: Double = .infinity) {
        self.bytesPerSecond = bytesPerSecond
        self.flopsPerSecond = flopsPerSecond
    }

    /// The least seconds of a step: those of its bytes or those of its arithmetic, whichever take
    /// longer.
    public func seconds(_ traffic: DecodeTraffic, flops: Double = 0) -> Double {
        max(traffic.total / bytesPerSecond, flops / flopsPerSecond)
    }

    /// The most tokens per second that each request can get, one token per step.
    public func tokensPerSecond(_ traffic: DecodeTraffic, flops: Double = 0) -> Double {
        1 / seconds(traffic, flops: flops)
    }

    /// Tokens in one step from which a linear layer's arithmetic takes longer than reading its
    /// weights: two operations per weight and token.
    ///
    /// - Parameter bitsPerWeight: Stored bits, 16 for bfloat16.
    public func ridge(bitsPerWeight: Double) -> Double {
        bitsPerWeight / 8 * flopsPerSecond / (2 * bytesPerSecond)
    }
}
