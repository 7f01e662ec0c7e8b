import MinimaCore
import MinimaKernels
import MinimaTensor

extension CUDADecoder {
    /// Tokens of attention's parts where they are fixed: 8K tokens of eight KV heads fill the card.
    static let fixedSplit = 512
    /// Threads that compile a step's kernels.
    static let compilers = 16

    /// The kernels of a decode step, in order.
    ///
    /// They read the slots that ``rows`` names and leave each slot's next tokens in ``state``.
    func makeStep(_ size: StepSize) throws -> [StepKernel] {
        let step = try StepBuffers(self, size)
        let begin = try kernels.kernel(
            KernelSource("step.cu"), entry: "begin_step", constants: ["BLOCK": 128])
        let trees = size.draftTokens > 0 ? trees : nil
        let seen = try trees?.seen.narrow(0, 0..<size.rows)
        let pass = DecoderLayers.Pass(
            attention: try attention(
                layers.shape, queries: size.places, requests: size.bucket,
                maskWords: seen?.shape[1] ?? 0),
            rows: step.layers, table: step.tables, lengths: step.lengths,
            tree: seen.map { DecodeAttention.Tree(seen: $0) })
        var result =
            try size.leavesDraft
            ? [] : drafter?.proposals(size.draftTokens, for: step, of: self) ?? []
        result += [
            StepKernel(name: "begin", otherBytes: 8 * step.tables.count) {
                [state, tables, layout] stream in
                try begin.launch(
                    grid: (size.bucket, 1, 1), block: 128, on: stream,
                    [
                        .tensor(step.rows), .tensor(state.positions), .tensor(tables),
                        .tensor(step.lengths), .tensor(step.tables), .tensor(state.tokens),
                        .tensor(state.drafts), .tensor(step.inputs), .int32(layout.pagesPerSlot),
                        .int32(size.draftTokens), .int32(state.drafts.shape[1]),
                        .int32(state.vocabulary),
                    ])
            }
        ]
        if let trees, let seen {
            result.append(
                StepKernel(name: "tree masks", otherBytes: 4 * seen.count) { [state] stream in
                    try trees.kernels.masks(
                        slots: step.rows, state: state, seen: seen, count: size.draftTokens,
                        on: stream)
                })
        }
        // Behind the launches that write the rows' tables and masks, which attention reads ahead of its turn.
        result.append(layers.embed(step.inputs, into: step.residual))
        let launches = try concurrentMap(weights.layers.count, threads: Self.compilers) { index in
            try (drafter?.observations(entering: index, of: step, in: self) ?? [])
                + layers.layer(index, pass)
        }
        result += launches.joined()
        result += try layers.head(step.residual, into: step.logits)
        // What was made here is set on the default stream, for which the one that steps run on does not
        // wait.
        try kernels.device.synchronize()
        result += (0..<size.places).map { place in
            // Of as many rows of logits as there are requests.
            StepKernel(name: "sample", otherBytes: 4 * step.logits.count / size.places) {
                [sampling, state] stream in
                try sampling.launch(
                    step.logits, slots: step.rows, state: state, place: place, of: size.places,
                    inTree: trees != nil, on: stream)
            }
        }
        if let trees {
            result.append(
                StepKernel(name: "tree move") { [state] stream in
                    try trees.kernels.move(
                        table: step.tables, slots: step.rows, state: state, on: stream)
                })
            result += try drafter?.settlements(of: step, in: self) ?? []
        }
        return result
    }
}

/// What a step of a size reads and writes, beside the layers' pages.
struct StepBuffers {
    /// By sequence.
    let rows, lengths, tables: Tensor
    /// By token that goes in, those of a sequence side by side.
    let inputs, logits: Tensor
    /// Likewise.
    let layers: LayerRows

    /// The residual stream.
    var residual: Tensor { layers.residual }

    init(_ decoder: CUDADecoder, _ size: StepSize) throws(TensorError) {
        rows = try decoder.rows.narrow(0, 0..<size.bucket)
        lengths = try decoder.lengths.narrow(0, 0..<size.bucket)
        tables = try decoder.rowTables.narrow(0, 0..<size.bucket)
        inputs = try decoder.inputs.narrow(0, 0..<size.rows)
        layers = try LayerRows(decoder.buffers, size.rows)
        logits = try decoder.buffers.logits.narrow(0, 0..<size.rows)
    }
}

extension CUDADecoder {
    /// Queues reading a chunk of a sequence: keys and values go to the pages of `slot`, the residual
    /// stream of the chunk stays in the buffers.
    ///
    /// - Parameters:
    ///   - tokens: 1 to `layout.chunk` of them.
    ///   - position: Tokens of the sequence before them, in the cache already.
    ///   - slot: Its row of the page tables, which name pages for all of these.
    func prefill(_ tokens: ArraySlice<Int32>, at position: Int, slot: Int) throws {
        try HostTransfer.upload(Array(tokens), to: chunkTokens)
        let chunk = DecoderLayers.Chunk(
            tokens: try chunkTokens.narrow(0, 0..<tokens.count), position: position, slot: slot,
            tables: tables)
        try layers.prefillEmbedding(chunk, on: stream)
        let residual = try buffers.residual.narrow(0, 0..<tokens.count)
        for index in weights.layers.indices {
            try drafter?.observe(residual, entering: index)
            try layers.prefillLayer(index, chunk, on: stream)
        }
        try drafter?.read(chunk, in: self)
    }
}
