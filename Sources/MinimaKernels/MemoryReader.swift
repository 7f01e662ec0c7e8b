import MinimaTensor

/// Kernels that read memory and do nothing else, see `read.cu`: what the rate of a card is measured
/// with.
public struct MemoryReader: Sendable {
    /// How memory is read.
    public enum Way: String, Sendable, CaseIterable {
        /// Wide loads, a block for each tile.
        case loads
        /// Wide loads by as many blocks as the device holds at a time.
        case residentLoads
        /// Copies to shared memory, many in flight.
        case copies
    }

    private static let block = 256
    /// Loads of a thread, 32 KiB of a block, in flight.
    private static let loads = 8
    /// The same of a tile that is copied…
    private static let copiedLoads = 4
    /// …and tiles in flight: 96 KiB of a block, of which two find room on a multiprocessor of sm_90.
    private static let stages = 6
    /// Bytes that are read are a multiple of it.
    public static let tile = 16 * block * loads

    private let context: CUDAContext
    private let loading, copying: Kernel

    /// Compiles the kernels.
    public init(context: CUDAContext) throws(KernelError) {
        self.context = context
        let source = try KernelSource("read.cu")
        func constants(_ loads: Int, _ stages: Int) -> [String: KernelConstant] {
            ["BLOCK": .int(Self.block), "LOADS": .int(loads), "STAGES": .int(stages)]
        }
        loading = try context.kernel(
            source, entry: "read_loads", constants: constants(Self.loads, 1))
        // Cards whose blocks have less shared memory keep fewer tiles in flight.
        let tile = 16 * Self.block * Self.copiedLoads
        let stages = min(Self.stages, (context.sharedPerBlock - 1024) / tile)
        copying = try context.kernel(
            source, entry: "read_copies", constants: constants(Self.copiedLoads, stages),
            sharedBytes: stages * tile)
    }

    /// Room for the sums of a reading of so many bytes, int32.
    public static func sums(bytes: Int) -> Int { bytes / tile }

    /// Queues reading a tensor.
    ///
    /// - Parameters:
    ///   - source: Contiguous, a multiple of ``tile`` bytes.
    ///   - sums: int32, ``sums(bytes:)`` of them. The first, as many as the result says, become sums
    ///     of 32-bit words of `source`, all of them together each word once, modulo 2³².
    /// - Returns: How many sums there are.
    @discardableResult public func read(
        _ source: Tensor, _ way: Way, sums: Tensor, on stream: CUDAStream
    ) throws(KernelError) -> Int {
        let bytes = source.count * source.dtype.byteCount
        guard bytes > 0, bytes % Self.tile == 0, sums.dtype == .int32,
            sums.count >= Self.sums(bytes: bytes)
        else {
            throw .invalidLaunch(
                kernel: "read.cu",
                reason: """
                    it reads multiples of \(Self.tile) bytes into int32 [\(Self.sums(bytes: bytes))], \
                    found \(source.summary) and \(sums.summary)
                    """)
        }
        let kernel = way == .copies ? copying : loading
        let size = way == .copies ? 16 * Self.block * Self.copiedLoads : Self.tile
        let tiles = bytes / size
        let resident =
            try context.multiprocessors
            * max(kernel.blocksPerMultiprocessor(block: Self.block), 1)
        let blocks = way == .loads ? tiles : min(resident, Self.sums(bytes: bytes))
        try kernel.launch(
            grid: (blocks, 1, 1), block: Self.block, on: stream,
            [.tensor(source), .tensor(sums), .int32(tiles)])
        return blocks
    }
}
