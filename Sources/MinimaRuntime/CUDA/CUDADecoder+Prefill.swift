import MinimaKernels
import MinimaTensor

private let flashOperator = Operator("aten::_flash_attention_forward")

extension CUDADecoder {
    /// Queues reading a chunk of a sequence: keys and values go to the pages of `slot`, the residual
    /// stream of the chunk stays in the buffers.
    ///
    /// - Parameters:
    ///   - tokens: 1 to `layout.chunk` of them.
    ///   - position: Tokens of the sequence before them, in the cache already.
    ///   - slot: Its row of the page tables, which name pages for all of these.
    func prefill(_ tokens: ArraySlice<Int32>, at position: Int, slot: Int) throws {
        let count = tokens.count
        try HostTransfer.upload(Array(tokens), to: chunkTokens)
        let residual = try buffers.residual.narrow(0, 0..<count)
        try elementwise.gatherRows(
            weights.embedding, ids: chunkTokens.narrow(0, 0..<count), into: residual, on: stream)
        for index in weights.layers.indices {
            try prefillLayer(index, count: count, at: position, slot: slot)
        }
        try drafter?.read(count, at: position, slot: slot, in: self)
    }

    private func prefillLayer(_ index: Int, count: Int, at position: Int, slot: Int) throws {
        let (layer, wide) = (weights.layers[index], wide[index])
        let rows = 0..<count
        let residual = try buffers.residual.narrow(0, rows)
        let normed = try buffers.normed.narrow(0, rows)
        let qkv = try buffers.qkv.narrow(0, rows)
        let attended = try buffers.attended.narrow(0, rows)
        try drafter?.observe(residual, entering: index)
        try norm(residual, layer.inputNorm, through: normed)
        try wide.qkv(normed, into: qkv, adding: false, on: stream)
        try attend(layer, index, qkv, at: position, slot: slot, into: attended)
        try wide.output(attended, into: residual, adding: true, on: stream)
        try norm(residual, layer.postNorm, through: normed)
        let gated = try buffers.gated.narrow(0, rows)
        let gateUp = try buffers.gateUp.narrow(0, 0..<min(count, buffers.gateUp.shape[0]))
        try wide.gateUp.gated(normed, through: gateUp, into: gated, on: stream)
        try wide.down(gated, into: residual, adding: true, on: stream)
    }

    private func norm(_ x: Tensor, _ weight: Tensor, through room: Tensor) throws {
        let epsilon = weights.architecture.epsilon
        try norm(x, InputNorm(weight, epsilon: epsilon, through: room)).queue(stream)
    }

    /// Attention of a chunk over the sequence's tokens up to its own.
    private func attend(
        _ layer: DecoderWeights.Layer, _ index: Int, _ qkv: Tensor, at position: Int, slot: Int,
        into attended: Tensor
    ) throws {
        let count = qkv.shape[0]
        let length = position + count
        let queries = try buffers.queries.narrow(0, 0..<count)
        // A first chunk is all there is to see; later ones read the pages back.
        let keys = try buffers.keys.narrow(0, 0..<length)
        let values = try buffers.values.narrow(0, 0..<length)
        try keyValues.write(
            projections: qkv, queryNorm: layer.queryNorm, keyNorm: layer.keyNorm,
            frequencies: weights.frequencies, pages: cache.layers[index], table: tables,
            request: slot, position: position, queries: queries,
            keys: position == 0 ? keys : nil, values: position == 0 ? values : nil, on: stream)
        if position > 0 {
            try keyValues.gather(
                pages: cache.layers[index], table: tables, request: slot, keys: keys,
                values: values, on: stream)
        }
        // Causal masks are aligned at the end where there are more keys than queries.
        let results = try flashOperator.tensors(
            .tensor(queries.unsqueeze(0)), .tensor(keys.unsqueeze(0)),
            .tensor(values.unsqueeze(0)), .none, .none, .int(count), .int(length), .double(0),
            .bool(true), .bool(false))
        try attended.copy(from: results[0].reshape(attended.shape))
    }
}
