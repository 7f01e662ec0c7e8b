import MinimaCore
import MinimaTensor

/// What an EAGLE-3 head needs between its matrix products; see `draft.cu`.
public struct DraftKernels: Sendable {
    /// Places of each slot whose features are kept: the up to 16 that a round computes anew, and the up
    /// to 16 that the step before has verified, of which any may be the last that stands.
    public static let ring = 32
    /// Places of a step and of a round at most.
    public static let mostPlaces = ring / 2
    private static let block = 256
    private static let chooserBlock = 1024

    /// Width of the draft's residual stream.
    public let hidden: Int

    private let begin, keep, inputs, choose: Kernel

    /// Tensors of a round of some rows; int32, see `draft.cu`.
    public struct Round: Sendable {
        /// Places that are computed anew for each row.
        public let places: Int
        /// Tokens that the round proposes, at least one launch of attention.
        public let steps: Int
        /// `[rows · places]`: the token behind each place.
        public let tokens: Tensor
        /// `[rows · places]`: rows of the ring, as a matrix of `slots` · ``DraftKernels/ring`` rows.
        public let ringRows: Tensor
        /// `[rows]`: the last known place of each row, among `rows · places`.
        public let lastRows: Tensor
        /// `[steps, rows]`: lengths for each attention.
        public let lengths: Tensor
        /// `[rows]`: the token proposed last.
        public let next: Tensor

        /// Allocates them.
        public init(rows: Int, places: Int, steps: Int, device: Device) throws(TensorError) {
            func zeros(_ shape: [Int]) throws(TensorError) -> Tensor {
                try .zeros(shape, dtype: .int32, device: device)
            }
            self.places = places
            self.steps = steps
            tokens = try zeros([rows * places])
            ringRows = try zeros([rows * places])
            lastRows = try zeros([rows])
            lengths = try zeros([steps, rows])
            next = try zeros([rows])
        }
    }

    /// Compiles the kernels.
    ///
    /// - Parameter hidden: Width of the draft's residual stream, a multiple of 8 up to 16,384.
    public init(hidden: Int, context: CUDAContext) throws(KernelError) {
        guard hidden > 0, hidden % 8 == 0, hidden <= 64 * Self.block else {
            throw .invalidLaunch(
                kernel: "draft.cu",
                reason: """
                    a draft of \(hidden) values was asked for; it has a multiple of 8 up to \
                    \(64 * Self.block)
                    """)
        }
        let source = try KernelSource("draft.cu")
        func kernel(_ entry: String, block: Int = Self.block) throws(KernelError) -> Kernel {
            try context.kernel(
                source, entry: entry,
                constants: [
                    "RING": .int(Self.ring), "BLOCK": .int(block), "HIDDEN": .int(hidden),
                ])
        }
        begin = try kernel("draft_begin")
        keep = try kernel("keep_feature")
        inputs = try kernel("draft_inputs")
        choose = try kernel("draft_choose", block: Self.chooserBlock)
        self.hidden = hidden
    }

    private func require(
        _ holds: Bool, _ kernel: Kernel, _ tensors: [Tensor?]
    ) throws(KernelError) {
        guard holds else {
            let found = tensors.map { $0?.summary ?? "none" }.joined(separator: ", ")
            throw .invalidLaunch(
                kernel: kernel.name,
                reason: "the tensors \(found) do not have the shapes and types it takes")
        }
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
        try require(
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
            ])
    }

    /// Queues keeping the residual stream of a step's tokens as feature `index` of their places.
    ///
    /// - Parameters:
    ///   - residual: bfloat16 `[rows · count, width]`, width a multiple of 8.
    ///   - slots: int32 `[rows]`.
    ///   - ring: bfloat16 `[slots · ring, features · width]`.
    public func keep(
        _ residual: Tensor, slots: Tensor, state: SamplingState, ring: Tensor, index: Int,
        on stream: CUDAStream
    ) throws(KernelError) {
        let width = residual.shape[1]
        let count = residual.shape[0] / max(slots.count, 1)
        try require(
            count > 0 && residual.shape[0] == count * slots.count && width % 8 == 0
                && (1...65_535).contains(residual.shape[0]) && count <= Self.mostPlaces
                && ring.rank == 2 && ring.shape[0] == state.slots * Self.ring
                && ring.shape[1] >= (index + 1) * width && ring.dtype == .bfloat16
                && residual.dtype == .bfloat16 && slots.dtype == .int32,
            keep, [residual, slots, ring])
        try keep.launch(
            grid: ((width + 8 * Self.block - 1) / (8 * Self.block), residual.shape[0], 1),
            block: Self.block, on: stream, overlapping: true,
            [
                .tensor(residual), .tensor(slots), .tensor(state.positions), .tensor(ring),
                .int32(count), .int32(width), .int32(ring.shape[1]), .int32(index * width),
            ])
    }

    /// Queues what the head's layer reads: the norms of the tokens' embeddings and of the features.
    ///
    /// - Parameters:
    ///   - table: bfloat16 `[vocabulary, hidden]`.
    ///   - tokens: int32 `[rows]`.
    ///   - features: bfloat16 `[rows, hidden]`.
    ///   - x: bfloat16 `[rows, 2 · hidden]`; overwritten.
    ///   - residual: bfloat16 `[rows, hidden]`; overwritten by the features, or by their norm if
    ///     `normsBeforeResidual`.
    public func inputs(
        table: Tensor, tokens: Tensor, features: Tensor, tokenNorm: Tensor, featureNorm: Tensor,
        epsilon: Double, normsBeforeResidual: Bool, x: Tensor, residual: Tensor,
        on stream: CUDAStream, overlapping: Bool
    ) throws(KernelError) {
        let rows = features.shape[0]
        try require(
            table.rank == 2 && table.shape[1] == hidden && tokens.shape == [rows] && rows > 0
                && features.shape == [rows, hidden] && tokenNorm.shape == [hidden]
                && featureNorm.shape == [hidden] && x.shape == [rows, 2 * hidden]
                && residual.shape == features.shape && tokens.dtype == .int32
                && [table, features, tokenNorm, featureNorm, x, residual].allSatisfy {
                    $0.dtype == .bfloat16
                },
            inputs, [table, tokens, features, tokenNorm, featureNorm, x, residual])
        try inputs.launch(
            grid: (rows, 2, 1), block: Self.block, on: stream, overlapping: overlapping,
            [
                .tensor(table), .tensor(tokens), .tensor(features), .tensor(tokenNorm),
                .tensor(featureNorm), .tensor(x), .tensor(residual), .int32(table.shape[0]),
                .int32(normsBeforeResidual ? 1 : 0), .float(epsilon),
            ])
    }

    /// Queues the choice of the token that is proposed in `place`.
    ///
    /// - Parameters:
    ///   - logits: float32 `[rows, draft vocabulary]`.
    ///   - targetIds: int32 `[draft vocabulary]`.
    public func choose(
        _ logits: Tensor, slots: Tensor, state: SamplingState, targetIds: Tensor, round: Round,
        place: Int, on stream: CUDAStream
    ) throws(KernelError) {
        try require(
            logits.rank == 2 && logits.shape == [slots.count, targetIds.count]
                && logits.dtype == .float32 && slots.dtype == .int32
                && targetIds.dtype == .int32 && round.next.count == slots.count
                && (0..<state.drafts.shape[1]).contains(place),
            choose, [logits, slots, targetIds, round.next])
        try choose.launch(
            grid: (slots.count, 1, 1), block: Self.chooserBlock, on: stream, overlapping: true,
            [
                .tensor(logits), .tensor(slots), .tensor(state.settings),
                .tensor(state.positions), .tensor(targetIds), .tensor(state.drafts),
                .tensor(round.next), .int32(targetIds.count), .int32(state.drafts.shape[1]),
                .int32(place),
            ])
    }
}
