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

    @Test func hugeSizesSaturate() {
        let huge = DecoderDimensions(
            layers: .max, hiddenSize: .max, heads: .max, keyValueHeads: .max, headDim: .max,
            intermediateSize: .max, vocabularySize: .max)
        #expect(huge.linearParameters == .max)
        let memory = DecodeMemory(
            weights: .max, cache: .max, activations: 1, workspace: .max, logits: 0)
        #expect(memory.total == .max)
        let traffic = DecodeTraffic(
            huge, weightBytes: .max, cacheType: .bfloat16, context: .max, requests: .max)
        #expect(traffic.total == 3 * Double(Int.max))
        #expect(huge.prefillFlops(tokens: .max).isFinite)
    }
}
