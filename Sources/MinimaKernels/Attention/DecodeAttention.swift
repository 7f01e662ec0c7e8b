import MinimaCore
import MinimaTensor

/// Attention of a decode step of a batch, from projections to attended values: norms and rotation of
/// queries and keys, storing of the new keys and values, softmax over each request's pages. One
/// launch per layer; see `attention.cu`, and `attention_exchange.cu` for one request.
public struct DecodeAttention: Sendable {
    /// Requests of a launch at most.
    public static let mostRequests = 256

    /// What the kernel is compiled for.
    public let shape: AttentionShape
    /// How the pages hold values.
    public let format: KeyValueFormat
    /// Requests of a launch.
    public let requests: Int
    /// New tokens of each request.
    public let queries: Int
    /// Columns of the page table.
    public let maxPages: Int
    /// 32-bit words of a query's mask of a tree's places; 0: new tokens follow each other.
    public let maskWords: Int
    /// The compiled kernel.
    public let kernel: Kernel

    private let plan: Plan
    private let room: Workspace.Room

    /// How a launch is laid out.
    struct Plan: Hashable {
        /// Buffers of the ring, and how many blocks of tokens are worked on at a time.
        var slots: Int
        var pageWarps: Int
        var threads: Int
        var sharedBytes: Int
        /// float32 values of a part in the workspace, and parts.
        var partFloats: Int
        var parts: Int
        /// Blocks of tokens in a part; 0 where parts follow from the batch.
        var split: Int
        /// Of `attention_exchange.cu`, the thread blocks of a head and the bytes they exchange; `nil`
        /// for `attention.cu`.
        var exchange: Exchange?
        var grid: Int
    }

    struct Exchange: Hashable {
        var parts: Int
        var bytes: Int
    }

    /// Compiles the kernel, and reserves what its thread blocks hand each other in `workspace`.
    ///
    /// - Parameters:
    ///   - queries: New tokens of each request in a step: 1, or more to verify a draft; at most 64
    ///     with all heads of a key-value head.
    ///   - requests: Requests of a step, padding included.
    ///   - maxPages: Columns of the page table.
    ///   - splitTokens: Tokens of a part, a multiple of 64, for results that do not depend on the rest
    ///     of the batch; by default the tokens of all requests are dealt out evenly.
    ///   - maskWords: For new tokens that are a tree's, 32-bit words of each one's mask.
    ///   - workspace: One per stream.
    public init(
        _ shape: AttentionShape, format: KeyValueFormat, queries: Int = 1, requests: Int,
        maxPages: Int, splitTokens: Int? = nil, maskWords: Int = 0, workspace: Workspace,
        context: CUDAContext
    ) throws(KernelError) {
        let plan = try Self.plan(
            shape, format: format, queries: queries, requests: requests, maxPages: maxPages,
            splitTokens: splitTokens, multiprocessors: context.multiprocessors,
            sharedPerBlock: context.sharedPerBlock)
        var constants = shape.constants(format)
        constants["QUERIES"] = .int(queries)
        constants["SLOTS"] = .int(plan.slots)
        constants["PAGE_WARPS"] = .int(plan.pageWarps)
        if let exchange = plan.exchange { constants["PARTS"] = .int(exchange.parts) }
        if maskWords > 0 { constants["MASK_WORDS"] = .int(maskWords) }
        let name = plan.exchange == nil ? "attention" : "attention_exchange"
        kernel = try context.kernel(
            KernelSource("\(name).cu"), entry: name, constants: constants,
            sharedBytes: plan.sharedBytes)
        room = try workspace.reserve(plan, counters: requests * shape.kvHeads)
        self.plan = plan
        self.shape = shape
        self.format = format
        self.requests = requests
        self.queries = queries
        self.maxPages = maxPages
        self.maskWords = maskWords
    }

    /// Whether a device can run the kernel of the same parameters.
    public static func fits(
        _ shape: AttentionShape, format: KeyValueFormat, queries: Int = 1, maxPages: Int,
        limits: DeviceLimits
    ) -> Bool {
        let plan = try? plan(
            shape, format: format, queries: queries, requests: 1, maxPages: maxPages,
            splitTokens: nil, multiprocessors: limits.multiprocessors,
            sharedPerBlock: limits.sharedPerBlock)
        return plan != nil
    }

    /// The shared memory that leaves room for a block of the next kernel, which loads its weights
    /// meanwhile: 112 KiB for that and 2 KiB of the system's, of 228.
    private static let ringBytes = 100 << 10
    /// The most requests whose heads' thread blocks exchange their parts; with two it takes longer
    /// than `attention.cu` (NOTES-attention.md).
    private static let mostExchanging = 1
    /// The most thread blocks of a head that do: each receives from all of them.
    private static let mostParts = 40

    static func plan(
        _ shape: AttentionShape, format: KeyValueFormat, queries: Int, requests: Int,
        maxPages: Int, splitTokens: Int?, multiprocessors: Int, sharedPerBlock: Int
    ) throws(KernelError) -> Plan {
        let rows = shape.heads / shape.kvHeads * queries
        guard queries > 0, rows <= 64, (1...mostRequests).contains(requests), maxPages > 0,
            splitTokens.map({ $0 > 0 && $0 % 64 == 0 }) ?? true
        else {
            throw .invalidLaunch(
                kernel: "attention.cu",
                reason: """
                    \(queries) queries for \(shape.heads / shape.kvHeads) heads to a key-value head, \
                    \(requests) requests of \(maxPages) pages, parts of \(splitTokens ?? 64) tokens were \
                    asked for; it takes 1 to 64 queries times heads, 1 to \(mostRequests) requests, \
                    and parts of a multiple of 64 tokens
                    """)
        }
        // As in attention.cu.
        let (dim, tile) = (shape.paddedDim(format), shape.tileBytes(format))
        let warpTiles = rows > 8 && dim <= 128 ? 2 : 1
        let sets = (rows + 8 * warpTiles - 1) / (8 * warpTiles)
        let partFloats = sets * warpTiles * 32 * (4 * (dim / 16) + 4)
        // Thread blocks that wait for each other must be able to run at once, one on each
        // multiprocessor.
        let together = multiprocessors / shape.kvHeads
        let exchanges =
            splitTokens == nil && together <= mostParts
            && (1...mostExchanging).contains(requests) && together > 0
        let sliceBytes =
            exchanges ? (2 * (dim / 16) + together - 1) / together * 256 + 64 : 0
        func shared(slots: Int, pageWarps: Int) -> Int {
            var bytes = slots * tile
            if partFloats * 4 > 2 * tile { bytes += pageWarps * partFloats * 4 }
            bytes += sets * warpTiles * 8 * (dim + 8) * 2 + 4 * queries * dim
            bytes += queries * (shape.rotaryDim / 2) * 8 + (8 * queries + 15) / 16 * 16
            bytes = (bytes + (mostRequests + 2) * 4 + 4 + 7) / 8 * 8 + 16 * slots
            return exchanges ? (bytes + 15) / 16 * 16 + sets * pageWarps * sliceBytes : bytes
        }
        let choices = (1...3).reversed().flatMap { pageWarps in
            (1...4).reversed().map { (slots: 2 * pageWarps * $0, pageWarps: pageWarps) }
        }
        let fitting = choices.first {
            $0.slots * tile <= ringBytes
                && shared(slots: $0.slots, pageWarps: $0.pageWarps) <= sharedPerBlock
        }
        guard let (slots, pageWarps) = fitting else {
            throw .exceedsDevice(
                kernel: "attention.cu",
                reason: """
                    \(rows) queries times heads of \(shape.headDim) values need \
                    \(shared(slots: 2, pageWarps: 1)) bytes of shared memory, a block has \
                    \(sharedPerBlock); verify fewer tokens at a time
                    """)
        }
        let split = (splitTokens ?? 0) / format.block
        let blocks = maxPages * PagedKeyValues.pageTokens / format.block
        // Where heads are more than multiprocessors, the next kernel's weights matter less than that
        // one thread block loads while the other merges.
        let grid = (requests * shape.kvHeads > multiprocessors ? 2 : 1) * multiprocessors
        let received = together * sets * pageWarps * warpTiles * sliceBytes
        let exchange =
            exchanges
            ? Exchange(parts: together, bytes: shape.kvHeads * together * received) : nil
        return Plan(
            slots: slots, pageWarps: pageWarps, threads: 32 * (pageWarps * sets + 1),
            sharedBytes: shared(slots: slots, pageWarps: pageWarps), partFloats: partFloats,
            parts: split == 0
                ? 2 * grid
                : requests * shape.kvHeads * ((blocks + split - 1) / split),
            split: split, exchange: exchange, grid: grid)
    }

    /// Queues a layer's attention.
    ///
    /// The kernel may start ahead of its predecessors and then reads `pages`, `table`, `lengths`, the
    /// norms and the frequencies at once: whoever writes these is followed by a launch that does not
    /// overlap, as the first of every graph is. A graph has one step.
    ///
    /// - Parameters:
    ///   - projections: bfloat16 `[requests · queries, projectionWidth]`: queries, keys, values.
    ///   - queryNorm: bfloat16 `[headDim]`, where the shape normalises; `keyNorm` likewise.
    ///   - frequencies: float32 `[rotaryDim / 2]`, radians per position.
    ///   - pages: A layer of ``PagedKeyValues``; gets the new keys and values.
    ///   - table: int32 `[requests, maxPages]`, the pages of each request in order.
    ///   - lengths: int32 `[requests]`, tokens of each request with the new ones; 0 for padding, whose
    ///     result is zeros.
    ///   - attended: bfloat16 `[requests · queries, heads · headDim]`; overwritten.
    ///   - tree: Where new tokens are a tree's, what each sees; read at once, too.
    public func launch(
        projections: Tensor, queryNorm: Tensor?, keyNorm: Tensor?, frequencies: Tensor,
        pages: Tensor, table: Tensor, lengths: Tensor, attended: Tensor, tree: Tree? = nil,
        on stream: CUDAStream, overlapping: Bool = true
    ) throws(KernelError) {
        let rows = requests * queries
        // A mask holds a tree's older places and the new ones.
        guard (tree != nil) == (maskWords > 0),
            tree.map({ $0.older >= 0 && $0.older <= 32 * maskWords - queries }) ?? true
        else {
            throw .invalidLaunch(
                kernel: kernel.name,
                reason: """
                    it was made for masks of \(maskWords) words, 32 places each, and there are \
                    \(tree.map { "some for \($0.older) older places and \(queries) new ones" } ?? "none")
                    """)
        }
        try PagedKeyValues.check(pages, shape, format, kernel.name)
        try KernelShapes(kernel.name)
            .expect("projections", projections, .bfloat16, [rows, shape.projectionWidth])
            .norms(queryNorm, keyNorm, shape)
            .expect("frequencies", frequencies, .float32, [shape.rotaryDim / 2])
            .expect("table", table, .int32, [requests, maxPages])
            .expect("lengths", lengths, .int32, [requests])
            .expect("attended", attended, .bfloat16, [rows, shape.heads * shape.headDim])
            .expect("seen", tree?.seen, .int32, [rows, maskWords])
            .check()
        var arguments: [KernelArgument] = [
            .tensor(projections), .optional(queryNorm), .optional(keyNorm), .tensor(frequencies),
            .tensor(pages), .tensor(table), .tensor(lengths), .tensor(attended),
        ]
        switch room {
        case .parts(let parts, let counters):
            arguments += [
                .tensor(parts), .tensor(counters), .int32(requests), .int32(maxPages),
                .int32(plan.split),
            ]
        case .exchange(let space):
            arguments += [.tensor(space), .int32(requests), .int32(maxPages)]
        }
        arguments += [.float(shape.epsilon), .float(shape.scale), .float(shape.ropeScaling)]
        if let tree { arguments += [.tensor(tree.seen), .int32(tree.older)] }
        try kernel.launch(
            grid: (plan.grid, 1, 1), block: plan.threads, on: stream, overlapping: overlapping,
            arguments)
    }
}
