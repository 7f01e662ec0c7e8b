import MinimaCore
import MinimaTensor

/// What a round of proposals by weights of a draft's own begins and ends with; see `draft.cu`.
public struct DraftKernels: Sendable {
    /// Places of each slot whose features are kept for a head: the up to 16 that a round computes anew, and
    /// the up to 16 that the step before has verified, of which any may be the last that stands.
    public static let ring = 32
    /// Places of a step and of a head's round at most.
    public static let mostPlaces = ring / 2
    private static let block = 256
    private static let chooserBlock = 1024
    /// Logits that a thread block chooses from: eight for each thread.
    private static let chosenFrom = 8 * chooserBlock
    /// The most thread blocks of a row.
    private static let mostChoosers = 16

    private let begin, choose: Kernel

    /// What the places of a round read.
    public enum Reading: Sendable, Hashable {
        /// The token that stands there: a model of its own.
        case tokens
        /// The token after it, and what the target has left of the place in a ring: an EAGLE-3 head.
        case features
    }

    /// Tensors of a round of some rows; int32 unless said, see `draft.cu`.
    public struct Round: Sendable {
        /// What its places read.
        public let reading: Reading
        /// Places that are computed anew for each row.
        public let places: Int
        /// Tokens that the round proposes, at least one launch of attention.
        public let steps: Int
        /// `[rows · places]`: the token that each place reads.
        public let tokens: Tensor
        /// `[rows · places]`: rows of the ring, as a matrix of `slots` · ``DraftKernels/ring`` rows, where
        /// features are read.
        public let ringRows: Tensor
        /// `[rows]`: the last known place of each row, among `rows · places`.
        public let lastRows: Tensor
        /// `[steps, rows]`: lengths for each attention.
        public let lengths: Tensor
        /// `[rows]`: the token proposed last.
        public let next: Tensor
        /// int64 `[rows, 2]`, zero between launches: where blocks that choose a row's token meet.
        let meetings: Tensor

        /// Allocates them.
        public init(
            rows: Int, places: Int, steps: Int, reading: Reading, device: Device
        ) throws(TensorError) {
            func zeros(_ shape: [Int], _ dtype: DType = .int32) throws(TensorError) -> Tensor {
                try .zeros(shape, dtype: dtype, device: device)
            }
            self.reading = reading
            self.places = places
            self.steps = steps
            tokens = try zeros([rows * places])
            ringRows = try zeros([rows * places])
            lastRows = try zeros([rows])
            lengths = try zeros([steps, rows])
            next = try zeros([rows])
            meetings = try zeros([rows, 2], .int64)
        }

        /// Bytes of all of them.
        public static func bytes(rows: Int, places: Int, steps: Int) -> Int {
            4 * rows * (2 * places + 2 + steps) + 16 * rows
        }
    }

    /// Compiles the kernels.
    public init(context: CUDAContext) throws(KernelError) {
        let source = try KernelSource("draft.cu")
        func kernel(_ entry: String, block: Int) throws(KernelError) -> Kernel {
            try context.kernel(
                source, entry: entry, constants: ["RING": .int(Self.ring), "BLOCK": .int(block)])
        }
        begin = try kernel("draft_begin", block: Self.block)
        choose = try kernel("draft_choose", block: Self.chooserBlock)
    }

    static func require(
        _ holds: Bool, _ kernel: Kernel, _ tensors: [Tensor?]
    ) throws(KernelError) {
        guard holds else { throw wrong(kernel, tensors) }
    }

    static func wrong(_ kernel: Kernel, _ tensors: [Tensor?]) -> KernelError {
        let found = tensors.map { $0?.summary ?? "none" }.joined(separator: ", ")
        return .invalidLaunch(
            kernel: kernel.name,
            reason: "the tensors \(found) do not have the shapes and types it takes")
    }

    /// Queues what a round computes; does not overlap the kernel ahead of it.
    ///
    /// - Parameters:
    ///   - slots: int32 `[rows]`.
    ///   - state: Keeps sequences.
    ///   - tables: int32 `[slots, pages]`; `rowTables` int32 `[rows, pages]`, overwritten.
    public func begin(
        _ round: Round, slots: Tensor, state: SamplingState, tables: Tensor, rowTables: Tensor,
        on stream: CUDAStream
    ) throws(KernelError) {
        let rows = slots.count
        try Self.require(
            state.sequence != nil && slots.dtype == .int32 && round.next.count == rows
                && rowTables.shape == [rows, tables.shape[1]] && tables.dtype == .int32
                && rowTables.dtype == .int32,
            begin, [slots, state.sequence, tables, rowTables, round.next])
        guard let sequence = state.sequence else { return }
        try begin.launch(
            grid: (rows, 1, 1), block: Self.block, on: stream,
            [
                .tensor(slots), .tensor(state.positions), .tensor(sequence), .tensor(tables),
                .tensor(rowTables), .tensor(round.lengths), .tensor(round.tokens),
                .tensor(round.ringRows), .tensor(round.lastRows), .int32(tables.shape[1]),
                .int32(sequence.shape[1]), .int32(round.places), .int32(round.steps),
                .int32(round.reading == .tokens ? 1 : 0),
            ])
    }

    /// Queues the choice of the token that is proposed in `place`.
    ///
    /// - Parameters:
    ///   - logits: float32 `[rows, draft vocabulary]`.
    ///   - targetIds: int32 `[draft vocabulary]`; `nil`: the vocabularies are the same.
    public func choose(
        _ logits: Tensor, slots: Tensor, state: SamplingState, targetIds: Tensor?, round: Round,
        place: Int, on stream: CUDAStream
    ) throws(KernelError) {
        let vocabulary = targetIds?.count ?? state.vocabulary
        try Self.require(
            logits.rank == 2 && logits.shape == [slots.count, vocabulary]
                && logits.dtype == .float32 && slots.dtype == .int32
                && targetIds?.dtype ?? .int32 == .int32 && round.next.count == slots.count
                && (0..<state.drafts.shape[1]).contains(place),
            choose, [logits, slots, targetIds, round.next])
        let blocks = (vocabulary + Self.chosenFrom - 1) / Self.chosenFrom
        try choose.launch(
            grid: (slots.count, min(blocks, Self.mostChoosers), 1), block: Self.chooserBlock,
            on: stream, overlapping: true,
            [
                .tensor(logits), .tensor(slots), .tensor(state.settings),
                .tensor(state.positions), .optional(targetIds), .tensor(state.drafts),
                .tensor(round.next), .tensor(round.meetings), .int32(vocabulary),
                .int32(state.drafts.shape[1]), .int32(place),
            ])
    }
}
