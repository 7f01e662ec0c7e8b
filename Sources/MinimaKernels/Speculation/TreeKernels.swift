import MinimaCore
import MinimaTensor

/// Grows trees of proposals from what a head says, level by level on the device; see `tree.cu`.
public struct TreeKernels: Sendable {
    /// Children of a node at most.
    public static let mostWidth = 8
    private static let block = 1024
    /// Logits that a thread block takes the best of: eight for each thread.
    private static let chosenFrom = 8 * block
    /// The most thread blocks of a node.
    private static let mostBlocks = 16

    /// Sizes of a step's trees.
    public struct Shape: Sendable, Hashable {
        /// Nodes of a tree.
        public let count: Int
        /// Nodes of each level that are gone on from, and children of each that count.
        public let width: Int

        /// Trees of `count` nodes that have up to `width` children. More than `count` can never be in a tree.
        public init(count: Int, width: Int) {
            self.count = count
            self.width = max(min(width, count, TreeKernels.mostWidth), 1)
        }

        /// Places of a row behind its sequence that the head computes: all levels but the last are gone
        /// on from.
        public var places: Int { (count - 1) * width }
        /// 32-bit words of a mask of these.
        public var maskWords: Int { max((places + 31) / 32, 1) }
        /// Pages that a row needs beside the one with the first of these places.
        public var pages: Int {
            (max(places - 1, 0) + PagedKeyValues.pageTokens - 1) / PagedKeyValues.pageTokens
        }
        /// Nodes that are candidates for a tree.
        var candidates: Int { width + (count - 1) * width * width }
    }

    /// Tensors of a round of some rows; int32 unless said, see `tree.cu`.
    public struct Round: Sendable {
        /// Sizes of the trees.
        public let shape: Shape
        /// The first page of those that rows have of their own.
        public let firstPage: Int
        /// `[rows, pages]`: the pages of each row, its own behind those of its slot.
        public let tables: Tensor
        /// `[levels, rows]`: lengths for the attention of each level that is gone on from.
        public let lengths: Tensor
        /// `[rows · width]`: tokens of the nodes that are gone on from.
        public let next: Tensor
        /// `[rows · width]`: their parents' rows among the nodes of the level before.
        public let sources: Tensor
        /// `[rows · width, mask words]`: what they see of the places of the tree.
        public let seen: Tensor
        /// float32 and int32 `[rows · width, width]`.
        let values, tokens: Tensor
        /// `[rows · width]`, zero between launches.
        let meetings: Tensor
        /// int64 `[rows · width, blocks, width + 1]`.
        let partials: Tensor
        /// int64 `[rows, candidates]`.
        let keys: Tensor
        /// `[rows, candidates]`.
        let candidateTokens, candidateParents: Tensor
        /// `[rows, width + 1]`.
        let opened: Tensor

        /// Allocates them.
        ///
        /// - Parameters:
        ///   - pages: Pages of a slot.
        ///   - vocabulary: The draft's.
        public init(
            _ shape: Shape, rows: Int, pages: Int, firstPage: Int, vocabulary: Int,
            device: Device
        ) throws(TensorError) {
            func zeros(_ shape: [Int], _ dtype: DType = .int32) throws(TensorError) -> Tensor {
                try .zeros(shape, dtype: dtype, device: device)
            }
            self.shape = shape
            self.firstPage = firstPage
            let (nodes, width) = (rows * shape.width, shape.width)
            tables = try zeros([rows, pages + shape.pages])
            lengths = try zeros([max(shape.count - 1, 1), rows])
            next = try zeros([nodes])
            sources = try zeros([nodes])
            seen = try zeros([nodes, shape.maskWords])
            values = try zeros([nodes, width], .float32)
            tokens = try zeros([nodes, width])
            meetings = try zeros([nodes])
            partials = try zeros([nodes, TreeKernels.blocks(vocabulary), width + 1], .int64)
            keys = try zeros([rows, shape.candidates], .int64)
            candidateTokens = try zeros([rows, shape.candidates])
            candidateParents = try zeros([rows, shape.candidates])
            opened = try zeros([rows, width + 1])
        }

        /// Bytes of all of them.
        public static func bytes(_ shape: Shape, rows: Int, pages: Int, vocabulary: Int) -> Int {
            let width = shape.width
            let node =
                4 * (3 + shape.maskWords + 2 * width)
                + 8 * TreeKernels.blocks(vocabulary) * (width + 1)
            let row =
                4 * (pages + shape.pages + max(shape.count - 1, 1) + width + 1)
                + 16 * shape.candidates
            return rows * (width * node + row)
        }
    }

    private let shape: Shape
    private let begin, top, grow: Kernel

    /// Compiles the kernels.
    public init(_ shape: Shape, context: CUDAContext) throws(KernelError) {
        let source = try KernelSource("tree.cu")
        func kernel(_ entry: String) throws(KernelError) -> Kernel {
            try context.kernel(
                source, entry: entry,
                constants: [
                    "WIDTH": .int(shape.width), "WORDS": .int(shape.maskWords),
                    "BLOCK": .int(Self.block),
                ])
        }
        guard (1..<SamplingKernel.mostTreeRows).contains(shape.count) else {
            throw .invalidLaunch(
                kernel: "tree.cu",
                reason: """
                    trees of \(shape.count) proposals were asked for; they have 1 to \
                    \(SamplingKernel.mostTreeRows - 1)
                    """)
        }
        begin = try kernel("tree_begin")
        top = try kernel("tree_top")
        grow = try kernel("tree_grow")
        self.shape = shape
    }

    private static func blocks(_ vocabulary: Int) -> Int {
        max(min((vocabulary + chosenFrom - 1) / chosenFrom, mostBlocks), 1)
    }

    /// Queues the tables and lengths of a round.
    ///
    /// - Parameters:
    ///   - slots: int32 `[rows]`, the slot of each row; negative for padding.
    ///   - tables: int32 `[slots, pages]`.
    public func begin(
        _ round: Round, slots: Tensor, state: SamplingState, tables: Tensor,
        on stream: CUDAStream
    ) throws(KernelError) {
        let rows = slots.count
        try DraftKernels.require(
            round.shape == shape && slots.dtype == .int32 && tables.dtype == .int32
                && tables.rank == 2
                && round.tables.shape == [rows, tables.shape[1] + shape.pages],
            begin, [slots, tables, round.tables])
        try begin.launch(
            grid: (rows, 1, 1), block: Self.block, on: stream, overlapping: true,
            [
                .tensor(slots), .tensor(state.positions), .tensor(tables),
                .tensor(round.tables), .tensor(round.lengths), .int32(tables.shape[1]),
                .int32(round.tables.shape[1]), .int32(round.firstPage),
                .int32(shape.count - 1),
            ])
    }

    /// Queues what follows each node of a level best.
    ///
    /// - Parameters:
    ///   - logits: float32 `[rows · nodes, draft vocabulary]`: of level 0 one node, of others
    ///     ``Shape/width``.
    ///   - targetIds: int32 `[draft vocabulary]`; `nil`: the vocabularies are the same.
    public func top(
        _ logits: Tensor, slots: Tensor, state: SamplingState, targetIds: Tensor?, round: Round,
        level: Int, on stream: CUDAStream
    ) throws(KernelError) {
        let vocabulary = targetIds?.count ?? state.vocabulary
        let nodes = level == 0 ? 1 : shape.width
        let blocks = Self.blocks(vocabulary)
        try DraftKernels.require(
            round.shape == shape && logits.shape == [slots.count * nodes, vocabulary]
                && logits.dtype == .float32 && slots.dtype == .int32
                && targetIds?.dtype ?? .int32 == .int32
                && round.partials.shape[1] == blocks && (0..<shape.count).contains(level)
                && round.next.count == slots.count * shape.width,
            top, [logits, slots, targetIds, round.partials])
        try top.launch(
            grid: (slots.count * nodes, blocks, 1), block: Self.block, on: stream,
            overlapping: true,
            [
                .tensor(logits), .tensor(slots), .tensor(state.settings),
                .tensor(state.positions), .optional(targetIds), .tensor(round.partials),
                .tensor(round.values), .tensor(round.tokens), .tensor(round.meetings),
                .int32(vocabulary), .int32(nodes), .int32(level),
            ])
    }

    /// Queues choosing which nodes are gone on from; behind the last level, the trees.
    public func grow(
        _ round: Round, slots: Tensor, state: SamplingState, level: Int, on stream: CUDAStream
    ) throws(KernelError) {
        guard let parents = state.parents, round.shape == shape, slots.dtype == .int32,
            (0..<shape.count).contains(level), parents.shape[1] >= shape.count,
            round.next.count == slots.count * shape.width
        else {
            throw .invalidLaunch(
                kernel: grow.name,
                reason: """
                    level \(level) of trees of \(shape.count) nodes for rows \(slots.summary) was asked \
                    for; the kernel takes levels of such trees and a state that holds them
                    """)
        }
        try grow.launch(
            grid: (slots.count, 1, 1), block: 32, on: stream, overlapping: true,
            [
                .tensor(round.values), .tensor(round.tokens), .tensor(slots),
                .tensor(round.keys), .tensor(round.candidateTokens),
                .tensor(round.candidateParents), .tensor(round.opened), .tensor(round.next),
                .tensor(round.sources), .tensor(round.seen), .tensor(state.drafts),
                .tensor(parents), .int32(shape.candidates), .int32(level),
                .int32(level == shape.count - 1 ? shape.count : 0), .int32(parents.shape[1]),
            ])
    }
}
