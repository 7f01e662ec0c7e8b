import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// Proposes what a smaller model with the target's vocabulary says, see `draft.cu` for what a round
/// computes.
///
/// Its keys and values lie under the same page numbers as the target's. A round computes those of the
/// places that the steps before have settled; one of a step that proposes nothing does nothing else.
struct CUDAModelDrafter: CUDADrafter {
    let layers: DecoderLayers
    private let kernels: DraftKernels
    private let last: Tensor
    /// A round computes the last places anew, which must be in pages of the sequence's own. Of a page that
    /// a sequence's last steps have filled its last places may be missing, which costs acceptance.
    let prefixes: PrefixReuse

    /// Allocates pages and buffers.
    init(_ weights: DecoderWeights, for decoder: CUDADecoder) throws {
        let (layout, device) = (decoder.layout, decoder.kernels.device)
        let buffers = try Buffers(
            weights.architecture.dimensions, gathersGates: weights.gathersGates, layout,
            device: device)
        last = buffers.last
        layers = try DecoderLayers(
            weights, layout: layout, buffers: buffers.layers, products: decoder.products,
            prefix: "draft ")
        kernels = try DraftKernels(context: decoder.kernels)
        prefixes = PrefixReuse(computed: layout.mostDraftTokens)
        try device.synchronize()
    }

    func rereads(_ bucket: Int, _ layout: CUDALayout) -> Int { layout.mostDraftTokens(bucket) + 1 }

    /// Logits of each row's last proposal, float32 `[largest bucket, vocabulary]`.
    var logits: Tensor { layers.buffers.logits }

    func proposals(_ count: Int, for step: StepBuffers, of decoder: CUDADecoder) throws
        -> [StepKernel]
    {
        let (layout, state) = (decoder.layout, decoder.state)
        let rows = step.rows.count
        let places = rereads(rows, layout)
        let round = try DraftKernels.Round(
            rows: rows, places: places, steps: max(count, 1), reading: .tokens,
            device: decoder.kernels.device)
        let first = DecoderLayers.Pass(
            attention: try decoder.attention(layers.shape, queries: places, requests: rows),
            rows: try LayerRows(layers.buffers, rows * places), table: step.tables,
            lengths: try round.lengths.select(0, 0))
        var result = [
            StepKernel(name: "draft begin", otherBytes: 8 * step.tables.count) {
                [kernels, tables = decoder.tables] in
                try kernels.begin(
                    round, slots: step.rows, state: state, tables: tables,
                    rowTables: step.tables, on: $0)
            },
            layers.embed(round.tokens, into: first.rows.residual),
        ]
        result += try pass(first, readsOnly: count == 0)
        guard count > 0 else { return result }
        let logits = try self.logits.narrow(0, 0..<rows)
        func choice(_ place: Int, after stream: Tensor) throws -> [StepKernel] {
            try layers.head(stream, into: logits) + [
                StepKernel(name: "draft choose", otherBytes: 4 * logits.count) { [kernels] in
                    try kernels.choose(
                        logits, slots: step.rows, state: state, targetIds: nil, round: round,
                        place: place, on: $0)
                }
            ]
        }
        let last = try last.narrow(0, 0..<rows)
        result.append(
            StepKernel(name: "draft last", otherBytes: 4 * last.count) {
                [elementwise = decoder.products.elementwise] in
                try elementwise.gatherRows(
                    first.rows.residual, ids: round.lastRows, into: last, on: $0)
            })
        result += try choice(0, after: last)
        guard count > 1 else { return result }
        let attention = try decoder.attention(layers.shape, queries: 1, requests: rows)
        let single = try LayerRows(layers.buffers, rows)
        for place in 1..<count {
            result.append(layers.embed(round.next, into: single.residual))
            result += try pass(
                DecoderLayers.Pass(
                    attention: attention, rows: single, table: step.tables,
                    lengths: try round.lengths.select(0, place)))
            result += try choice(place, after: single.residual)
        }
        return result
    }

    /// All layers.
    ///
    /// - Parameter readsOnly: Whether keys and values are all that is wanted.
    private func pass(_ pass: DecoderLayers.Pass, readsOnly: Bool = false) throws -> [StepKernel] {
        let count = layers.weights.layers.count
        return try concurrentMap(count, threads: CUDADecoder.compilers) { index in
            try layers.layer(index, pass, readsOnly: readsOnly && index == count - 1)
        }.flatMap(\.self)
    }

    func read(_ chunk: DecoderLayers.Chunk, in decoder: CUDADecoder) throws {
        try layers.prefillEmbedding(chunk, on: decoder.stream)
        let count = layers.weights.layers.count
        for index in 0..<count {
            try layers.prefillLayer(
                index, chunk, readsOnly: index == count - 1, on: decoder.stream)
        }
    }
}

extension CUDAModelDrafter {
    /// What lies between its kernels.
    struct Buffers {
        let layers: DecoderBuffers
        /// The stream of the last known place of each row, bfloat16 `[largest bucket, hidden]`.
        let last: Tensor

        /// Zeros everywhere.
        init(
            _ sizes: DecoderDimensions, gathersGates: Bool, _ layout: CUDALayout, device: Device
        ) throws(TensorError) {
            layers = try DecoderBuffers(
                DecoderBuffers.Shapes(draft: sizes, gathersGates: gathersGates, layout: layout),
                device: device)
            last = try .zeros(
                [layout.largestBucket, sizes.hiddenSize], dtype: .bfloat16, device: device)
        }

        /// Bytes of them without the logits, and of the logits.
        static func bytes(_ sizes: DecoderDimensions, gathersGates: Bool, _ layout: CUDALayout)
            -> (bytes: Int, logits: Int)
        {
            let shapes = DecoderBuffers.Shapes(
                draft: sizes, gathersGates: gathersGates, layout: layout)
            return (
                shapes.byteCount + 2 * layout.largestBucket * sizes.hiddenSize, shapes.logitBytes
            )
        }
    }
}
