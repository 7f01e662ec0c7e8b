import MinimaCore
import MinimaKernels
import MinimaTensor

extension CUDABackend {
    /// What the engine was predicted to hold on the device.
    public var memory: DecodeMemory {
        let weights = decoder.weights
        return DecodeMemory(
            weights.architecture.dimensions, weightBytes: weights.byteCount,
            attention: decoder.keyValues.shape,
            buffers: decoder.shapes, layout: decoder.layout,
            draftBytes: decoder.drafter?.byteCount ?? 0,
            workspace: decoder.workspace.bytes + decoder.attentionWorkspace.bytes)
    }

    /// Writes keys and values of random projections for a sequence, as reading a prompt would: to
    /// measure steps of many requests without reading all of their prompts.
    func fill(_ slot: Int, tokens count: Int, pages: [Int32]) throws {
        let (weights, chunk) = (decoder.weights, decoder.layout.chunk)
        let stream = decoder.stream
        try upload(pages: pages, of: slot)
        try stream.use {
            let generator = try RandomGenerator(
                seed: UInt64(slot), device: decoder.kernels.device)
            let qkv = decoder.buffers.qkv
            try qkv.copy(
                from: .randn(
                    qkv.shape, dtype: .bfloat16, device: qkv.device, generator: generator))
            for (index, layer) in weights.layers.enumerated() {
                for position in stride(from: 0, to: count, by: chunk) {
                    let rows = 0..<min(chunk, count - position)
                    try decoder.keyValues.write(
                        projections: qkv.narrow(0, rows), queryNorm: layer.queryNorm,
                        keyNorm: layer.keyNorm, frequencies: weights.frequencies,
                        pages: decoder.cache.layers[index], table: decoder.tables, request: slot,
                        position: position, queries: decoder.buffers.queries.narrow(0, rows),
                        on: stream)
                }
            }
        }
        try stream.synchronize()
    }
}

extension DecodeMemory {
    /// What an engine of this layout holds.
    ///
    /// - Parameter draftBytes: Of what proposes tokens: its weights, cache and buffers.
    init(
        _ sizes: DecoderDimensions, weightBytes: Int, attention: AttentionShape,
        buffers: DecoderBuffers.Shapes, layout: CUDALayout, draftBytes: Int = 0, workspace: Int
    ) {
        self.init(
            weights: weightBytes,
            cache: PagedKeyValues.bytes(
                layers: sizes.layers, pages: layout.pageCount, shape: attention,
                format: layout.format),
            activations: buffers.byteCount + draftBytes
                + SamplingState.bytes(
                    slots: layout.slots, vocabulary: sizes.vocabularySize,
                    places: layout.mostDraftTokens + 1, sequenceLength: layout.sequenceLength),
            workspace: workspace, logits: buffers.logitBytes)
    }
}
