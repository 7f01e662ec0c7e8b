import MinimaCore
import MinimaKernels
import MinimaTensor

/// What an engine on a CUDA device is made for.
public struct CUDALayout: Sendable, Hashable {
    /// Sequences that can be open at one time.
    public var slots: Int
    /// Tokens of the longest sequence.
    public var context: Int
    /// Pages of keys and values; `nil`: as many as all slots need at full length.
    public var pages: Int?
    /// The type of stored keys and values.
    public var format: KeyValueFormat
    /// Tokens of a prompt read at once.
    public var chunk: Int
    /// Rows that decode steps are made for, ascending, the last at least ``slots``.
    public var buckets: [Int]
    /// Whether a row's result depends neither on the other rows nor on its place: attention is cut
    /// at fixed tokens then, not by what the batch leaves.
    public var isDeterministic: Bool

    /// A layout.
    ///
    /// - Parameter buckets: `nil`: 1, 2, 4, 8, then in steps of about a third; deterministic, the
    ///   largest alone.
    public init(
        slots: Int, context: Int, pages: Int? = nil, format: KeyValueFormat = .bfloat16,
        chunk: Int = 2048, buckets: [Int]? = nil, isDeterministic: Bool = false
    ) {
        let steps = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
        let last = steps.first { $0 >= slots } ?? slots
        self.buckets = buckets ?? (isDeterministic ? [] : steps.filter { $0 < slots }) + [last]
        self.isDeterministic = isDeterministic
        self.slots = slots
        self.context = context
        self.pages = pages
        self.format = format
        self.chunk = chunk
    }

    /// Pages of a sequence at full length.
    var pagesPerSlot: Int { (context + PagedKeyValues.pageTokens - 1) / PagedKeyValues.pageTokens }

    /// Pages of the cache.
    var pageCount: Int { pages ?? slots * pagesPerSlot }

    /// Rows of the largest step.
    var largestBucket: Int { buckets.last ?? 1 }
}

/// What lies between the kernels of a step or of a prompt's chunk, bfloat16 unless said.
struct DecoderBuffers {
    /// The residual stream `[rows, hidden]`.
    let residual: Tensor
    /// Its norm `[rows, hidden]`.
    let normed: Tensor
    /// Queries, keys and values `[rows, (heads + 2 KV heads) · head dim]`.
    let qkv: Tensor
    /// What attention read `[rows, heads · head dim]`.
    let attended: Tensor
    /// Gates and ups `[rows, 2 · intermediate]`; no rows where factored weights give them.
    let gateUp: Tensor
    /// Their product `[rows, intermediate]`.
    let gated: Tensor
    /// Between the two matrices of a factored weight, `[largest bucket · rank]`; and all results of
    /// one in a chunk, `[rows · (rank + outputs)]`.
    let factored: Tensor
    /// The largest matrix of codes, expanded; `nil` where none is.
    let expanded: Tensor?
    /// Keys and values of one sequence in order, `[context, KV heads, head dim]` each.
    let keys, values: Tensor
    /// Queries of a chunk, rotated, `[rows, heads, head dim]`.
    let queries: Tensor
    /// float32 `[largest bucket, vocabulary]`.
    let logits: Tensor

    init(_ weights: DecoderWeights, _ layout: CUDALayout, device: Device) throws(TensorError) {
        let sizes = weights.architecture.dimensions
        let rows = max(layout.chunk, layout.largestBucket)
        func buffer(_ shape: [Int]) throws(TensorError) -> Tensor {
            try .zeros(shape, dtype: .bfloat16, device: device)
        }
        residual = try buffer([rows, sizes.hiddenSize])
        normed = try buffer([rows, sizes.hiddenSize])
        qkv = try buffer([rows, sizes.sites[0].outputs])
        attended = try buffer([rows, sizes.heads * sizes.headDim])
        gateUp = try buffer(
            [weights.gathersGates ? 0 : rows, 2 * sizes.intermediateSize])
        gated = try buffer([rows, sizes.intermediateSize])
        factored = try buffer([rows * max(weights.largestResults, 1)])
        expanded = try weights.largestExpanded > 0 ? buffer([weights.largestExpanded]) : nil
        let span = layout.pagesPerSlot * PagedKeyValues.pageTokens
        keys = try buffer([span, sizes.keyValueHeads, sizes.headDim])
        values = try buffer([span, sizes.keyValueHeads, sizes.headDim])
        queries = try buffer([rows, sizes.heads, sizes.headDim])
        logits = try .zeros([layout.largestBucket, sizes.vocabularySize], device: device)
    }

    /// Bytes of all of them but the logits.
    static func byteCount(_ weights: DecoderWeights, _ layout: CUDALayout) -> Int {
        let sizes = weights.architecture.dimensions
        let rows = max(layout.chunk, layout.largestBucket)
        let width =
            2 * sizes.hiddenSize + sizes.sites[0].outputs + 2 * sizes.heads * sizes.headDim
            + (weights.gathersGates ? 1 : 3) * sizes.intermediateSize
            + max(weights.largestResults, 1)
        let span = layout.pagesPerSlot * PagedKeyValues.pageTokens
        let gathered = 2 * span * sizes.keyValueHeads * sizes.headDim
        return 2 * (rows * width + gathered + weights.largestExpanded)
    }
}
