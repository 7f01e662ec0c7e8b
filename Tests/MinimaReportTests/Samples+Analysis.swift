import Glibc
import MinimaCore
import MinimaReport

/// Shapes of a model whose results are made up.
struct SampleShape {
    var model = "models/ref"
    var layers = 10
    var hidden = 384
    var heads = 6
    var kvHeads = 2
    var headDim = 64
    var inner = 1_152
    var blocks = 8

    /// The exact shapes of Qwen3-32B.
    static let large = SampleShape(
        model: "models/Qwen3-32B", layers: 64, hidden: 5_120, heads: 64, kvHeads: 8,
        headDim: 128, inner: 25_600, blocks: 8)
}

/// Reproducible numbers in 0..<1.
struct SampleNumbers {
    private var state: UInt64

    init(seed: UInt64) {
        state = seed
    }

    mutating func next() -> Double {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Double(state >> 11) / 0x1p53
    }
}

extension Sample {
    static let calibration = Calibration(
        sources: [
            .init(name: "wiki-calib.txt", windows: 96, weight: 1),
            .init(name: "books-calib.txt", windows: 32, weight: 0.5),
        ], context: 1_024, gradientWindows: 16, seed: 7, hash: "5feceb66")

    /// An analysis as `minima analyze` writes it: early and late layers and down_proj more fragile.
    static func analysis(_ shape: SampleShape = SampleShape()) -> Analysis {
        var numbers = SampleNumbers(seed: 1)
        var sites: [SiteAnalysis] = []
        var linear = 0
        for layer in 0..<shape.layers {
            let prefix = "model.layers.\(layer)"
            let depth = Double(layer) / Double(max(shape.layers - 1, 1))
            for site in shape.sites {
                let outputs = site.members.reduce(0) { $0 + $1.outputs }
                linear += outputs * site.inputs
                var patches: [PatchAnalysis] = []
                var row = 0
                for member in site.members {
                    for index in 0..<member.patches {
                        let height =
                            member.cutsRows ? member.outputs / member.patches : member.outputs
                        let width = member.cutsRows ? site.inputs : site.inputs / member.patches
                        let base = 0.15 + 1.2 * (depth - 0.5) * (depth - 0.5) + member.fragility
                        let sensitivity = min(max(base + 0.3 * (numbers.next() - 0.5), 0), 1)
                        patches.append(
                            PatchAnalysis(
                                module: "\(prefix).\(member.name)", index: index,
                                row: member.cutsRows ? row + index * height : row, rows: height,
                                column: member.cutsRows ? 0 : index * width, columns: width,
                                statistics: [
                                    "condition": pow(10, 1 + 3 * numbers.next()),
                                    "trace": 0.01 * numbers.next(), "kurtosis": 3 + numbers.next(),
                                    "magnitude": 0.02, "sparsity": 0.08, "rank": 40.5,
                                    "gradient": 1e-6, "activation": 1.25,
                                ], spectra: ["weight": [0, -1], "weighted": [0, -2]],
                                sensitivity: sensitivity, uncertainty: 0.25 * numbers.next(),
                                recommendation: FormatSpec(format: "tt", ranks: [24])))
                    }
                    row += member.outputs
                }
                let dense = SiteAnalysis.Option(
                    spec: FormatSpec(format: "dense"), parameters: outputs * site.inputs,
                    bytes: 2 * outputs * site.inputs, error: 0, damage: 0)
                sites.append(
                    SiteAnalysis(
                        name: "\(prefix).\(site.name)", layer: layer, outputs: outputs,
                        inputs: site.inputs,
                        members: site.members.map {
                            .init(name: "\(prefix).\($0.name)", outputs: $0.outputs)
                        }, patches: patches,
                        activations: .init(
                            rms: 1, largest: 40, outlierChannels: [3], massiveTokens: layer % 2),
                        cuts: [
                            .init(
                                kind: "stacked",
                                pieces: [
                                    .init(
                                        row: 0, rows: outputs, column: 0, columns: site.inputs,
                                        options: [dense])
                                ])
                        ]))
            }
        }
        return Analysis(
            version: "0.2.0", model: shape.model, fingerprints: ["model.safetensors": "9f86d081"],
            family: "qwen3", dtype: .bfloat16, parameters: linear + 8_192 * shape.hidden,
            bytes: 2 * (linear + 8_192 * shape.hidden), cacheBytesPerToken: 4_096,
            calibration: calibration, device: "cuda:0",
            seconds: ["calibrate": 12.5, "survey": 40.25, "probe": 31, "train": 4.75],
            sites: sites, probes: probes(shape, &numbers),
            predictor: .init(
                file: nil, trainingProbes: 96, heldOutProbes: 32, spearman: 0.953,
                closedFormSpearman: 0.912, used: "predictor"))
    }

    private static func probes(_ shape: SampleShape, _ numbers: inout SampleNumbers) -> [Probe] {
        (0..<128).map { index in
            let error = pow(10, -5 + 4 * numbers.next())
            let divergence = error * exp(1.2 * (numbers.next() - 0.5))
            let formats = ["tucker", "tt", "tr", "lowrank"]
            let site = shape.sites[index % shape.sites.count]
            return Probe(
                site: "model.layers.\(index % shape.layers).\(site.name)", patch: 0,
                spec: FormatSpec(format: formats[index % 4], ranks: [16]), error: error,
                divergence: divergence,
                predicted: index % 4 == 0 ? divergence * exp(0.5 * (numbers.next() - 0.5)) : nil)
        }
    }

    /// What a compression of that model did when formats competed per module.
    static func planned(
        _ shape: SampleShape = SampleShape(), target: String = "ratio 0.35", keep: Double = 0.65,
        formats: [FormatSpec] = [
            FormatSpec(format: "tt", ranks: [64]), FormatSpec(format: "tucker", ranks: [96, 96]),
            FormatSpec(
                format: "quantized", bits: 8, groupSize: 64,
                parts: [FormatSpec(format: "lowrank", ranks: [128])]),
            FormatSpec(
                format: "quantized", bits: 4, groupSize: 64, parts: [FormatSpec(format: "dense")]),
        ]
    ) -> CompressionResult {
        var numbers = SampleNumbers(seed: 2)
        var modules: [CompressionResult.Module] = []
        var (before, after, parameters) = (0, 0, 0)
        for site in analysis(shape).sites {
            let dense = site.outputs * site.inputs
            before += dense
            let choice = Int(numbers.next() * Double(formats.count + 1))
            let isStacked = numbers.next() < 0.6 || site.members.count == 1
            guard choice < formats.count else {
                after += 2 * dense
                parameters += dense
                continue
            }
            let parts =
                isStacked
                ? [(site.name, site.outputs)] : site.members.map { ($0.name, $0.outputs) }
            for (name, outputs) in parts {
                let size = Int(keep * Double(outputs * site.inputs))
                let predicted = pow(10, -4 + 2 * numbers.next())
                var spec = formats[choice]
                if name.hasSuffix("o_proj") {
                    spec = FormatSpec(
                        format: "blocks", outputModes: [outputs],
                        inputModes: [site.inputs / 2, site.inputs / 2],
                        parts: [formats[0], formats[formats.count - 1]])
                }
                modules.append(
                    .init(
                        name: name, outputs: outputs, inputs: site.inputs, spec: spec,
                        parameters: size, bytes: 2 * size, weightError: 0.3,
                        outputError: 0.05 + 0.2 * numbers.next(),
                        damage: predicted * exp(numbers.next() - 0.4), predictedDamage: predicted,
                        compensation: 0.5, seconds: 0.75))
                after += 2 * size
                parameters += size
            }
        }
        let rest = 8_192 * shape.hidden
        return CompressionResult(
            version: "0.2.0", parent: shape.model,
            parentHashes: ["model.safetensors": "9f86d081"],
            plan: CompressionPlan(
                version: "0.2.0", model: shape.model,
                fingerprints: ["model.safetensors": "9f86d081"], target: target, formats: [],
                linearParametersBefore: before, linearParametersAfter: parameters,
                linearBytesBefore: 2 * before, linearBytesAfter: after, damage: 0.31,
                modules: modules.map {
                    .init(
                        name: $0.name, outputs: $0.outputs, inputs: $0.inputs, spec: $0.spec,
                        parameters: $0.parameters, bytes: $0.bytes, damage: $0.predictedDamage)
                }),
            device: "cuda:0", dtype: "bfloat16", torch: "2.11.0", calibration: calibration,
            compensation: "auto", ridge: 0.01,
            totals: .init(
                linearParametersBefore: before, linearParametersAfter: parameters,
                linearBytesBefore: 2 * before, linearBytesAfter: after,
                parametersBefore: before + rest, parametersAfter: parameters + rest,
                bytesBefore: 2 * (before + rest), bytesAfter: after + 2 * rest),
            seconds: 95.5,
            phases: ["hash": 1.5, "load": 2, "calibrate": 40, "fit": 50, "write": 2],
            peakDeviceBytes: 3_221_225_472, modules: modules)
    }

    /// The paper's ablation with the numbers one expects of it.
    static let ablation = AblationResult(
        model: "models/ref", ratio: 0.35, linearParameters: 17_203_200, linearBytes: 34_406_400,
        context: 1_024, tokens: ["data/wiki-valid.txt": 100_352, "data/books-valid.txt": 100_352],
        densePerplexity: ["data/wiki-valid.txt": 19.4, "data/books-valid.txt": 30.5],
        device: "cuda:0", dtype: "bfloat16",
        rows: [
            row("parameters", "uniform ranks", ["lowrank": 70], 0.65, 1.3, nil, 0.61),
            row("parameters", "+ sensitivity", ["lowrank": 66], 0.65, 1.3, 0.38, 0.41),
            row("parameters", "+ mixed families", ["lowrank": 30, "tt": 22], 0.65, 1.3, 0.3, 0.33),
            row("parameters", "only tt", ["tt": 66], 0.65, 1.3, 0.44, 0.47),
            row("parameters", "only tucker", ["tucker": 66], 0.65, 1.3, 0.4, 0.43),
            row("bytes", "uniform ranks", ["lowrank": 70], 0.65, 1.3, nil, 0.61),
            row(
                "bytes", "+ quantised cores", ["int8 lowrank": 30, "int8 tt": 20], 0.99, 1.3, 0.02,
                0.021),
            row("bytes", "only int8", ["int8": 70], 1, 1.3, 0.0005, 0.0005),
            row("bytes", "only tt", ["int8 tt": 66], 1.2, 1.3, 0.2, 0.21),
        ])

    private static func row(
        _ equal: String, _ name: String, _ formats: [String: Int], _ kept: Double,
        _ bytesPerWeight: Double, _ predicted: Double?, _ kl: Double
    ) -> AblationResult.Row {
        .init(
            equal: equal, name: name, target: "ratio 0.35", formats: formats,
            parameters: Int(kept * 17_203_200), bytes: Int(bytesPerWeight * 17_203_200),
            predicted: predicted,
            perplexity: [
                "data/wiki-valid.txt": 19.4 * exp(kl), "data/books-valid.txt": 30.5 * exp(0.9 * kl),
            ],
            divergence: ["data/wiki-valid.txt": kl, "data/books-valid.txt": kl],
            seconds: 41)
    }

    /// Everything that the stages can say about one model.
    static func complete(_ shape: SampleShape = SampleShape()) -> Report {
        let mixture = planned(shape)
        let single = planned(
            shape, target: "bits-per-weight 4.5", keep: 0.28,
            formats: [
                FormatSpec(
                    format: "quantized", bits: 4, groupSize: 64,
                    parts: [FormatSpec(format: "dense")])
            ])
        func evaluate(_ name: String, _ result: CompressionResult, _ kl: Double)
            -> EvaluationResult
        {
            evaluation(
                name, against: shape.model, perplexity: 19.4 * exp(kl), kl: kl,
                parameters: result.totals.parametersAfter)
        }
        return Report(
            title: "ref",
            evaluations: [
                evaluation(
                    shape.model, perplexity: 19.4, parameters: mixture.totals.parametersBefore),
                evaluate("out/ref-35", mixture, 0.33), evaluate("out/ref-int4", single, 0.021),
            ], compressions: [mixture, single], analyses: [analysis(shape)],
            ablations: [ablation])
    }
}

extension SampleShape {
    struct Member {
        var name: String
        var outputs: Int
        var patches: Int
        var cutsRows: Bool
        var fragility: Double
    }

    /// The sites of one decoder layer.
    var sites: [(name: String, inputs: Int, members: [Member])] {
        func member(_ name: String, _ outputs: Int, _ patches: Int, rows: Bool, _ fragility: Double)
            -> Member
        {
            Member(
                name: name, outputs: outputs, patches: patches, cutsRows: rows,
                fragility: fragility)
        }
        let (wide, narrow) = (heads * headDim, kvHeads * headDim)
        return [
            (
                "self_attn.qkv_proj", hidden,
                [
                    member("self_attn.q_proj", wide, kvHeads, rows: true, 0),
                    member("self_attn.k_proj", narrow, kvHeads, rows: true, 0.05),
                    member("self_attn.v_proj", narrow, kvHeads, rows: true, 0.3),
                ]
            ),
            (
                "self_attn.o_proj", wide,
                [member("self_attn.o_proj", hidden, kvHeads, rows: false, 0.1)]
            ),
            (
                "mlp.gate_up_proj", hidden,
                [
                    member("mlp.gate_proj", inner, blocks, rows: true, 0.05),
                    member("mlp.up_proj", inner, blocks, rows: true, 0.1),
                ]
            ),
            (
                "mlp.down_proj", inner,
                [member("mlp.down_proj", hidden, blocks, rows: false, 0.4)]
            ),
        ]
    }
}
