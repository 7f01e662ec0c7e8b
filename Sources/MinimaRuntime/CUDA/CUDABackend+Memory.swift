import MinimaCore
import MinimaKernels
import MinimaTensor

extension CUDABackend {
    /// What the engine was predicted to hold on the device.
    public var memory: DecodeMemory { memorySizes.prediction(decoder.layout) }

    /// Writes keys and values of random projections for a sequence, as reading a prompt would: to
    /// measure steps of many requests without reading all of their prompts.
    func fill(_ slot: Int, tokens count: Int, pages: [Int32]) throws {
        let (layers, most) = (decoder.layers, decoder.layout.chunk)
        let stream = decoder.stream
        try upload(pages: pages, of: slot)
        try stream.use {
            let generator = try RandomGenerator(
                seed: UInt64(slot), device: decoder.kernels.device)
            let qkv = layers.buffers.qkv
            try qkv.copy(
                from: .randn(
                    qkv.shape, dtype: .bfloat16, device: qkv.device, generator: generator))
            for index in layers.weights.layers.indices {
                for position in stride(from: 0, to: count, by: most) {
                    let rows = 0..<min(most, count - position)
                    let chunk = DecoderLayers.Chunk(
                        tokens: try decoder.chunkTokens.narrow(0, rows), position: position,
                        slot: slot, tables: decoder.tables)
                    _ = try layers.write(index, qkv.narrow(0, rows), chunk, on: stream)
                }
            }
        }
        try stream.synchronize()
    }
}
