import MinimaCore
import MinimaTensor

@testable import MinimaKernels

/// Weights, tables and references that the tests of attention share.
struct AttentionFixture {
    let shape: AttentionShape
    let format: KeyValueFormat
    let context: CUDAContext
    let stream: CUDAStream
    let kernels: KeyValueKernels
    let queryNorm: Tensor?
    let keyNorm: Tensor?
    let frequencies: Tensor

    init(
        _ shape: AttentionShape, _ format: KeyValueFormat, _ context: CUDAContext,
        _ stream: CUDAStream
    ) throws {
        self.shape = shape
        self.format = format
        self.context = context
        self.stream = stream
        kernels = try KeyValueKernels(shape, format: format, context: context)
        func weights(_ seed: UInt64) throws -> Tensor? {
            guard shape.normalisesQueriesAndKeys else { return nil }
            let noise = try Tensor.randn(
                [shape.headDim], generator: RandomGenerator(seed: seed, device: .cpu))
            return try (noise * 0.3 + 1).to(context.device, dtype: .bfloat16)
        }
        queryNorm = try weights(1)
        keyNorm = try weights(2)
        // 10,000^(-i / half), i < half.
        let half = shape.rotaryDim / 2
        let steps = try Tensor.arange(0..<half, dtype: .float32) * (-9.2103404 / Double(half))
        frequencies = try steps.exp().to(context.device)
    }

    func random(_ shape: [Int], _ seed: UInt64) throws -> Tensor {
        try Tensor.randn(
            shape, device: context.device,
            generator: RandomGenerator(seed: seed, device: context.device)
        ).to(dtype: .bfloat16)
    }

    func poisoned(_ shape: [Int]) throws -> Tensor {
        try Tensor.full(shape, .nan, dtype: .bfloat16, device: context.device)
    }

    /// Pages full of NaN, and page tables of requests of these lengths in shuffled pages.
    func pages(_ lengths: [Int]) throws -> (pages: Tensor, table: Tensor, columns: Int) {
        let counts = lengths.map { PagedKeyValues.pages(forTokens: $0) }
        let columns = max(1, counts.max() ?? 1)
        let total = counts.reduce(0, +)
        let cache = try PagedKeyValues(
            layers: 1, pages: total + 1, shape: shape, format: format, device: context.device)
        // In both formats bytes of ones are NaN.
        try stream.fill(cache.layers[0], byte: 0xFF)
        var generator = SplitMix(5)
        var free = (1...Int32(total + 1)).map { $0 - 1 }.shuffled(using: &generator)
        var table: [Int32] = []
        for count in counts {
            table += free.suffix(count) + [Int32](repeating: 0, count: columns - count)
            free.removeLast(count)
        }
        let rows = try Tensor(table, shape: [lengths.count, columns]).to(context.device)
        return (cache.layers[0], rows, columns)
    }

    /// Writes `projections` of a request at `position`; its queries, keys and values.
    func write(
        _ projections: Tensor, at position: Int, request: Int, pages: Tensor, table: Tensor
    ) throws -> (queries: Tensor, keys: Tensor, values: Tensor) {
        let count = projections.shape[0]
        let queries = try poisoned([count, shape.heads, shape.headDim])
        let keys = try poisoned([count, shape.kvHeads, shape.headDim])
        let values = try poisoned([count, shape.kvHeads, shape.headDim])
        try kernels.write(
            projections: projections, queryNorm: queryNorm, keyNorm: keyNorm,
            frequencies: frequencies, pages: pages, table: table, request: request,
            position: position, queries: queries, keys: keys, values: values, on: stream)
        return (queries, keys, values)
    }

    /// The first `length` keys and values of a request.
    func gather(
        _ length: Int, request: Int, pages: Tensor, table: Tensor
    ) throws -> (keys: Tensor, values: Tensor) {
        let keys = try poisoned([length, shape.kvHeads, shape.headDim])
        let values = try poisoned([length, shape.kvHeads, shape.headDim])
        try kernels.gather(
            pages: pages, table: table, request: request, keys: keys, values: values, on: stream)
        return (keys, values)
    }

    /// Heads `[token, head, headDim]` normalised and rotated by libtorch, with bfloat16's rounding
    /// after each step.
    func reference(_ heads: Tensor, norm: Tensor?, at position: Int) throws -> Tensor {
        var x = heads
        if let norm {
            let exact = try x.to(dtype: .float32)
            let mean = try exact.square().mean([-1], keepDims: true)
            x = try (exact / (mean + shape.epsilon).sqrt()).to(dtype: .bfloat16) * norm
        }
        let count = x.shape[0]
        let positions = try Tensor.arange(
            position..<position + count, dtype: .float32, device: context.device)
        let angles = try positions.unsqueeze(1) * frequencies
        let cosines = try (angles.cos() * shape.ropeScaling).to(dtype: .bfloat16).unsqueeze(1)
        let sines = try (angles.sin() * shape.ropeScaling).to(dtype: .bfloat16).unsqueeze(1)
        let half = shape.rotaryDim / 2
        let first = try x.narrow(2, 0..<half)
        let second = try x.narrow(2, half..<2 * half)
        return try Tensor.cat(
            [
                first * cosines - second * sines, second * cosines + first * sines,
                x.narrow(2, 2 * half..<shape.headDim),
            ], dim: 2)
    }

    /// Softmax attention in float64 of the last tokens of a request over all of them.
    ///
    /// - Parameter sees: Whether a token sees a place; `nil`: all up to its own.
    /// - Returns: `[token, heads · headDim]` each: the sums, and the largest error that the kernel's
    ///   roundings can make of them.
    func attention(
        queries: Tensor, keys: Tensor, values: Tensor,
        sees: ((_ token: Int, _ place: Int) -> Bool)? = nil
    ) throws -> (result: [Double], bound: [Double]) {
        let (count, length) = (queries.shape[0], keys.shape[0])
        let (group, dim) = (shape.heads / shape.kvHeads, shape.headDim)
        let q = try queries.to(dtype: .float64)
            .reshape([count, shape.kvHeads, group, dim]).permute([1, 0, 2, 3])
            .reshape([shape.kvHeads, count * group, dim])
        let k = try keys.to(dtype: .float64).permute([1, 2, 0])
        let v = try values.to(dtype: .float64).permute([1, 0, 2])
        let scores = try q.matmul(k) * shape.scale
        let hidden = (0..<count).flatMap { token in
            (0..<group).flatMap { _ in
                (0..<length).map { place in
                    sees?(token, place) ?? (place <= length - count + token) ? UInt8(0) : 1
                }
            }
        }
        let mask = try Tensor(hidden, shape: [count * group, length])
            .to(context.device, dtype: .bool)
        let weights = try scores.maskedFill(mask, -.infinity).softmax()
        func flat(_ x: Tensor) throws -> [Double] {
            try x.reshape([shape.kvHeads, count, group, dim]).permute([1, 0, 2, 3])
                .reshape([-1]).values()
        }
        let result = try flat(weights.matmul(v))
        let size = try flat(weights.matmul(v.abs()))
        // float32 sums of `dim` products for the scores; weights rounded to bfloat16 (2⁻⁸ of
        // themselves at most) or float16 (2⁻¹¹); results rounded to bfloat16. The exponential's 2⁻²²
        // and the sums' float32 vanish beside them.
        let largest = try q.abs().matmul(k.abs()).max().item() * shape.scale
        let scoreError = 0x1p-23 * Double(dim) * largest + 0x1p-20
        let weightError = format == .float8 ? 0x1p-11 : 0x1p-8
        let bound = zip(result, size).map { result, size in
            (weightError + 2 * scoreError) * size * 1.01 + 0x1p-8 * abs(result) + 1e-30
        }
        return (result, bound)
    }
}
