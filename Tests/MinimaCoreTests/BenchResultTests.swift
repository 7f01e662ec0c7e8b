import MinimaCore
import Testing

enum BenchSample {
    static let qwen32B = DecoderDimensions(
        layers: 64, hiddenSize: 5_120, heads: 64, keyValueHeads: 8, headDim: 128,
        intermediateSize: 25_600, vocabularySize: 151_936)

    static func spread(_ median: Double) -> BenchResult.Spread {
        .init(median: median, lowest: 0.75 * median, highest: 1.5 * median, repetitions: 5)
    }

    static var dense: BenchResult.Run {
        .init(
            label: "dense bf16", parameters: 32_762_123_264, weightBytes: 65_524_246_528,
            cacheType: .bfloat16, context: 8_192, requests: 1, steps: 64, step: spread(0.0160),
            graph: spread(0.0159), firstToken: spread(1.25),
            prefill: .init(tokens: 8_192, chunk: 2_048, seconds: spread(1.2), flops: 6e14),
            peakBytes: 68_000_000_000,
            predictedMemory: .init(
                weights: 65_524_246_528, cache: 2_147_483_648, activations: 300_000_000,
                workspace: 33_554_432, logits: 607_744),
            traffic: .init(weights: 60_000_000_000, cache: 2_000_000_000, other: 0),
            kernels: [
                .init(name: "qkv", launches: 64, bytes: 6_000_000_000, seconds: 0.002),
                .init(name: "gate_up", launches: 64, bytes: 33_000_000_000, seconds: 0.0125),
            ],
            settings: ["bucket": "1", "somePlan": "x"])
    }

    static var result: BenchResult {
        BenchResult(
            version: "0.1.0", model: "qwen3-32b", dimensions: qwen32B,
            card: .init(
                name: "NVIDIA H200", architecture: "sm_90a", driver: "580.82",
                memoryBytes: 150_000_000_000, multiprocessors: 132,
                readBandwidth: spread(4e12), copyBandwidth: spread(4.2e12),
                matrixRate: spread(8e14)),
            seed: .max, command: "minima bench --shape qwen3-32b", versions: ["libtorch": "2.11.0"],
            runs: [dense])
    }
}

@Suite struct BenchResultTests {
    /// A step that makes several tokens may take as much longer for each byte it moves.
    @Test func speculationCountsTokens() {
        var result = BenchSample.result
        let plain = result.figures[0]
        result.runs[0].speculation = .init(
            draft: "ngram", draftTokens: 3, acceptanceLength: 2, addedBytes: 0,
            round: .init(seconds: 0.001, bytes: 2_000_000_000),
            verification: .init(seconds: 0.0155, bytes: 62_000_000_000))
        result.runs[0].step = BenchSample.spread(0.0080)
        let figures = result.figures[0]
        #expect(figures.tokensPerSecond == 125)
        #expect(figures.rooflineShare == plain.rooflineShare)
        #expect(figures.bytesPerSecond == plain.bytesPerSecond)
        // Kernels and what is outside the graph belong to the whole step.
        #expect(figures.unexplainedSeconds == plain.unexplainedSeconds)
        #expect(abs((figures.hostSeconds ?? 0) - 0.0001) < 1e-12)
        let kernel = result.figures(result.runs[0].kernels[0], in: result.runs[0])
        #expect(abs((kernel.stepShare ?? 0) - 0.125) < 1e-12)
        #expect(result.runs[0].speculation?.words == "K = 3, 2.00 tokens per step")
        result.runs[0].speculation?.simulatedLength = 1e300
        #expect(
            result.runs[0].speculation?.words == "K = 3, 1000000.00 tokens per step simulated")
        result.runs[0].speculation?.simulatedLength = 2
        result.runs[0].speculation?.shares = [0: 0.25, 3: 0.75]
        #expect(
            result.runs[0].speculation?.words == "K = auto to 3, 2.00 tokens per step simulated")
        let part = result.runs[0].speculation?.round
        #expect(part.flatMap { result.share($0) } == 0.5)
        #expect(result.share(.init(seconds: 0, bytes: 1)) == nil)
    }

    @Test func itIsReadBackAsItWasWritten() throws {
        var result = BenchSample.result
        #expect(try BenchResult(json: result.json()) == result)
        #expect(try JSON(parsing: result.json())["kind"]?.string == "bench")
        result.runs[0].speculation = .init(
            draft: "random", draftTokens: 5, acceptanceLength: 2.79, simulatedLength: 2.8,
            addedBytes: 2_000_000_000, round: .init(seconds: 0.002, bytes: 7_000_000_000),
            verification: .init(seconds: 0.017, bytes: 62_000_000_000))
        #expect(try BenchResult(json: result.json()) == result)
        // Keys that no style of names applies to.
        result.runs[0].speculation?.shares = [0: 0.25, 5: 0.5, -12: 0.125, .min: 0.125, .max: 1]
        result.card.readers = [
            "streaming loads": BenchSample.spread(4e12), "someCopy": BenchSample.spread(3e12),
            "bulk_copy": BenchSample.spread(2e12), "": BenchSample.spread(1e12),
        ]
        #expect(try BenchResult(json: result.json()) == result)
        let document = try JSON(parsing: result.json())
        #expect(document["card"]?["readers"]?["someCopy"]?["median"]?.double == 3e12)
        let shares = document["runs"]?.array?.first?["speculation"]?["shares"]
        #expect(shares?["5"]?.double == 0.5 && shares?["-12"]?.double == 0.125)
        result.runs[0].graph = nil
        result.runs[0].firstToken = nil
        result.runs[0].prefill = nil
        result.runs[0].peakBytes = nil
        result.runs[0].predictedMemory = nil
        result.runs[0].kernels = []
        #expect(try BenchResult(json: result.json()) == result)
        result.runs[0].step.median = .infinity
        result.card.matrixRate.lowest = -.infinity
        #expect(try BenchResult(json: result.json()) == result)
        result.runs = []
        #expect(try BenchResult(json: result.json()) == result)
    }

    @Test func keysAreThoseThatThePeerWrites() throws {
        let document = try JSON(parsing: BenchSample.result.json())
        let run = try #require(document["runs"]?.array?.first)
        #expect(run["cache_type"]?.string == "BF16")
        #expect(run["first_token"]?["median"]?.double == 1.25)
        #expect(run["prefill"]?["seconds"]?["repetitions"]?.int == 5)
        #expect(run["predicted_memory"]?["logits"]?.int == 607_744)
        #expect(run["settings"]?["somePlan"]?.string == "x")
        #expect(document["dimensions"]?["key_value_heads"]?.int == 8)
        #expect(document["card"]?["read_bandwidth"]?["median"]?.double == 4e12)
        // Readers of the file find what follows from the rest.
        let figures = try #require(document["figures"]?.array?.first)
        #expect(figures["tokens_per_second"]?.double == 62.5)
        #expect(figures["label"]?.string == "dense bf16")
    }

    @Test func storedFiguresAreNotBelieved() throws {
        let text = try BenchSample.result.json().replacing("62.5", with: "1e9")
        #expect(
            try JSON(parsing: text)["figures"]?.array?.first?["tokens_per_second"]?.double == 1e9)
        #expect(try BenchResult(json: text).figures.first?.tokensPerSecond == 62.5)
    }

    @Test func figuresFollowFromTimesAndBytes() throws {
        let result = BenchSample.result
        let figures = try #require(result.figures.first)
        #expect(figures.tokensPerSecond == 62.5 && figures.totalTokensPerSecond == 62.5)
        // 62 GB at 4 TB/s: 15.5 ms of 16.
        #expect(abs((figures.rooflineTokensPerSecond ?? 0) - 1 / 0.0155) < 1e-9)
        #expect(abs((figures.rooflineShare ?? 0) - 15.5 / 16) < 1e-12)
        #expect(abs((figures.bytesPerSecond ?? 0) - 62e9 / 0.016) < 1)
        #expect(abs((figures.prefillFlopsPerSecond ?? 0) - 5e14) < 1)
        #expect(abs((figures.prefillShare ?? 0) - 0.625) < 1e-12)
        #expect(abs((figures.peakShare ?? 0) - 68e9 / 68_005_892_352) < 1e-12)
        #expect(abs((figures.kernelSeconds ?? 0) - 0.0145) < 1e-12)
        #expect(abs((figures.unexplainedSeconds ?? 0) - 0.0014) < 1e-12)
        #expect(abs((figures.hostSeconds ?? 0) - 0.0001) < 1e-12)
        let kernel = result.figures(result.runs[0].kernels[0], in: result.runs[0])
        #expect(abs((kernel.bytesPerSecond ?? 0) - 3e12) < 1)
        #expect(abs((kernel.bandwidthShare ?? 0) - 0.75) < 1e-12)
        #expect(abs((kernel.stepShare ?? 0) - 0.125) < 1e-12)

        var many = result
        many.runs[0].requests = 50
        many.runs[0].graph = nil
        #expect(many.figures[0].tokensPerSecond == 62.5)
        #expect(many.figures[0].totalTokensPerSecond == 3_125)
        #expect(many.figures[0].hostSeconds == nil)
        #expect(abs((many.figures[0].unexplainedSeconds ?? 0) - 0.0015) < 1e-12)
        many.runs[0].kernels = []
        #expect(many.figures[0].kernelSeconds == nil)
        #expect(many.figures[0].unexplainedSeconds == nil)
    }

    @Test(arguments: [0, -1, Double.nan, .infinity, .leastNonzeroMagnitude])
    func whatDoesNotFollowIsAbsent(seconds: Double) {
        var result = BenchSample.result
        result.runs[0].step.median = seconds
        let figures = result.figures[0]
        #expect(figures.tokensPerSecond == (seconds == .infinity ? 0 : nil))
        #expect(figures.rooflineTokensPerSecond != nil)
        result.card.readBandwidth.median = seconds
        #expect(result.figures[0].rooflineShare == nil)
    }

    @Test func aSpreadIsTheMiddleAndTheEnds() {
        #expect(BenchResult.Spread([]) == nil)
        #expect(
            BenchResult.Spread([3, 1, 2])
                == .init(median: 2, lowest: 1, highest: 3, repetitions: 3))
        #expect(
            BenchResult.Spread([4, 1, 2, 8])
                == .init(median: 3, lowest: 1, highest: 8, repetitions: 4))
    }

    @Test func aPeerOfTheSameCardAndModelJoins() throws {
        var result = BenchSample.result
        var peer = BenchSample.result
        peer.command = "decode_transformers.py"
        peer.versions = ["transformers": "5.17.0", "torch": "2.11.0"]
        peer.runs[0].engine = "transformers"
        peer.runs[0].versions = ["torch": "2.12.0"]
        try result.add(peer: peer)
        #expect(result.runs.map(\.engine) == ["minima", "transformers"])
        #expect(result.runs[1].command == "decode_transformers.py")
        #expect(result.runs[1].versions == ["transformers": "5.17.0", "torch": "2.12.0"])
        #expect(result.runs[0].command == nil)

        peer.card.name = "NVIDIA H100"
        #expect(throws: BenchError.otherCard(found: "NVIDIA H100", expected: "NVIDIA H200")) {
            try result.add(peer: peer)
        }
        peer.card.name = result.card.name
        peer.dimensions.layers = 36
        peer.model = "qwen3-8b"
        #expect(throws: BenchError.otherModel(found: "qwen3-8b", expected: "qwen3-32b")) {
            try result.add(peer: peer)
        }
        #expect(result.runs.count == 2)
    }

    /// As Benchmarks/peers/decode_transformers.py prints it: without what it does not know.
    private static let peer = """
        {"kind": "bench", "version": "", "schema": 1, "model": "Examples/qwen3-32b-shape",
         "dimensions": {"layers": 64, "hidden_size": 5120, "heads": 64, "key_value_heads": 8,
          "head_dim": 128, "intermediate_size": 25600, "vocabulary_size": 151936,
          "ties_embedding": false},
         "card": {"read_bandwidth": {"median": 4.0e12, "lowest": 3.9e12, "highest": 4.1e12,
           "repetitions": 7},
          "copy_bandwidth": {"median": 4.2e12, "lowest": 4.2e12, "highest": 4.2e12,
           "repetitions": 7},
          "matrix_rate": {"median": 8e14, "lowest": 8e14, "highest": 8e14, "repetitions": 7},
          "name": "NVIDIA H200", "architecture": "sm_90", "driver": "580.82",
          "memory_bytes": 150000000000, "multiprocessors": 132},
         "seed": 1, "command": "python decode_transformers.py --json",
         "versions": {"torch": "2.11.0+cu130", "transformers": "5.17.0", "cuda": "13.0"},
         "runs": [{"label": "dense bf16, compiled", "engine": "transformers",
          "parameters": 32762123264, "weight_bytes": 65524246528, "cache_type": "BF16",
          "context": 8192, "requests": 1, "steps": 32,
          "step": {"median": 0.0294, "lowest": 0.0293, "highest": 0.0295, "repetitions": 5},
          "first_token": {"median": 3.8, "lowest": 3.8, "highest": 3.9, "repetitions": 3},
          "prefill": {"tokens": 8192, "chunk": 2048,
           "seconds": {"median": 3.8, "lowest": 3.8, "highest": 3.9, "repetitions": 3},
           "flops": 581651796852736.0},
          "traffic": {"weights": 63968421888, "cache": 2147483648, "other": 272384},
          "kernels": [], "settings": {"warm-up": "8"},
          "versions": {"torch": "2.11.0+cu130", "transformers": "5.17.0"},
          "peak_bytes": 68182605824}]}
        """

    @Test func aPeersFileIsRead() throws {
        let peer = try BenchResult(json: Self.peer)
        let run = try #require(peer.runs.first)
        #expect(peer.dimensions == BenchSample.qwen32B)
        #expect(run.prefill?.flops == BenchSample.qwen32B.prefillFlops(tokens: 8_192))
        #expect(run.settings == ["warm-up": "8"])
        #expect(run.peakBytes == 68_182_605_824 && run.graph == nil && run.plan == nil)
        let traffic = DecodeTraffic(
            peer.dimensions, weightBytes: run.traffic.weights, cacheType: .bfloat16, context: 8_192,
            requests: 1)
        #expect(run.traffic == traffic)
        var result = BenchSample.result
        try result.add(peer: peer)
        #expect(abs((result.figures[1].tokensPerSecond ?? 0) - 34.01) < 0.01)
        #expect(abs((result.figures[1].rooflineShare ?? 0) - 0.0165290 / 0.0294) < 1e-5)
    }

    @Test func aBadValueIsNamedAsTheFileSpellsIt() throws {
        let text = try BenchSample.result.json()
        #expect(throws: ResultError.missing(key: "runs[0].step")) {
            try BenchResult(json: text.replacing("\"step\"", with: "\"renamed\""))
        }
        #expect(throws: ResultError.badValue(key: "runs[0].cache_type")) {
            try BenchResult(json: text.replacing("\"BF16\"", with: "\"FP8\""))
        }
        #expect(throws: ResultError.badValue(key: "dimensions.layers")) {
            try BenchResult(json: text.replacing("\"layers\" : 64", with: "\"layers\" : \"64\""))
        }
        #expect(throws: ResultError.wrongKind(found: "bench", expected: "evaluation")) {
            try EvaluationResult(json: text)
        }
    }

    /// Values that tend to break what reads them.
    private static let odd = [
        "0", "-1", "9223372036854775807", "-9223372036854775808", "1e308", "5e-324", "1e999",
        "\"NaN\"", "\"-Infinity\"", "null", "true", "\"\"", "[]", "{}", "\"F8_E4M3\"",
    ]

    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func damagedTextIsReadOrRefused(seed: UInt64) throws
    {
        var random = SplitMix64(state: seed)
        let original = Array(try BenchSample.result.json().utf8)
        var read = 0
        for round in 0..<100 {
            let bytes =
                round.isMultiple(of: 2)
                ? withOddValue(original, &random) : damaged(original, &random)
            let text = String(decoding: bytes, as: UTF8.self)
            guard let result = try? BenchResult(json: text) else { continue }
            read += 1
            // What was read can be used and written again.
            let again = try result.json()
            #expect(try BenchResult(json: again).json() == again)
            let traffic = DecodeTraffic(
                result.dimensions, weightBytes: 1, cacheType: .bfloat16, context: .max, requests: 1)
            #expect(!traffic.total.isNaN)
        }
        // Some are still good, or nothing was tested; some are not.
        #expect((5..<95).contains(read))
    }

    /// One value of the document becomes another.
    private func withOddValue(_ original: [UInt8], _ random: inout SplitMix64) -> [UInt8] {
        var bytes = original
        let starts = bytes.indices.filter { bytes[$0] == UInt8(ascii: ":") }
        let start = starts[Int.random(in: starts.indices, using: &random)] + 1
        let ends: Set<UInt8> = Set(",\n".utf8)
        let end = bytes[start...].firstIndex { ends.contains($0) } ?? bytes.endIndex
        let value = Self.odd[Int.random(in: Self.odd.indices, using: &random)]
        bytes.replaceSubrange(start..<end, with: value.utf8)
        return bytes
    }

    /// A few bytes are others, gone, or all that follow are.
    private func damaged(_ original: [UInt8], _ random: inout SplitMix64) -> [UInt8] {
        var bytes = original
        for _ in 0..<Int.random(in: 1...3, using: &random) where !bytes.isEmpty {
            let place = Int.random(in: bytes.indices, using: &random)
            switch Int.random(in: 0..<8, using: &random) {
            case 0..<4: bytes[place] = .random(in: 0x20..<0x7F, using: &random)
            case 4..<7: bytes.remove(at: place)
            default: bytes.removeSubrange(place...)
            }
        }
        return bytes
    }
}
