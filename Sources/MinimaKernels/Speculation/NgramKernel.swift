import MinimaCore
import MinimaTensor

/// Proposes what followed the last tokens of a sequence when they stood in it before; see `ngram.cu`.
public struct NgramKernel: Sendable {
    /// Tokens of the longest suffix that is looked for.
    public static let longestSuffix = 1...8
    private static let block = 1024

    /// Tokens of the suffix that is looked for at first.
    public let suffix: Int
    private let kernel: Kernel

    /// Compiles the kernel.
    ///
    /// - Parameter suffix: Tokens of the suffix that is looked for at first, one of ``longestSuffix``;
    ///   shorter ones follow.
    public init(suffix: Int = 3, context: CUDAContext) throws(KernelError) {
        guard Self.longestSuffix.contains(suffix) else {
            throw .invalidLaunch(
                kernel: "ngram.cu",
                reason: "a suffix of \(suffix) tokens was asked for; it is 1 to 8")
        }
        kernel = try context.kernel(
            KernelSource("ngram.cu"), entry: "draft_ngram",
            constants: ["NGRAM": .int(suffix), "BLOCK": .int(Self.block)])
        self.suffix = suffix
    }

    /// Queues proposals for the rows of a step.
    ///
    /// - Parameters:
    ///   - slots: int32 `[rows]`, the slot of each row; negative for padding.
    ///   - state: Keeps sequences; its drafts get `count` columns.
    ///   - count: Proposals of each row.
    public func launch(
        slots: Tensor, state: SamplingState, count: Int, on stream: CUDAStream,
        overlapping: Bool = false
    ) throws(KernelError) {
        guard let sequence = state.sequence, slots.rank == 1, slots.dtype == .int32,
            slots.count > 0, (1..<max(state.places, 1)).contains(count)
        else {
            throw .invalidLaunch(
                kernel: kernel.name,
                reason: """
                    \(count) proposals for rows \(slots.summary) were asked for; the kernel takes int32 \
                    rows and a state that keeps sequences and \(count + 1) or more places
                    """)
        }
        try kernel.launch(
            grid: (slots.count, 1, 1), block: Self.block, on: stream, overlapping: overlapping,
            [
                .tensor(slots), .tensor(state.positions), .tensor(sequence),
                .tensor(state.drafts), .int32(sequence.shape[1]), .int32(state.drafts.shape[1]),
                .int32(count),
            ])
    }
}
