import MinimaCore
import Testing

@Suite struct DecodeTrafficTests {
    private let qwen = BenchSample.qwen32B
    /// Bytes per second that a large read reaches on an H200.
    private let bandwidth = 4.3e12

    @Test func sizesOfQwen32B() {
        #expect(qwen.sites.map(\.name) == ["qkv_proj", "o_proj", "gate_up_proj", "down_proj"])
        #expect(qwen.sites.map(\.outputs) == [10_240, 5_120, 51_200, 5_120])
        #expect(qwen.sites.map(\.inputs) == [5_120, 8_192, 5_120, 25_600])
        #expect(qwen.linearParameters == 31_205_621_760)
        #expect(qwen.headParameters == 777_912_320)
        #expect(qwen.cacheBytesPerToken(.bfloat16) == 256 << 10)
        #expect(qwen.cacheBytesPerToken(.float8e4m3) == 128 << 10)
    }

    /// Weights that a step reads in GB, and published tokens/s per request at 8K: one request with
    /// bfloat16 keys and values, 50 with them, 50 with FP8 ones. Bytes are rounded to 0.1 GB there,
    /// tokens/s to 1.
    @Test(arguments: [
        (64.0, 65.0, 25.0, 37.0), (40.0, 102, 29, 46), (32.5, 124, 31, 50), (20.3, 191, 34, 58),
        (17.4, 220, 34, 61), (11.0, 327, 36, 67),
    ])
    func tokensPerSecondOfQwen32B(read: Double, one: Double, many: Double, manyFP8: Double) {
        for (requests, type, expected) in [
            (1, DType.bfloat16, one), (50, .bfloat16, many), (50, .float8e4m3, manyFP8),
        ] {
            func tokens(_ gigabytes: Double) -> Double {
                let traffic = DecodeTraffic(
                    qwen, weightBytes: Int((gigabytes * 1e9).rounded()), cacheType: type,
                    context: 8_192, requests: requests)
                return bandwidth / traffic.total
            }
            #expect(tokens(read + 0.05) <= expected + 0.5, "\(read) \(requests) \(type)")
            #expect(tokens(read - 0.05) >= expected - 0.5, "\(read) \(requests) \(type)")
        }
    }

    @Test func aStepMovesWhatIsListed() {
        let traffic = DecodeTraffic(
            qwen, weightBytes: 7, cacheType: .float8e4m3, context: 100, requests: 3)
        #expect(traffic.weights == 7)
        #expect(traffic.cache == 3 * 100 * (128 << 10))
        // A token's keys and values, and 5,120 numbers of two bytes.
        #expect(traffic.other == 3 * (128 << 10 + 10_240))
        #expect(traffic.total == Double(7 + traffic.cache + traffic.other))
    }

    @Test func aPromptOf8KTakes582TFLOP() {
        #expect((581.5e12..<582.5e12).contains(qwen.prefillFlops(tokens: 8_192)))
        let half = qwen.prefillFlops(
            tokens: 8_192, linearParameters: qwen.linearParameters / 2)
        let saved = qwen.prefillFlops(tokens: 8_192) - half
        #expect(abs(saved - Double(qwen.linearParameters) * 8_192) < 1)
        #expect(
            qwen.prefillFlops(tokens: 1)
                == 2 * Double(qwen.linearParameters + qwen.headParameters) + 4 * 64 * 8_192)
    }

    // MARK: Memory

    private func layout(_ requests: Int, _ type: DType = .bfloat16) -> DecodeMemory.Layout {
        .init(
            requests: requests, context: 8_192, cacheType: type, pageTokens: 64, chunk: 2_048,
            splits: 16, workspace: 32 << 20)
    }

    @Test func memoryIsTheSumOfItsBuffers() {
        let memory = DecodeMemory(qwen, weightBytes: 1_000, layout: layout(2))
        #expect(memory.weights == 1_000)
        #expect(memory.cache == 2 * 8_192 * (256 << 10))
        #expect(memory.workspace == 32 << 20)
        #expect(memory.logits == 2 * 4 * 151_936)
        let row = 2 * (2 * 5_120 + 10_240 + 8_192 + 51_200 + 25_600)
        let gathered = 2 * 2 * 8_192 * 8 * 128
        #expect(memory.activations == 2_050 * row + gathered + 4 * 2 * 16 * 64 * 130)
        #expect(
            memory.total
                == 1_000 + memory.cache + memory.activations + memory.workspace + memory.logits)
        var factored = layout(2)
        factored.largestRank = 3_072
        factored.expandsWeights = true
        let more = DecodeMemory(qwen, weightBytes: 1_000, layout: factored)
        #expect(
            more.activations - memory.activations == 2_050 * 2 * 3_072 + 2 * 51_200 * 5_120)
    }

    @Test func aRequestTakesWholePages() {
        var odd = layout(3)
        odd.context = 65
        let memory = DecodeMemory(qwen, weightBytes: 0, layout: odd)
        #expect(memory.cache == 3 * 128 * (256 << 10))
    }

    /// Published GiB of weights and cache at 50 requests of 8K, rounded to 1.
    @Test(arguments: [
        (65.5, DType.bfloat16, 161.0), (65.5, .float8e4m3, 111), (41.6, .bfloat16, 139),
        (41.6, .float8e4m3, 89),
    ])
    func fiftyRequestsTakeWhatIsPublished(weights: Double, type: DType, gibibytes: Double) {
        let memory = DecodeMemory(qwen, weightBytes: Int(weights * 1e9), layout: layout(50, type))
        let published = Double(memory.weights + memory.cache) / Double(1 << 30)
        #expect(abs(published - gibibytes) <= 0.5 + 0.05e9 / Double(1 << 30))
    }

    /// 64 GiB for dense and 42 for 35 % less are what one request of 8K has to stay within.
    @Test func oneRequestStaysWithinItsLimit() {
        let dense = DecodeMemory(qwen, weightBytes: 65_524_246_528, layout: layout(1))
        #expect(dense.total < 64 << 30)
        let small = DecodeMemory(qwen, weightBytes: 41_600_000_000, layout: layout(1))
        #expect(small.total < 42 << 30)
    }

    @Test func hugeSizesSaturate() {
        let huge = DecoderDimensions(
            layers: .max, hiddenSize: .max, heads: .max, keyValueHeads: .max, headDim: .max,
            intermediateSize: .max, vocabularySize: .max)
        #expect(huge.linearParameters == .max)
        #expect(DecodeMemory(huge, weightBytes: .max, layout: layout(.max)).total == .max)
        let traffic = DecodeTraffic(
            huge, weightBytes: .max, cacheType: .bfloat16, context: .max, requests: .max)
        #expect(traffic.total == 3 * Double(Int.max))
        #expect(huge.prefillFlops(tokens: .max).isFinite)
    }
}
