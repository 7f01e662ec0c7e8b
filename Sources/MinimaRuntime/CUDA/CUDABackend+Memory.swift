import MinimaCore
import MinimaKernels
import MinimaTensor

extension CUDABackend {
    /// What the engine was predicted to hold on the device.
    public var memory: DecodeMemory { memorySizes.prediction(decoder.layout) }

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
