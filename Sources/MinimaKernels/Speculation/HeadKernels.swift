import MinimaCore
import MinimaTensor

/// What an EAGLE-3 head needs between its matrix products, beside ``DraftKernels``; see `draft.cu`.
public struct HeadKernels: Sendable {
    private static let block = 256

    /// Width of the head's residual stream.
    public let hidden: Int

    private let keep, inputs: Kernel

    /// Compiles the kernels.
    ///
    /// - Parameter hidden: Width of the head's residual stream, a multiple of 8 up to 16,384.
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
        func kernel(_ entry: String) throws(KernelError) -> Kernel {
            try context.kernel(
                source, entry: entry,
                constants: [
                    "RING": .int(DraftKernels.ring), "BLOCK": .int(Self.block),
                    "HIDDEN": .int(hidden),
                ])
        }
        keep = try kernel("keep_feature")
        inputs = try kernel("draft_inputs")
        self.hidden = hidden
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
        try DraftKernels.require(
            count > 0 && residual.shape[0] == count * slots.count && width % 8 == 0
                && (1...65_535).contains(residual.shape[0]) && count <= DraftKernels.mostPlaces
                && ring.rank == 2 && ring.shape[0] == state.slots * DraftKernels.ring
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
        try DraftKernels.require(
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
}
