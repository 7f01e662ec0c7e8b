import MinimaCore
import MinimaTensor

/// Prefill's side of the paged cache: keys and values of one request from projections into pages, from
/// pages into contiguous tensors, and pages copied. See `keyvalue.cu`.
public struct KeyValueKernels: Sendable {
    /// What the kernels are compiled for.
    public let shape: AttentionShape
    /// How the pages hold values.
    public let format: KeyValueFormat

    private let writer: Kernel
    private let gatherer: Kernel
    private static let threads = 256

    /// Compiles the kernels.
    public init(
        _ shape: AttentionShape, format: KeyValueFormat, context: CUDAContext
    ) throws(KernelError) {
        let source = try KernelSource("keyvalue.cu")
        let constants = shape.constants(format)
        let tile = shape.tileBytes(format)
        writer = try context.kernel(
            source, entry: "write_keyvalues", constants: constants,
            sharedBytes: Self.writerBytes(shape, format))
        gatherer = try context.kernel(
            source, entry: "gather_keyvalues", constants: constants, sharedBytes: 2 * tile)
        self.shape = shape
        self.format = format
    }

    /// `WRITE_SHARED_BYTES` of `keyvalue.cu`: angles, a tile, a head for each warp.
    static func writerBytes(_ shape: AttentionShape, _ format: KeyValueFormat) -> Int {
        format.block * shape.rotaryDim * 4 + (shape.tileBytes(format) + 15) / 16 * 16
            + threads / 32 * ((shape.headDim * 2 + 15) / 16 * 16)
    }

    /// Queues the norms and rotations of a chunk of one request and stores its keys and values.
    ///
    /// - Parameters:
    ///   - projections: bfloat16 `[count, projectionWidth]`.
    ///   - queryNorm: bfloat16 `[headDim]`, where the shape normalises; `keyNorm` likewise.
    ///   - frequencies: float32 `[rotaryDim / 2]`.
    ///   - pages: A layer of ``PagedKeyValues``.
    ///   - table: int32 `[requests, maxPages]`.
    ///   - request: The row of `table`, whose pages cover `position + count` tokens.
    ///   - position: Tokens of the request that are there already.
    ///   - queries: bfloat16 `[count, heads, headDim]`; overwritten.
    ///   - keys: bfloat16 `[count, kvHeads, headDim]`, or `nil`: the chunk's, not rounded to the
    ///     pages' format; `values` likewise.
    public func write(
        projections: Tensor, queryNorm: Tensor?, keyNorm: Tensor?, frequencies: Tensor,
        pages: Tensor, table: Tensor, request: Int, position: Int, queries: Tensor,
        keys: Tensor? = nil, values: Tensor? = nil, on stream: CUDAStream,
        overlapping: Bool = false
    ) throws(KernelError) {
        let count = projections.shape.first ?? 0
        let (heads, kvHeads, dim) = (shape.heads, shape.kvHeads, shape.headDim)
        let row = try row(table, request, tokens: position + count, writer.name)
        try PagedKeyValues.check(pages, shape, format, writer.name)
        try KernelShapes(writer.name)
            .expect("projections", projections, .bfloat16, [count, shape.projectionWidth])
            .norms(queryNorm, keyNorm, shape)
            .expect("frequencies", frequencies, .float32, [shape.rotaryDim / 2])
            .expect("queries", queries, .bfloat16, [count, heads, dim])
            .expect("keys", keys, .bfloat16, [count, kvHeads, dim])
            .expect("values", values, .bfloat16, [count, kvHeads, dim])
            .check()
        guard count > 0, position >= 0 else {
            throw .invalidLaunch(
                kernel: writer.name,
                reason: "\(count) tokens at position \(position) are no chunk")
        }
        let blocks = (position + count - 1) / format.block - position / format.block + 1
        try writer.launch(
            grid: (blocks, kvHeads, 1), block: Self.threads, on: stream, overlapping: overlapping,
            [
                .tensor(projections), .optional(queryNorm), .optional(keyNorm),
                .tensor(frequencies), .tensor(pages), row, .tensor(queries), .optional(keys),
                .optional(values), .int32(position), .int32(count), .float(shape.epsilon),
                .float(shape.ropeScaling),
            ])
    }

    /// Queues copying the first tokens' keys and values of a request out of its pages.
    ///
    /// - Parameters:
    ///   - keys: bfloat16 `[length, kvHeads, headDim]`; overwritten. `values` likewise.
    public func gather(
        pages: Tensor, table: Tensor, request: Int, keys: Tensor, values: Tensor,
        on stream: CUDAStream, overlapping: Bool = false
    ) throws(KernelError) {
        let length = keys.shape.first ?? 0
        let row = try row(table, request, tokens: length, gatherer.name)
        try PagedKeyValues.check(pages, shape, format, gatherer.name)
        try KernelShapes(gatherer.name)
            .expect("keys", keys, .bfloat16, [length, shape.kvHeads, shape.headDim])
            .expect("values", values, .bfloat16, [length, shape.kvHeads, shape.headDim])
            .check()
        guard length > 0 else { return }
        try gatherer.launch(
            grid: ((length + format.block - 1) / format.block, shape.kvHeads, 1),
            block: Self.threads, on: stream, overlapping: overlapping,
            [.tensor(pages), row, .tensor(keys), .tensor(values), .int32(length)])
    }

    /// The argument for a request's row of the page table.
    private func row(
        _ table: Tensor, _ request: Int, tokens: Int, _ kernel: String
    ) throws(KernelError) -> KernelArgument {
        let columns = table.rank == 2 ? table.shape[1] : 0
        guard table.dtype == .int32, columns >= PagedKeyValues.pages(forTokens: tokens),
            (0..<table.shape[0]).contains(request)
        else {
            throw .invalidLaunch(
                kernel: kernel,
                reason: """
                    request \(request) with \(tokens) tokens is not in the page table \(table.summary)
                    """)
        }
        return .tensorAt(table, byteOffset: request * columns * 4)
    }
}
