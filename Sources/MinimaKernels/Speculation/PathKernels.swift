import MinimaCore
import MinimaTensor

/// What a step that verifies trees needs beside attention and sampling: masks, and moving keys, values and
/// features of the tokens that it made to where they stand; see `tree_path.cu`.
public struct PathKernels: Sendable {
    private static let block = 256

    private let masks, move, keep: Kernel
    private let cache: PagedKeyValues
    /// int64 `[layers]`: where each layer's pages lie.
    private let layers: Tensor

    /// Compiles the kernels for the layers of a cache.
    public init(_ cache: PagedKeyValues, context: CUDAContext) throws(KernelError) {
        let source = try KernelSource("tree_path.cu")
        var constants = cache.shape.constants(cache.format)
        constants["RING"] = .int(DraftKernels.ring)
        masks = try context.kernel(source, entry: "tree_masks", constants: constants)
        move = try context.kernel(source, entry: "move_path", constants: constants)
        keep = try context.kernel(source, entry: "keep_path", constants: constants)
        self.cache = cache
        layers = try KernelError.wrapping { () throws(TensorError) in
            var addresses: [Int64] = []
            for layer in cache.layers {
                addresses.append(Int64(bitPattern: UInt64(try layer.deviceAddress())))
            }
            return try Tensor(addresses).to(context.device)
        }
    }

    /// Bytes on the device for a cache of that many layers.
    public static func bytes(layers: Int) -> Int { 8 * layers }

    /// Queues which rows of a step each row sees.
    ///
    /// - Parameters:
    ///   - slots: int32 `[rows]`, the slot of each row; negative for padding.
    ///   - state: Holds trees.
    ///   - seen: int32 `[rows · (count + 1), 1]`; overwritten.
    ///   - count: Proposals of each row, at most 31.
    public func masks(
        slots: Tensor, state: SamplingState, seen: Tensor, count: Int, on stream: CUDAStream
    ) throws(KernelError) {
        guard let parents = state.parents, slots.dtype == .int32, seen.dtype == .int32,
            seen.shape == [slots.count * (count + 1), 1],
            (1...min(parents.shape[1], SamplingKernel.mostTreeRows - 1)).contains(count)
        else {
            throw DraftKernels.wrong(masks, [slots, seen, state.parents])
        }
        try masks.launch(
            grid: (slots.count, 1, 1), block: 32, on: stream, overlapping: true,
            [
                .tensor(slots), .tensor(parents), .tensor(seen), .int32(count),
                .int32(parents.shape[1]),
            ])
    }

    /// Queues moving keys and values behind a step's choices.
    ///
    /// - Parameters:
    ///   - table: int32 `[rows, pages]`, the rows' pages.
    ///   - slots: int32 `[rows]`.
    ///   - state: Holds the path of each slot.
    public func move(
        table: Tensor, slots: Tensor, state: SamplingState, on stream: CUDAStream
    ) throws(KernelError) {
        guard let path = state.path, table.rank == 2, table.shape[0] == slots.count,
            table.dtype == .int32, slots.dtype == .int32
        else { throw DraftKernels.wrong(move, [table, slots, state.path]) }
        try move.launch(
            grid: (cache.shape.kvHeads, cache.layers.count, slots.count), block: Self.block,
            on: stream, overlapping: true,
            [
                .tensor(layers), .tensor(table), .tensor(slots), .tensor(state.positions),
                .tensor(state.counts), .tensor(path), .int32(table.shape[1]),
                .int32(state.places),
            ])
    }

    /// Queues moving a head's features behind a step's choices.
    ///
    /// - Parameters:
    ///   - ring: bfloat16 `[slots · ring, features]`, a multiple of 8 of them.
    ///   - slots: int32 `[rows]`.
    ///   - state: Holds the path of each slot.
    public func keep(
        _ ring: Tensor, slots: Tensor, state: SamplingState, on stream: CUDAStream
    ) throws(KernelError) {
        guard let path = state.path, ring.rank == 2, ring.dtype == .bfloat16,
            ring.shape[0] == state.slots * DraftKernels.ring, ring.shape[1] % 8 == 0,
            state.places <= DraftKernels.mostPlaces, slots.dtype == .int32
        else { throw DraftKernels.wrong(keep, [ring, slots, state.path]) }
        let width = ring.shape[1]
        try keep.launch(
            grid: ((width + 8 * Self.block - 1) / (8 * Self.block), slots.count, 1),
            block: Self.block, on: stream, overlapping: true,
            [
                .tensor(ring), .tensor(slots), .tensor(state.positions), .tensor(state.counts),
                .tensor(path), .int32(state.places), .int32(width),
            ])
    }
}
