import MinimaCore
import MinimaKernels
import MinimaTensor

private let typedMultiplyOperator = Operator("aten::mm", "dtype_out")

extension CUDADecoder {
    /// Rows that the decoding kernel multiplies at a time; more bfloat16 rows go through the library's
    /// products.
    static let narrowRows = 8
    /// The same for codes, which would have to be expanded for the library…
    static let narrowCodeRows = 16
    /// …and the most rows for which they are read again for each of those: expanding takes about nine
    /// bytes per byte of 4-bit codes, every further reading one.
    static let mostCodeRows = 128
    /// Tokens of attention's parts where they are fixed: 8K tokens of eight KV heads fill the card.
    private static let fixedSplit = 512
    /// Threads that compile a step's kernels.
    private static let compilers = 16

    /// The kernels of a decode step of `bucket` rows, in order.
    ///
    /// They read the slots that ``rows`` names and leave each slot's next token in ``state``.
    func makeStep(_ bucket: Int) throws -> [StepKernel] {
        let sizes = weights.architecture.dimensions
        let step = try StepBuffers(self, bucket)
        let begin = try kernels.kernel(
            KernelSource("step.cu"), entry: "begin_step", constants: ["BLOCK": 128])
        let attention = try DecodeAttention(
            weights.attentionShape(), format: layout.format, requests: bucket,
            maxPages: layout.pagesPerSlot,
            splitTokens: layout.isDeterministic ? Self.fixedSplit : nil, context: kernels)
        var result = [
            StepKernel(name: "begin", bytes: 0) { [state, tables, layout] stream in
                try begin.launch(
                    grid: (bucket, 1, 1), block: 128, on: stream,
                    [
                        .tensor(step.rows), .tensor(state.positions), .tensor(tables),
                        .tensor(step.lengths), .tensor(step.tables),
                        .int32(layout.pagesPerSlot),
                    ])
            },
            // The first kernel behind one that does not overlap, so that the rows' tables stand
            // before attention reads them ahead of its turn.
            StepKernel(name: "embed", bytes: 2 * bucket * sizes.hiddenSize) {
                [elementwise, weights, state] stream in
                try elementwise.gatherRows(
                    weights.embedding, ids: state.tokens, slots: step.rows, into: step.residual,
                    on: stream, overlapping: false)
            },
        ]
        let layers = try concurrentMap(weights.layers.count, threads: Self.compilers) { index in
            let layer = weights.layers[index]
            let attend = StepKernel(name: "attention", bytes: 0) { [cache, weights] stream in
                try attention.launch(
                    projections: step.qkv, queryNorm: layer.queryNorm, keyNorm: layer.keyNorm,
                    frequencies: weights.frequencies, pages: cache.layers[index],
                    table: step.tables, lengths: step.lengths, attended: step.attended,
                    on: stream)
            }
            return try self.layer(index, step, attend)
        }
        result += layers.joined()
        result += try head(step.residual, into: step.logits)
        // Counters are set on the default stream, for which the one that steps run on does not wait.
        try kernels.device.synchronize()
        result.append(
            StepKernel(name: "sample", bytes: 0) { [sampling, state] stream in
                try sampling.launch(step.logits, slots: step.rows, state: state, on: stream)
            })
        return result
    }

    private func layer(_ index: Int, _ step: StepBuffers, _ attend: StepKernel) throws
        -> [StepKernel]
    {
        let (layer, wide) = (weights.layers[index], wide[index])
        let (residual, normed) = (step.residual, step.normed)
        var kernels =
            try narrow(
                layer.qkv, "qkv", of: residual, norm: layer.inputNorm, into: .values(step.qkv)) ?? [
                norm(residual, layer.inputNorm, into: normed),
                StepKernel(name: "qkv", bytes: layer.qkv.byteCount) {
                    try wide.qkv(normed, into: step.qkv, adding: false, on: $0)
                },
            ]
        kernels.append(attend)
        kernels +=
            try narrow(layer.output, "o", of: step.attended, into: .stream(residual)) ?? [
                StepKernel(name: "o", bytes: layer.output.byteCount) {
                    try wide.output(step.attended, into: residual, adding: true, on: $0)
                }
            ]
        kernels +=
            try narrow(
                layer.gateUp, "gate_up", of: residual, norm: layer.postNorm,
                into: .gated(step.gated, through: step.gateUp)) ?? [
                norm(residual, layer.postNorm, into: normed),
                StepKernel(name: "gate_up", bytes: layer.gateUp.byteCount) {
                    try wide.gateUp.gated(normed, through: step.gateUp, into: step.gated, on: $0)
                },
            ]
        kernels +=
            try narrow(layer.down, "down", of: step.gated, into: .stream(residual)) ?? [
                StepKernel(name: "down", bytes: layer.down.byteCount) {
                    try wide.down(step.gated, into: residual, adding: true, on: $0)
                }
            ]
        return kernels
    }

    /// A site's launches through the decoding kernel, some rows at a time, as many each as go evenly:
    /// a row's sums depend on how many it is multiplied with. `nil` where the library's products take
    /// over.
    private func narrow(
        _ site: DecoderSite, _ name: String, of x: Tensor, norm: Tensor? = nil,
        into destination: NarrowProducts.Destination
    ) throws -> [StepKernel]? {
        let count = x.shape[0]
        let isCoded = site.products.contains { $0.form.matrices.contains(where: \.isQuantized) }
        guard count <= (isCoded ? Self.mostCodeRows : Self.narrowRows) else { return nil }
        let most = isCoded ? Self.narrowCodeRows : Self.narrowRows
        let groups = (count + most - 1) / most
        let size = (count + groups - 1) / groups
        var result: [StepKernel] = []
        for start in stride(from: 0, to: count, by: size) {
            let rows = start..<min(start + size, count)
            let products = NarrowProducts(decoder: self, tokens: rows.count)
            let launches = try products.kernels(
                site, name, of: x.narrow(0, rows), norm: norm,
                into: destination.narrow(rows))
            // A step has to read the weights once, however often it does.
            result +=
                start == 0
                ? launches : launches.map { StepKernel(name: $0.name, bytes: 0, queue: $0.queue) }
        }
        return result
    }

    /// RMSNorm of rows of the residual stream.
    func norm(_ x: Tensor, _ weight: Tensor, into out: Tensor) -> StepKernel {
        StepKernel(name: "norm", bytes: 0) { [elementwise, weights] stream in
            try elementwise.rmsNorm(
                x, weight: weight, epsilon: weights.architecture.epsilon, into: out, on: stream)
        }
    }

    /// Final norm and output projection of `residual` `[rows, hidden]`.
    func head(_ residual: Tensor, into logits: Tensor) throws -> [StepKernel] {
        let count = residual.shape[0]
        guard count > Self.narrowRows else {
            return try NarrowProducts(decoder: self, tokens: count).kernels(
                weights.head, "head", of: residual, norm: weights.norm, into: .logits(logits))
        }
        let normed = try buffers.normed.narrow(0, 0..<count)
        return [
            norm(residual, weights.norm, into: normed),
            StepKernel(name: "head", bytes: weights.head.byteCount) { [weights] stream in
                let matrix = weights.head.products[0].form.matrices[0]
                let right = try matrix.dense(through: nil, on: stream).transpose()
                _ = try typedMultiplyOperator(
                    .tensor(normed), .tensor(right), .dtype(.float32), .tensor(logits))
            },
        ]
    }
}

/// The first rows of the decoder's buffers, as many as a step has.
private struct StepBuffers {
    let rows, lengths, tables: Tensor
    let residual, normed, qkv, attended, gateUp, gated, logits: Tensor

    init(_ decoder: CUDADecoder, _ count: Int) throws(TensorError) {
        let buffers = decoder.buffers
        func taken(_ buffer: Tensor) throws(TensorError) -> Tensor {
            try buffer.narrow(0, 0..<min(count, buffer.shape[0]))
        }
        rows = try taken(decoder.rows)
        lengths = try taken(decoder.lengths)
        tables = try taken(decoder.rowTables)
        residual = try taken(buffers.residual)
        normed = try taken(buffers.normed)
        qkv = try taken(buffers.qkv)
        attended = try taken(buffers.attended)
        gateUp = try taken(buffers.gateUp)
        gated = try taken(buffers.gated)
        logits = try taken(buffers.logits)
    }
}

extension NarrowProducts.Destination {
    /// The same for some of the rows.
    fileprivate func narrow(_ rows: Range<Int>) throws -> Self {
        switch self {
        case .values(let y): .values(try y.narrow(0, rows))
        case .stream(let y): .stream(try y.narrow(0, rows))
        case .logits(let y): .logits(try y.narrow(0, rows))
        case .gated(let y, let through):
            .gated(
                try y.narrow(0, rows),
                through: through.shape[0] == 0 ? through : try through.narrow(0, rows))
        }
    }
}
