import MinimaCore
import MinimaKernels
import MinimaTensor

private let typedMultiplyOperator = Operator("aten::mm", "dtype_out")

extension CUDADecoder {
    /// Rows up to which the decoding kernel multiplies; more go through the library's products.
    static let narrowRows = 8

    /// The kernels of a decode step of `bucket` rows, in order.
    ///
    /// They read the slots that ``rows`` names and leave each slot's next token in ``state``.
    func makeStep(_ bucket: Int) throws -> [StepKernel] {
        let sizes = weights.architecture.dimensions
        let attention = try DecodeAttention(
            weights.attentionShape(), format: layout.format, requests: bucket,
            maxPages: layout.pagesPerSlot, context: kernels)
        let (rows, lengths) = (try rows.narrow(0, 0..<bucket), try lengths.narrow(0, 0..<bucket))
        let rowTables = try rowTables.narrow(0, 0..<bucket)
        func taken(_ buffer: Tensor) throws(TensorError) -> Tensor {
            try buffer.narrow(0, 0..<min(bucket, buffer.shape[0]))
        }
        let residual = try taken(buffers.residual)
        let (qkv, attended) = (try taken(buffers.qkv), try taken(buffers.attended))
        let (gateUp, gated) = (try taken(buffers.gateUp), try taken(buffers.gated))
        let logits = try taken(buffers.logits)
        let begin = try kernels.kernel(
            KernelSource("step.cu"), entry: "begin_step", constants: ["BLOCK": 128])
        var step = [
            StepKernel(name: "begin", bytes: 0) { [state, tables, layout] stream in
                try begin.launch(
                    grid: (bucket, 1, 1), block: 128, on: stream,
                    [
                        .tensor(rows), .tensor(state.positions), .tensor(tables),
                        .tensor(lengths), .tensor(rowTables), .int32(layout.pagesPerSlot),
                    ])
            },
            // The first kernel behind one that does not overlap, so that the rows' tables stand
            // before attention reads them ahead of its turn.
            StepKernel(name: "embed", bytes: 2 * bucket * sizes.hiddenSize) {
                [elementwise, weights, state] stream in
                try elementwise.gatherRows(
                    weights.embedding, ids: state.tokens, slots: rows, into: residual, on: stream,
                    overlapping: false)
            },
        ]
        let narrow = bucket <= Self.narrowRows
        for (index, layer) in weights.layers.enumerated() {
            let attend = StepKernel(name: "attention", bytes: 0) {
                [cache, weights] stream in
                try attention.launch(
                    projections: qkv, queryNorm: layer.queryNorm, keyNorm: layer.keyNorm,
                    frequencies: weights.frequencies, pages: cache.layers[index],
                    table: rowTables, lengths: lengths, attended: attended, on: stream,
                    overlapping: narrow)
            }
            guard narrow else {
                step += try wideLayer(index, attend, bucket)
                continue
            }
            let products = NarrowProducts(decoder: self, tokens: bucket)
            step += try products.kernels(
                layer.qkv, "qkv", of: residual, norm: layer.inputNorm, into: .values(qkv))
            step.append(attend)
            step += try products.kernels(layer.output, "o", of: attended, into: .stream(residual))
            step += try products.kernels(
                layer.gateUp, "gate_up", of: residual, norm: layer.postNorm,
                into: .gated(gated, through: gateUp))
            step += try products.kernels(layer.down, "down", of: gated, into: .stream(residual))
        }
        step += try head(residual, into: logits)
        step.append(
            StepKernel(name: "sample", bytes: 0) { [sampling, state] stream in
                try sampling.launch(logits, slots: rows, state: state, on: stream)
            })
        return step
    }

    /// A layer of a step of many rows.
    private func wideLayer(_ index: Int, _ attend: StepKernel, _ bucket: Int) throws -> [StepKernel] {
        let (layer, wide) = (weights.layers[index], wide[index])
        let rows = 0..<bucket
        let residual = try buffers.residual.narrow(0, rows)
        let normed = try buffers.normed.narrow(0, rows)
        let (qkv, attended) = (
            try buffers.qkv.narrow(0, rows), try buffers.attended.narrow(0, rows)
        )
        let gateUp = try buffers.gateUp.narrow(0, 0..<min(bucket, buffers.gateUp.shape[0]))
        let gated = try buffers.gated.narrow(0, rows)
        func kernel(
            _ name: String, _ site: DecoderSite?, _ queue: @escaping (CUDAStream) throws -> Void
        ) -> StepKernel {
            StepKernel(name: name, bytes: site?.byteCount ?? 0, queue: queue)
        }
        return [
            kernel("norm", nil) { [unowned self] _ in
                try norm(residual, layer.inputNorm, into: normed)
            },
            kernel("qkv", layer.qkv) { try wide.qkv(normed, into: qkv, adding: false, on: $0) },
            attend,
            kernel("o", layer.output) {
                try wide.output(attended, into: residual, adding: true, on: $0)
            },
            kernel("norm", nil) { [unowned self] _ in
                try norm(residual, layer.postNorm, into: normed)
            },
            kernel("gate_up", layer.gateUp) {
                try wide.gateUp.gated(normed, through: gateUp, into: gated, on: $0)
            },
            kernel("down", layer.down) {
                try wide.down(gated, into: residual, adding: true, on: $0)
            },
        ]
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
            StepKernel(name: "norm", bytes: 0) { [unowned self] _ in
                try norm(residual, weights.norm, into: normed)
            },
            StepKernel(name: "head", bytes: weights.head.byteCount) { [unowned self] stream in
                let matrix = weights.head.products[0].form.matrices[0]
                let right = try matrix.dense(through: nil, on: stream).transpose()
                _ = try typedMultiplyOperator(
                    .tensor(normed), .tensor(right), .dtype(.float32), .tensor(logits))
            },
        ]
    }
}
