import MinimaCore

extension Sample {
    static func spread(_ median: Double, _ deviation: Double = 0.01) -> BenchResult.Spread {
        .init(
            median: median, lowest: median * (1 - deviation / 2),
            highest: median * (1 + deviation), repetitions: 5)
    }

    static func run(
        _ label: String, engine: String = "minima", weights: Int, cacheType: DType = .bfloat16,
        requests: Int = 1, milliseconds: Double, kernels: [BenchResult.Run.Kernel] = []
    ) -> BenchResult.Run {
        let traffic = DecodeTraffic(
            dimensions, weightBytes: weights - 1_555_824_640, cacheType: cacheType,
            context: 8_192, requests: requests)
        return .init(
            label: label, engine: engine, parameters: weights / 2, weightBytes: weights,
            cacheType: cacheType, context: 8_192, requests: requests, steps: 64,
            step: spread(milliseconds / 1e3), traffic: traffic, kernels: kernels)
    }

    static let dimensions = DecoderDimensions(
        layers: 64, hiddenSize: 5_120, heads: 64, keyValueHeads: 8, headDim: 128,
        intermediateSize: 25_600, vocabularySize: 151_936)

    /// Times of single layers.
    static var costs: DecodeCosts {
        .init(
            version: "0.1.0", card: "NVIDIA H200", readBandwidth: spread(4.36e12),
            command: "minima bench --shape qwen3-32b --sweep",
            rows: [
                .init(
                    spec: FormatSpec(format: "dense"), outputs: 10_240, inputs: 5_120, tokens: 1,
                    nanoseconds: spread(25_400), bytes: 104_857_600)
            ])
    }

    /// Dense and compressed, one request and fifty, and a peer.
    static var bench: BenchResult {
        var dense = run("dense bf16", weights: 65_524_246_528, milliseconds: 16.9)
        dense.graph = spread(0.0168)
        dense.kernels = [
            .init(name: "qkv", launches: 64, bytes: 6_710_886_400, seconds: 0.0017),
            .init(name: "gate_up", launches: 64, bytes: 33_554_432_000, seconds: 0.0081),
            .init(name: "attention", launches: 64, bytes: 2_147_483_648, seconds: 0.00075),
            .init(name: "o, down and head", launches: 129, bytes: 23_700_000_000, seconds: 0.0064),
        ]
        dense.prefill = .init(
            tokens: 8_192, chunk: 2_048, seconds: spread(1.1),
            flops: dimensions.prefillFlops(tokens: 8_192))
        dense.firstToken = spread(1.125)
        dense.peakBytes = 68_000_000_000
        dense.predictedMemory = .init(
            weights: 65_524_246_528, cache: 2_147_483_648, activations: 450_000_000,
            workspace: 33_554_432, logits: 607_744)
        dense.settings = ["bucket": "1"]
        var small = run(
            "−35 % interpolative bf16", weights: 41_600_000_000, milliseconds: 11)
        small.plan = "plan-35.json"
        var peer = run(
            "compiled", engine: "transformers", weights: 65_524_246_528, milliseconds: 29.4)
        peer.command = "decode_transformers.py --compile"
        peer.versions = ["transformers": "5.17.0"]
        return BenchResult(
            version: "0.1.0", model: "qwen3-32b", dimensions: dimensions,
            card: .init(
                name: "NVIDIA H200", architecture: "sm_90a", driver: "580.82",
                memoryBytes: 150_754_820_096, multiprocessors: 132, readBandwidth: spread(4.36e12),
                copyBandwidth: spread(4.278e12), matrixRate: spread(7.9e14)),
            seed: 1, command: "minima bench --shape qwen3-32b --requests 1 50",
            versions: ["libtorch": "2.11.0", "cuda": "13.0"],
            runs: [
                peer, dense, small,
                run(
                    "dense bf16", weights: 65_524_246_528, cacheType: .float8e4m3, requests: 50,
                    milliseconds: 33),
                run(
                    "−35 % interpolative bf16", weights: 41_600_000_000, cacheType: .float8e4m3,
                    requests: 50, milliseconds: 25),
            ])
    }
}
