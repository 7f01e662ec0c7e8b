import MinimaCore
import MinimaReport

/// Results that no stage writes: names full of markup and control characters, numbers at the ends
/// of their types.
enum Hostile {
    static let text =
        "</bdi></title></style><script>alert(1)</script><img src=x onerror='a'>\"'&amp;\u{0}"
        + "\u{202E}\u{2069}\r\nשלום\u{1B}[31m]]><!--"

    static let calibration = Calibration(
        sources: [
            .init(name: text, windows: .max, weight: .nan),
            .init(name: text, windows: .max, weight: -1),
        ], context: .max, gradientWindows: .min, seed: .max, hash: text)

    static func specs(_ text: String) -> [FormatSpec] {
        var nested = FormatSpec(format: "quantized", bits: .min)
        for _ in 0..<8 { nested = FormatSpec(format: "sum", parts: [nested, nested]) }
        return [
            FormatSpec(format: text, outputModes: [.min], inputModes: [], ranks: [.max]),
            FormatSpec(format: ""), nested,
            FormatSpec(
                format: "blocks", outputModes: [.max, .max], inputModes: [.max],
                parts: [FormatSpec(format: text), FormatSpec(format: "tt")]),
            FormatSpec(format: "blocks", outputModes: [0, -1], parts: [FormatSpec(format: text)]),
            FormatSpec(
                format: "blocks", outputModes: [0, 0],
                parts: [FormatSpec(format: text), FormatSpec(format: "tt")]),
        ]
    }

    static func plan(_ text: String) -> CompressionPlan {
        CompressionPlan(
            version: text, model: text, fingerprints: [text: text], target: text, formats: [text],
            linearParametersBefore: .max, linearParametersAfter: .min, linearBytesBefore: .max,
            linearBytesAfter: .min, damage: .infinity,
            modules: specs(text).enumerated().map { index, spec in
                .init(
                    name: "layers.\(index % 2).\(text)", outputs: .max, inputs: .min, spec: spec,
                    parameters: .min, bytes: index == 0 ? .max : .min, damage: -.infinity)
            })
    }

    static func compression(_ text: String) -> CompressionResult {
        CompressionResult(
            version: text, parent: text, parentHashes: [text: text],
            plan: .init(
                version: text, model: text, fingerprints: [text: text],
                target: text, formats: [text], linearParametersBefore: .min,
                linearParametersAfter: .max, linearBytesBefore: .min,
                linearBytesAfter: .max, damage: .nan, modules: []),
            device: text, dtype: text, torch: text,
            calibration: calibration,
            compensation: text, ridge: .nan,
            totals: .init(
                linearParametersBefore: 0, linearParametersAfter: .min,
                linearBytesBefore: .min, linearBytesAfter: .max, parametersBefore: .min,
                parametersAfter: .max, bytesBefore: 0, bytesAfter: .max),
            seconds: -.infinity, phases: [text: .nan], peakDeviceBytes: .min,
            modules: [
                .init(
                    name: "\(text).3.\(text)", outputs: .max, inputs: .max,
                    spec: FormatSpec(
                        format: text, outputModes: [.min], inputModes: [],
                        ranks: [.max]),
                    parameters: .min, bytes: .max, weightError: .nan,
                    outputError: 1e308, seconds: .nan),
                .init(
                    name: "layers.99999999999999999999.x", outputs: 0, inputs: 0,
                    spec: FormatSpec(format: ""), parameters: 0, bytes: 0,
                    weightError: .infinity, outputError: -.infinity, seconds: 0),
                .init(
                    name: "layers.4.x", outputs: 1, inputs: 1,
                    spec: FormatSpec(format: ""), parameters: 0, bytes: 0,
                    weightError: 0, outputError: 5e-324, seconds: 0),
            ])
    }

    static func healing(_ text: String) -> HealingResult {
        let point = HealingResult.Point(
            step: .min, tokens: .min, seconds: .nan, loss: -.infinity, heldOut: .nan,
            learningRate: .nan)
        let phases = [text, "layer 3", "layers 3-1000000", "layer 0"].map { name in
            HealingResult.Phase(
                name: name, parameters: .max, steps: .max, tokens: .max, seconds: .infinity,
                tokensPerSecond: -.infinity, peakDeviceBytes: .min, stepBacks: .min, ending: text,
                points: [
                    point,
                    .init(
                        step: .max, tokens: .max, seconds: 1, loss: .leastNonzeroMagnitude,
                        heldOut: 1e308, perplexity: .infinity, learningRate: 1),
                ])
        }
        return HealingResult(
            version: text, model: "\(text)-small", modelHashes: [text: text], teacher: text,
            teacherHashes: [text: text],
            texts: [.init(name: text, documents: .min, tokens: .max)], settings: [text: text],
            device: text, dtype: text, torch: text, processes: .max, heldOutTokens: .max,
            before: .init(kl: .nan, perplexity: .infinity),
            after: .init(kl: -.infinity, perplexity: .nan), teacherPerplexity: -.infinity,
            parameters: .min, bytes: .max, seconds: -1, phases: phases,
            compression: compression(text))
    }

    static func analysis(_ text: String) -> Analysis {
        let patches = [Double.nan, .infinity, -.infinity, 5, -5, 1e308, 5e-310].enumerated().map {
            index, value in
            PatchAnalysis(
                module: index == 0 ? text : "layers.\(index).\(text)",
                index: index % 2 == 0 ? .max : .min, row: .min, rows: .max, column: .max,
                columns: .min, statistics: [text: value, "trace": value], spectra: [text: []],
                sensitivity: value, uncertainty: value,
                recommendation: FormatSpec(format: text))
        }
        func site(_ layer: Int, _ patches: [PatchAnalysis]) -> SiteAnalysis {
            SiteAnalysis(
                name: "\(text).\(layer).\(text)", layer: layer, outputs: .max, inputs: .max,
                members: [.init(name: text, outputs: .min), .init(name: text, outputs: .max)],
                patches: patches,
                activations: .init(
                    rms: .nan, largest: .infinity, outlierChannels: [.min], massiveTokens: .max),
                cuts: [])
        }
        return Analysis(
            version: text, model: text, fingerprints: [:], family: text, dtype: .bool,
            parameters: .min, bytes: .max, cacheBytesPerToken: .max, calibration: calibration,
            device: text, seconds: [text: .nan, "a": -.infinity, "b": 1],
            sites: [site(.max, patches), site(.min, patches), site(3, [])],
            probes: [Double.nan, .infinity, -1, 0, 1e300, 5e-310, 0.5].map { value in
                Probe(
                    site: text, patch: .min, spec: FormatSpec(format: text), error: value,
                    divergence: value, predicted: value)
            },
            predictor: .init(
                file: text, trainingProbes: .min, heldOutProbes: .max, spearman: .nan,
                closedFormSpearman: .infinity, used: text))
    }

    static func costs(_ text: String) -> DecodeCosts {
        let values = [
            Double.nan, .infinity, 1e308, 1.2345678901234567e299, .leastNonzeroMagnitude, -3, 0,
        ]
        func spread(_ value: Double) -> BenchResult.Spread {
            .init(median: value, lowest: .infinity, highest: -.infinity, repetitions: .min)
        }
        return DecodeCosts(
            version: text, schema: .min, card: text, readBandwidth: spread(.nan), command: text,
            rows: specs(text).flatMap { spec in
                values.enumerated().map { index, value in
                    .init(
                        spec: spec, outputs: .max, inputs: .min,
                        tokens: index % 3 == 0 ? .min : .max, nanoseconds: spread(value),
                        bytes: index % 2 == 0 ? .min : .max, label: index < 4 ? text : nil,
                        site: index < 2 ? text : nil)
                }
            })
    }

    static func bench(_ text: String) -> BenchResult {
        let values = [Double.nan, .infinity, -.infinity, 1e308, .leastNonzeroMagnitude, -3, 0]
        func spread(_ value: Double) -> BenchResult.Spread {
            .init(median: value, lowest: -value, highest: value, repetitions: .min)
        }
        return BenchResult(
            version: text, model: text,
            dimensions: .init(
                layers: .max, hiddenSize: .min, heads: .max, keyValueHeads: .max, headDim: .max,
                intermediateSize: .max, vocabularySize: .min),
            card: .init(
                name: text, architecture: text, driver: text, memoryBytes: .min,
                multiprocessors: .max, readBandwidth: spread(1e308),
                readers: [text: spread(.nan), "": spread(-1)], copyBandwidth: spread(.nan),
                matrixRate: spread(-1)),
            seed: .max, command: text, versions: [text: text],
            runs: values.enumerated().map { index, value in
                .init(
                    label: text, engine: index % 2 == 0 ? text : "minima", plan: text,
                    parameters: .max, weightBytes: .min,
                    cacheType: index % 3 == 0 ? .bool : .float8e4m3, context: .max,
                    requests: index < 5 ? .max : .min, steps: .min, step: spread(value),
                    graph: spread(-value), firstToken: spread(value),
                    prefill: .init(tokens: .min, chunk: .max, seconds: spread(value), flops: value),
                    peakBytes: index == 0 ? .max : .min,
                    predictedMemory: .init(
                        weights: .max, cache: .max, activations: .min, workspace: .min,
                        logits: .max),
                    traffic: .init(weights: .max, cache: index == 0 ? .min : .max, other: .min),
                    kernels: values.map {
                        .init(name: text, launches: .min, bytes: .max, seconds: $0)
                    },
                    speculation: index % 2 == 0
                        ? nil
                        : .init(
                            draft: text, draftTokens: .max,
                            shares: index < 2
                                ? nil : [.min: value, .max: .nan, -1: 1e308, 0: -value, 7: 0.5],
                            acceptanceLength: value, simulatedLength: index < 4 ? nil : value,
                            addedBytes: .min, round: .init(seconds: value, bytes: .max),
                            verification: .init(seconds: -value, bytes: .min)),
                    settings: [text: text], command: text, versions: [text: text])
            })
    }

    static func ablation(_ text: String) -> AblationResult {
        let values = [Double.nan, .infinity, -.infinity, 1e308, 5e-310, -3, 0]
        return AblationResult(
            model: text, ratio: .nan, linearParameters: .min, linearBytes: .max, context: .max,
            tokens: [text: .min], densePerplexity: [text: .nan], device: text, dtype: text,
            rows: values.flatMap { value in
                ["bytes", text].map { equal in
                    .init(
                        equal: equal, name: value == 0 ? "only " : "uniform \(text)",
                        target: text, formats: [text: .max, "tt": .min, "": 0],
                        parameters: .max, bytes: .min, predicted: value,
                        perplexity: [text: value], divergence: [text: value], seconds: value)
                }
            })
    }
}
