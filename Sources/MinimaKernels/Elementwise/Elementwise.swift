import MinimaCore
import MinimaTensor

/// The small kernels of prefill and between other kernels; see `elementwise.cu`. All tensors are
/// contiguous and on the context's device; bfloat16 unless stated.
///
/// Launches overlap the kernel ahead of them unless stated.
public struct Elementwise: Sendable {
    private static let block = 256
    /// Rows per launch along a grid's second dimension, as many as still fill the device: the indices
    /// of gathered columns are read once per such row.
    private static let gatherRowBlocks = 512

    private let context: CUDAContext
    private let source: KernelSource

    /// The kernels of `context`, compiled as they are first used.
    public init(context: CUDAContext) throws(KernelError) {
        self.context = context
        source = try KernelSource("elementwise.cu")
    }

    /// Compiles what models of that hidden size need, so that no capture has to.
    public func prepare(hidden: Int) throws(KernelError) {
        for entry in [
            "gather_rows", "swiglu_halves", "swiglu_gathered", "gather_columns",
        ] {
            _ = try kernel(entry)
        }
        _ = try kernel("norm_rows", hidden: hidden)
    }

    private func kernel(_ entry: String, hidden: Int? = nil) throws(KernelError) -> Kernel {
        var constants: [String: KernelConstant] = ["BLOCK": .int(Self.block)]
        if let hidden { constants["HIDDEN"] = .int(hidden) }
        return try context.kernel(source, entry: entry, constants: constants)
    }

    private func require(
        _ entry: String, _ holds: Bool, _ tensors: [Tensor?]
    ) throws(KernelError) {
        guard holds else {
            let found = tensors.map { $0?.summary ?? "none" }.joined(separator: ", ")
            throw .invalidLaunch(
                kernel: "\(entry) of elementwise.cu",
                reason: "the tensors \(found) do not have the shapes and types it takes")
        }
    }

    /// Rows of a table: `out[t] = table[ids[slots[t]]]`, zeros for an id outside the table.
    ///
    /// - Parameters:
    ///   - table: `[count, columns]`, columns a multiple of 8.
    ///   - ids: int32 `[n]`, with `slots` any length.
    ///   - slots: int32 `[rows]`; `nil`: `ids[t]`.
    ///   - out: `[rows, columns]`.
    ///   - overlapping: Whether the kernel may start before the one ahead of it ends.
    public func gatherRows(
        _ table: Tensor, ids: Tensor, slots: Tensor? = nil, into out: Tensor,
        on stream: CUDAStream, overlapping: Bool = true
    ) throws(KernelError) {
        let (shape, target) = (table.shape, out.shape)
        try require(
            "gather_rows",
            shape.count == 2 && target.count == 2 && shape[1] == target[1] && shape[1] % 8 == 0
                && (1...65_535).contains(target[0])
                && table.isBFloat16 && out.isBFloat16 && ids.dtype == .int32
                && (slots.map { $0.dtype == .int32 && $0.count == target[0] }
                    ?? (ids.count == target[0])),
            [table, ids, slots, out])
        try kernel("gather_rows").launch(
            grid: (Self.blocks(shape[1]), target[0], 1), block: Self.block, on: stream,
            overlapping: overlapping,
            [
                .tensor(table), .tensor(ids), .optional(slots), .tensor(out), .int32(shape[0]),
                .int32(shape[1]),
            ])
    }

    /// RMSNorm of rows, first adding to them: `x += delta`, `out = weight · x / √(mean x² + ε)`,
    /// rounded where transformers rounds.
    ///
    /// - Parameters:
    ///   - x: `[rows, hidden]`, hidden a multiple of 8 up to 16,384; changed where there is a `delta`.
    ///   - delta: `[rows, hidden]`.
    ///   - weight: `[hidden]`.
    ///   - out: `[rows, hidden]`.
    public func rmsNorm(
        _ x: Tensor, adding delta: Tensor? = nil, weight: Tensor, epsilon: Double,
        into out: Tensor, on stream: CUDAStream
    ) throws(KernelError) {
        let shape = x.shape
        try require(
            "norm_rows",
            shape.count == 2 && shape[0] > 0 && shape[1] % 8 == 0
                && (8...64 * Self.block).contains(shape[1]) && out.shape == shape
                && (delta.map { $0.shape == shape && $0.isBFloat16 } ?? true)
                && weight.shape == [shape[1]] && x.isBFloat16 && weight.isBFloat16
                && out.isBFloat16,
            [x, delta, weight, out])
        try kernel("norm_rows", hidden: shape[1]).launch(
            grid: (shape[0], 1, 1), block: Self.block, on: stream, overlapping: true,
            [.tensor(x), .optional(delta), .tensor(weight), .tensor(out), .float(epsilon)])
    }

    /// `out = silu(gate) · up` of `source = [gate | up]`.
    ///
    /// - Parameters:
    ///   - source: `[rows, 2·columns]`, columns a multiple of 8.
    ///   - out: `[rows, columns]`.
    public func swiGLU(
        _ source: Tensor, into out: Tensor, on stream: CUDAStream
    ) throws(KernelError) {
        let (shape, target) = (source.shape, out.shape)
        try require(
            "swiglu_halves",
            shape.count == 2 && target.count == 2 && target[0] == shape[0] && shape[0] > 0
                && target[1] > 0 && target[1] % 8 == 0 && shape[1] == 2 * target[1]
                && source.isBFloat16 && out.isBFloat16,
            [source, out])
        try kernel("swiglu_halves").launch(
            grid: (Self.blocks(target[1]), min(shape[0], 65_535), 1), block: Self.block,
            on: stream, overlapping: true,
            [.tensor(source), .tensor(out), .int32(shape[0]), .int32(target[1])])
    }

    /// `out[t, j] = silu(source[t, gates[j]]) · source[t, ups[j]]`, for gate and up rows that a
    /// factored weight gives in another order.
    ///
    /// - Parameters:
    ///   - source: `[rows, any]`.
    ///   - gates: int32 `[columns]`, columns of `source`; columns even.
    ///   - ups: int32 `[columns]`.
    ///   - out: `[rows, columns]`.
    public func swiGLU(
        _ source: Tensor, gates: Tensor, ups: Tensor, into out: Tensor, on stream: CUDAStream
    ) throws(KernelError) {
        let (shape, target) = (source.shape, out.shape)
        try require(
            "swiglu_gathered",
            shape.count == 2 && target.count == 2 && target[0] == shape[0] && shape[0] > 0
                && target[1] > 0 && target[1] % 2 == 0 && gates.shape == [target[1]]
                && ups.shape == [target[1]] && gates.dtype == .int32 && ups.dtype == .int32
                && source.isBFloat16 && out.isBFloat16,
            [source, gates, ups, out])
        try kernel("swiglu_gathered").launch(
            grid: (Self.blocks(target[1]), min(shape[0], Self.gatherRowBlocks), 1),
            block: Self.block, on: stream, overlapping: true,
            [
                .tensor(source), .tensor(gates), .tensor(ups), .tensor(out), .int32(shape[0]),
                .int32(target[1]), .int32(shape[1]),
            ])
    }

    /// `out[t, j] = source[t, index[j]]`, plus `residual[t, j]` where there is one.
    ///
    /// - Parameters:
    ///   - source: `[rows, any]`.
    ///   - index: int32 `[columns]`, columns of `source`; columns even.
    ///   - residual: `[rows, columns]`; may be `out`.
    ///   - out: `[rows, columns]`.
    public func gatherColumns(
        _ source: Tensor, index: Tensor, adding residual: Tensor? = nil, into out: Tensor,
        on stream: CUDAStream
    ) throws(KernelError) {
        let (shape, target) = (source.shape, out.shape)
        try require(
            "gather_columns",
            shape.count == 2 && target.count == 2 && target[0] == shape[0] && shape[0] > 0
                && target[1] > 0 && target[1] % 2 == 0 && index.shape == [target[1]]
                && index.dtype == .int32 && source.isBFloat16 && out.isBFloat16
                && (residual.map { $0.shape == target && $0.isBFloat16 } ?? true),
            [source, index, residual, out])
        try kernel("gather_columns").launch(
            grid: (Self.blocks(target[1]), min(shape[0], Self.gatherRowBlocks), 1),
            block: Self.block, on: stream, overlapping: true,
            [
                .tensor(source), .tensor(index), .optional(residual), .tensor(out),
                .int32(shape[0]), .int32(target[1]), .int32(shape[1]),
            ])
    }

    /// Blocks whose threads take eight columns each.
    private static func blocks(_ columns: Int) -> Int {
        (columns + 8 * block - 1) / (8 * block)
    }
}

extension Tensor {
    fileprivate var isBFloat16: Bool { dtype == .bfloat16 }
}
