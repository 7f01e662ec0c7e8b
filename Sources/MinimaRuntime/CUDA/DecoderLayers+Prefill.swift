import MinimaKernels
import MinimaTensor

private let flashOperator = Operator("aten::_flash_attention_forward")

extension DecoderLayers {
    /// A part of a prompt.
    struct Chunk {
        /// Its tokens on the device, int32.
        let tokens: Tensor
        /// Tokens of the sequence before them, in the cache already.
        let position: Int
        /// The sequence's row of `tables`, which name pages for all of these.
        let slot: Int
        /// Pages by slot, int32.
        let tables: Tensor
    }

    /// Queues the embeddings of a chunk; they lie in the first rows of the buffers' residual stream.
    func prefillEmbedding(_ chunk: Chunk, on stream: CUDAStream) throws {
        try products.elementwise.gatherRows(
            weights.embedding, ids: chunk.tokens,
            into: buffers.residual.narrow(0, 0..<chunk.tokens.count), on: stream)
    }

    /// Queues layer `index` over a chunk: its keys and values go to the pages, its outputs to the residual
    /// stream.
    ///
    /// - Parameter readsOnly: Whether the keys and values are all that is wanted.
    func prefillLayer(
        _ index: Int, _ chunk: Chunk, readsOnly: Bool = false, on stream: CUDAStream
    ) throws {
        let (layer, wide) = (weights.layers[index], wide[index])
        let rows = try LayerRows(buffers, chunk.tokens.count)
        try norm(rows.residual, layer.inputNorm, through: rows.normed, on: stream)
        try wide.qkv(rows.normed, into: rows.qkv, adding: false, on: stream)
        if readsOnly {
            _ = try write(index, rows.qkv, chunk, on: stream)
            return
        }
        try attend(index, rows, chunk, on: stream)
        try wide.output(rows.attended, into: rows.residual, adding: true, on: stream)
        try norm(rows.residual, layer.postNorm, through: rows.normed, on: stream)
        try wide.gateUp.gated(rows.normed, through: rows.gateUp, into: rows.gated, on: stream)
        try wide.down(rows.gated, into: rows.residual, adding: true, on: stream)
    }

    private func norm(
        _ x: Tensor, _ weight: Tensor, through room: Tensor, on stream: CUDAStream
    ) throws {
        let epsilon = weights.architecture.epsilon
        try products.norm(x, .init(weight, epsilon: epsilon, through: room)).queue(stream)
    }

    /// Writes a chunk's keys and values to the pages of layer `index`.
    ///
    /// - Parameters:
    ///   - qkv: bfloat16 `[chunk, projections]`.
    ///   - keys: Room for the chunk's own; `nil`: in the pages alone. `values` likewise.
    /// - Returns: The queries, `[chunk, heads, head dim]`.
    func write(
        _ index: Int, _ qkv: Tensor, _ chunk: Chunk, keys: Tensor? = nil, values: Tensor? = nil,
        on stream: CUDAStream
    ) throws -> Tensor {
        let layer = weights.layers[index]
        let queries = try buffers.queries.narrow(0, 0..<qkv.shape[0])
        try keyValues.write(
            projections: qkv, queryNorm: layer.queryNorm, keyNorm: layer.keyNorm,
            frequencies: weights.frequencies, pages: cache.layers[index], table: chunk.tables,
            request: chunk.slot, position: chunk.position, queries: queries, keys: keys,
            values: values, on: stream)
        return queries
    }

    /// Attention of a chunk over the sequence's tokens up to its own.
    private func attend(
        _ index: Int, _ rows: LayerRows, _ chunk: Chunk, on stream: CUDAStream
    ) throws {
        let count = rows.qkv.shape[0]
        let length = chunk.position + count
        // A first chunk is all there is to see; later ones read the pages back.
        let isFirst = chunk.position == 0
        let keys = try buffers.keys.narrow(0, 0..<length)
        let values = try buffers.values.narrow(0, 0..<length)
        let queries = try write(
            index, rows.qkv, chunk, keys: isFirst ? keys : nil, values: isFirst ? values : nil,
            on: stream)
        if !isFirst {
            try keyValues.gather(
                pages: cache.layers[index], table: chunk.tables, request: chunk.slot, keys: keys,
                values: values, on: stream)
        }
        // Causal masks are aligned at the end where there are more keys than queries.
        let results = try flashOperator.tensors(
            .tensor(queries.unsqueeze(0)), .tensor(keys.unsqueeze(0)),
            .tensor(values.unsqueeze(0)), .none, .none, .int(count), .int(length), .double(0),
            .bool(true), .bool(false))
        try rows.attended.copy(from: results[0].reshape(rows.attended.shape))
    }
}
