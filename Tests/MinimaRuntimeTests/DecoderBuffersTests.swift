import MinimaCore
import MinimaKernels
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Layouts and buffers of the decoder")
struct DecoderBuffersTests {
    private let sizes = DecoderDimensions(
        layers: 3, hiddenSize: 48, heads: 6, keyValueHeads: 2, headDim: 64, intermediateSize: 80,
        vocabularySize: 101)

    @Test(arguments: [
        (0, [1]), (1, [1]), (2, [1, 2]), (3, [1, 2, 4]), (8, [1, 2, 4, 8]),
        (9, [1, 2, 4, 8, 16]), (64, [1, 2, 4, 8, 16, 24, 32, 48, 64]),
        (200, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256]),
        (300, [1, 2, 4, 8, 16, 24, 32, 48, 64, 96, 128, 192, 256, 300]),
    ])
    func buckets(slots: Int, buckets: [Int]) {
        let layout = CUDALayout(slots: slots, context: 100)
        #expect(layout.buckets == buckets)
        #expect(layout.largestBucket == buckets.last && layout.largestBucket >= slots)
        let fixed = CUDALayout(slots: slots, context: 100, isDeterministic: true)
        #expect(fixed.buckets == buckets.suffix(1))
        #expect(CUDALayout(slots: slots, context: 1, buckets: [5, 9]).buckets == [5, 9])
    }

    @Test(arguments: [(1, 1), (63, 1), (64, 1), (65, 2), (8192, 128), (8193, 129)])
    func pages(context: Int, pages: Int) {
        let layout = CUDALayout(slots: 5, context: context)
        #expect(layout.pagesPerSlot == pages && layout.pageCount == 5 * pages)
        #expect(CUDALayout(slots: 5, context: context, pages: 7).pageCount == 7)
    }

    /// What a layout's buffers are predicted to hold is what they hold.
    @Test(arguments: [
        (CUDALayout(slots: 1, context: 1, chunk: 16), false, 0, 0),
        (CUDALayout(slots: 20, context: 130, chunk: 16), true, 200, 0),
        (CUDALayout(slots: 5, context: 200, chunk: 64), false, 33, 4001),
        (CUDALayout(slots: 40, context: 64, chunk: 32, isDeterministic: true), true, 7, 12),
    ])
    func bytes(layout: CUDALayout, gathers: Bool, results: Int, expanded: Int) throws {
        let shapes = DecoderBuffers.Shapes(
            sizes, gathersGates: gathers, largestResults: results, largestExpanded: expanded,
            layout: layout)
        let buffers = try DecoderBuffers(shapes, device: .cpu)
        func bytes(_ tensor: Tensor) -> Int { tensor.count * tensor.dtype.byteCount }
        var held = 0
        for child in Mirror(reflecting: buffers).children {
            held += ((child.value as? Tensor) ?? (child.value as? Tensor?) ?? nil).map(bytes) ?? 0
        }
        #expect(bytes(buffers.logits) == shapes.logitBytes)
        #expect(held == shapes.byteCount + shapes.logitBytes)
        #expect((buffers.expanded == nil) == (expanded == 0))
        // A chunk and the largest step fit, and so does the longest sequence, in whole pages.
        let rows = max(layout.chunk, layout.largestBucket)
        #expect(buffers.residual.shape == [rows, 48] && buffers.normed.shape == [rows, 48])
        #expect(buffers.qkv.shape == [rows, 10 * 64] && buffers.queries.shape == [rows, 6, 64])
        #expect(buffers.gateUp.shape == [gathers ? 0 : rows, 160])
        #expect(buffers.factored.count >= rows * results)
        #expect(buffers.keys.shape[0] >= layout.context && buffers.keys.shape[0] % 64 == 0)
        #expect(buffers.logits.shape == [layout.largestBucket, 101])
    }

    /// What sampling is predicted to hold is what it holds, masks among it.
    @Test(arguments: [(1, 31, 1, 0), (3, 101, 4, 0), (7, 151_936, 1, 50), (2, 64, 8, 9)])
    func samplingBytes(slots: Int, vocabulary: Int, places: Int, sequence: Int) throws {
        for keepsHistory in [true, false] {
            let state = try SamplingState(
                slots: slots, vocabulary: vocabulary, places: places, sequenceLength: sequence,
                keepsHistory: keepsHistory, device: .cpu)
            #expect(
                state.heldBytes
                    == SamplingState.bytes(
                        slots: slots, vocabulary: vocabulary, places: places,
                        sequenceLength: sequence, keepsHistory: keepsHistory))
            #expect(state.masks.shape == [slots, 1 + (vocabulary + 31) / 32])
        }
        let row = SamplingState.maskRow([1, .max])
        #expect(row == [1, 1, -1] && SamplingState.maskRow(nil) == [0])
    }
}

@Suite("Orders of interpolated outputs")
struct WideOrderTests {
    @Test(arguments: [
        ([], 3, [0, 1, 2]), ([0, 1, 2], 3, [0, 1, 2]), ([1], 3, [1, 0, 2]),
        ([0, 3], 5, [0, 2, 3, 1, 4]), ([2, 4], 5, [2, 3, 0, 4, 1]), ([], 0, []),
    ])
    func places(pivots: [Int], outputs: Int, expected: [Int32]) {
        #expect(WideProducts.order(pivots, outputs: outputs) == expected)
    }

    /// Results side by side, pivots first, read at these places are the outputs in order.
    @Test func gathering() {
        var state: UInt64 = 1
        for outputs in [1, 7, 64, 301] {
            for _ in 0..<20 {
                let pivots = (0..<outputs).filter { _ in
                    state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
                    return state >> 62 == 0
                }
                let chosen = Set(pivots)
                let results = pivots + (0..<outputs).filter { !chosen.contains($0) }
                let order = WideProducts.order(pivots, outputs: outputs)
                #expect(order.map { results[Int($0)] } == Array(0..<outputs))
            }
        }
    }
}
