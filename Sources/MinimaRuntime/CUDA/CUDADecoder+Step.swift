import MinimaCore
import MinimaKernels
import MinimaTensor

extension CUDADecoder {
    /// Tokens of attention's parts where they are fixed: 8K tokens of eight KV heads fill the card.
    static let fixedSplit = 512
    /// Threads that compile a step's kernels.
    private static let compilers = 16

    /// The kernels of a decode step, in order.
    ///
    /// They read the slots that ``rows`` names and leave each slot's next tokens in ``state``.
    func makeStep(_ size: StepSize) throws -> [StepKernel] {
        let sizes = weights.architecture.dimensions
        let step = try StepBuffers(self, size)
        let begin = try kernels.kernel(
            KernelSource("step.cu"), entry: "begin_step", constants: ["BLOCK": 128])
        let attention = try DecodeAttention(
            weights.attentionShape(), format: layout.format, queries: size.places,
            requests: size.bucket, maxPages: layout.pagesPerSlot,
            splitTokens: layout.isDeterministic ? Self.fixedSplit : nil,
            workspace: attentionWorkspace, context: kernels)
        var result = try drafter?.proposals(size.draftTokens, for: step, of: self) ?? []
        result += [
            StepKernel(name: "begin", bytes: 0) { [state, tables, layout] stream in
                try begin.launch(
                    grid: (size.bucket, 1, 1), block: 128, on: stream,
                    [
                        .tensor(step.rows), .tensor(state.positions), .tensor(tables),
                        .tensor(step.lengths), .tensor(step.tables), .tensor(state.tokens),
                        .tensor(state.drafts), .tensor(step.inputs), .int32(layout.pagesPerSlot),
                        .int32(size.draftTokens), .int32(state.drafts.shape[1]),
                        .int32(state.vocabulary),
                    ])
            },
            // The first kernel behind one that does not overlap, so that the rows' tables stand
            // before attention reads them ahead of its turn.
            StepKernel(name: "embed", bytes: 2 * size.rows * sizes.hiddenSize) {
                [elementwise, weights] stream in
                try elementwise.gatherRows(
                    weights.embedding, ids: step.inputs, into: step.residual, on: stream,
                    overlapping: false)
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
        // What was made here is set on the default stream, for which the one that steps run on does not
        // wait.
        try kernels.device.synchronize()
        result += (0..<size.places).map { place in
            StepKernel(name: "sample", bytes: 0) { [sampling, state] stream in
                try sampling.launch(
                    step.logits, slots: step.rows, state: state, place: place, of: size.places,
                    on: stream)
            }
        }
        return result
    }

    private func layer(_ index: Int, _ step: StepBuffers, _ attend: StepKernel) throws
        -> [StepKernel]
    {
        let (layer, wide) = (weights.layers[index], wide[index])
        let residual = step.residual
        func norm(_ weight: Tensor) -> InputNorm {
            InputNorm(weight, epsilon: weights.architecture.epsilon, through: step.normed)
        }
        var kernels = try drafter?.observations(entering: index, of: step, in: self) ?? []
        kernels += try product(
            layer.qkv, wide.qkv, "qkv", of: residual, norm: norm(layer.inputNorm),
            into: .values(step.qkv))
        kernels.append(attend)
        kernels += try product(
            layer.output, wide.output, "o", of: step.attended, into: .stream(residual))
        kernels += try product(
            layer.gateUp, wide.gateUp, "gate_up", of: residual, norm: norm(layer.postNorm),
            into: .gated(step.gated, through: step.gateUp))
        kernels += try product(
            layer.down, wide.down, "down", of: step.gated, into: .stream(residual))
        return kernels
    }

    /// Final norm and output projection of `residual` `[rows, hidden]`.
    func head(_ residual: Tensor, into logits: Tensor) throws -> [StepKernel] {
        let normed = try buffers.normed.narrow(0, 0..<residual.shape[0])
        return try product(
            weights.head, wideHead, "head", of: residual,
            norm: InputNorm(
                weights.norm, epsilon: weights.architecture.epsilon, through: normed),
            into: .logits(logits))
    }
}

/// The first rows of the decoder's buffers, as many as a step has.
struct StepBuffers {
    /// By sequence.
    let rows, lengths, tables: Tensor
    /// By token that goes in, those of a sequence side by side.
    let inputs, residual, normed, qkv, attended, gateUp, gated, logits: Tensor

    init(_ decoder: CUDADecoder, _ size: StepSize) throws(TensorError) {
        let buffers = decoder.buffers
        func taken(_ buffer: Tensor) throws(TensorError) -> Tensor {
            try buffer.narrow(0, 0..<min(size.rows, buffer.shape[0]))
        }
        rows = try decoder.rows.narrow(0, 0..<size.bucket)
        lengths = try decoder.lengths.narrow(0, 0..<size.bucket)
        tables = try decoder.rowTables.narrow(0, 0..<size.bucket)
        inputs = try taken(decoder.inputs)
        residual = try taken(buffers.residual)
        normed = try taken(buffers.normed)
        qkv = try taken(buffers.qkv)
        attended = try taken(buffers.attended)
        gateUp = try taken(buffers.gateUp)
        gated = try taken(buffers.gated)
        logits = try taken(buffers.logits)
    }
}
