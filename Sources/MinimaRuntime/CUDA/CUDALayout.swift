import MinimaKernels

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
    /// Whether kernels that were not timed on this card before are, which takes some minutes once;
    /// what was found is used in any case.
    public var tunesKernels: Bool

    /// A layout.
    ///
    /// - Parameter buckets: `nil`: 1, 2, 4, 8, then in steps of about a third; deterministic, the
    ///   largest alone.
    public init(
        slots: Int, context: Int, pages: Int? = nil, format: KeyValueFormat = .bfloat16,
        chunk: Int = 2048, buckets: [Int]? = nil, isDeterministic: Bool = false,
        tunesKernels: Bool = false
    ) {
        let steps = [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]
        let last = steps.first { $0 >= slots } ?? slots
        self.buckets = buckets ?? (isDeterministic ? [] : steps.filter { $0 < slots }) + [last]
        self.isDeterministic = isDeterministic
        self.tunesKernels = tunesKernels
        self.slots = slots
        self.context = context
        self.pages = pages
        self.format = format
        self.chunk = chunk
    }

    /// Pages of a sequence at full length.
    var pagesPerSlot: Int { PagedKeyValues.pages(forTokens: context) }

    /// Pages of the cache.
    var pageCount: Int { pages ?? slots * pagesPerSlot }

    /// Rows of the largest step.
    var largestBucket: Int { buckets.last ?? 1 }
}
