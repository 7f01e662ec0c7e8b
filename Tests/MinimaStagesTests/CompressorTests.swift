import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Compression")
struct CompressorTests {
    private func uniform(
        _ source: any WeightSource, ratio: Double = 0.35, format: String = LowRank.name
    ) throws -> CompressionPlan {
        try .uniform(source, ratio: ratio, format: format, version: "test")
    }

    private static let budgeted = FormatRegistry.all.filter { $0 is any BudgetedFormat.Type }
        .map { $0.name }.filter { $0 != Dense.name }

    @Test(
        "every format with a budget writes a checkpoint that loads and keeps it",
        arguments: budgeted)
    func everyFormat(format: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-sharded-v5")
        let output = "\(scratch.path)/small"
        let request = try compression(parent, uniform(parent, format: format))
        let result = try Compressor(parent, request).run(output: output)
        #expect(scratch.entries == ["small"], "nothing but the output is left")
        let small = try Checkpoint(path: output)
        let model = try small.loadModel()
        #expect(model.dimensions == (try parent.loadModel()).dimensions)
        let members = try parent.sites().flatMap(\.members)
        #expect(
            Set(try CompressionManifest(small.config).modules.keys) == Set(members.map(\.name)))
        #expect(result.modules.map(\.name) == members.map(\.name))
        for module in result.modules {
            #expect(module.spec.format == format)
            #expect(Double(module.parameters) <= 0.65 * Double(module.outputs * module.inputs))
            #expect(module.weightError > 0 && module.weightError < 1.5)
            #expect(module.outputError >= 0 && module.outputError < 1)
            #expect(module.damage == nil && module.compensation == nil)
        }
        let text = [someTokens(16, vocabulary: model.dimensions.vocabulary)]
        #expect(try Evaluator(model).measure(text).perplexity.isFinite)
    }

    /// Specifications of formats that have none for a budget.
    private func composite(_ format: String, _ site: Site) throws -> FormatSpec {
        let rank = FormatSpec(format: LowRank.name, ranks: [2])
        let sparse = FormatSpec(format: "sparse", ranks: [20])
        let dense = FormatSpec(format: Dense.name)
        let half = site.outputs / 2
        let specs = [
            "quantized": FormatSpec(format: format, bits: 4, parts: [dense]),
            "sum": FormatSpec(format: format, parts: [rank, sparse]),
            "blocks": FormatSpec(
                format: format, outputModes: [half, site.outputs - half], parts: [rank, rank]),
        ]
        return try #require(specs[format], "\(format) needs a specification here")
    }

    @Test(
        "formats without a budget go through, too",
        arguments: FormatRegistry.all.filter { !($0 is any BudgetedFormat.Type) }.map { $0.name })
    func composites(format: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let modules = try parent.sites().map { site in
            (site.name, [site.outputs, site.inputs], try composite(format, site))
        }
        let request = try compression(parent, plan(parent, modules), compensation: .fixed(0.5))
        let result = try Compressor(parent, request).run(output: "\(scratch.path)/small")
        let small = try Checkpoint(path: "\(scratch.path)/small")
        #expect(result.totals.bytesAfter == small.byteCount)
        #expect(result.totals.bytesAfter < result.totals.bytesBefore)
        #expect(result.modules.map(\.name) == modules.map(\.0))
        // Packed codes count as the numbers that they stand for.
        let inspected = try InspectionResult(small)
        #expect(inspected.parameters == result.totals.parametersAfter)
        #expect(inspected.parts.reduce(0) { $0 + $1.bytes } == small.byteCount)
        let model = try small.loadModel()
        let text = [someTokens(16, vocabulary: model.dimensions.vocabulary)]
        #expect(
            try Evaluator(model, against: parent.loadModel()).measure(text).kl?.isFinite == true)
    }

    @Test func theAccountIsComplete() throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-sharded-v5")
        let output = "\(scratch.path)/small"
        let plan = try uniform(parent)
        let result = try Compressor(parent, compression(parent, plan)).run(output: output)
        let small = try Checkpoint(path: output)
        let totals = result.totals
        #expect(totals.linearParametersBefore == plan.linearParametersBefore)
        #expect(totals.linearParametersAfter == plan.linearParametersAfter)
        #expect(totals.linearBytesBefore == plan.linearBytesBefore)
        #expect(totals.linearBytesAfter == plan.linearBytesAfter)
        #expect(totals.linearParametersAfter == result.modules.reduce(0) { $0 + $1.parameters })
        #expect(totals.linearBytesAfter == result.modules.reduce(0) { $0 + $1.bytes })
        #expect(
            totals.parametersBefore - totals.parametersAfter
                == totals.linearParametersBefore - totals.linearParametersAfter)
        #expect(totals.bytesBefore == parent.byteCount && totals.bytesAfter == small.byteCount)
        #expect(try InspectionResult(small).parameters == totals.parametersAfter)
        #expect(result.device == "cpu" && result.dtype == "float32" && result.schema == 2)
        #expect(result.plan == plan && result.version == "test" && result.compensation == "off")
        #expect(result.parentHashes.count == parent.files.count)
        #expect(result.parentHashes.values.allSatisfy { $0.count == 64 })
        #expect(result.calibration.sources == [.init(name: "test", windows: 16, weight: 1)])
        #expect(result.calibration.context == 16 && result.calibration.hash.count == 64)
        #expect(Set(result.phases.keys) == ["hash", "load", "calibrate", "fit", "write"])
        #expect(abs(result.seconds - result.phases.values.reduce(0, +)) < 1e-9)
        #expect(result.modules.allSatisfy { $0.seconds > 0 } && result.peakDeviceBytes == nil)
        let saved = try String(contentsOf: URL(filePath: "\(output)/minima.json"), encoding: .utf8)
        #expect(try CompressionResult(json: saved) == result)
    }

    @Test(
        "without compensation every weight is fitted alone, to the dense model's inputs",
        arguments: ["qwen3-gqa4-tied-v5", "llama-gqa2-bias-v5"])
    func independentFits(name: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel(name)
        let plan = try uniform(parent)
        let request = try compression(parent, plan)
        _ = try Compressor(parent, request).run(output: "\(scratch.path)/small")
        let small = try Checkpoint(path: "\(scratch.path)/small")
        var sums: [String: MomentSum] = [:]
        let model = try parent.loadModel()
        for window in request.sources[0].windows {
            let ids = try Tensor(window.map(Int64.init), shape: [1, window.count])
            _ = try model.run(ids) { site, x, _ in
                try sums[site, default: MomentSum()].add(x)
            }
        }
        for site in try parent.sites() {
            let moment = try #require(try sums[site.name]?.mean())
            let metric = try Metric(input: moment)
            for member in site.members {
                let weight = try parent.tensor("\(member.name).weight")
                let spec = try #require(plan.modules.first { $0.name == member.name }).spec
                let expected = try LowRank.decompose(weight, spec: spec, metric: metric)
                    .reconstruct()
                let found = try LowRank(
                    spec: spec, outputs: member.outputs, inputs: member.inputs,
                    tensors: [0, 1].map { try small.tensor("\(member.name).cores.\($0)") }
                ).reconstruct()
                // Moments differ by the rounding of float32 sums over 256 tokens, which turns
                // the leading basis by that much over the gap of its spectrum; the error that it
                // reaches does not change to first order.
                let least = try metric.norm(expected.to(dtype: .float64) - weight)
                let reached = try metric.norm(found.to(dtype: .float64) - weight)
                let rounding = 256 * weight.dtype.epsilon * (try metric.norm(weight))
                #expect(abs(least - reached) <= rounding, "\(member.name)")
            }
        }
    }

    @Test("a site's members may be stacked, single or dense", arguments: [false, true])
    func stackedAndSingle(isCompensated: Bool) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("llama-gqa2-bias-v5")
        let sites = try parent.sites()
        let rank = FormatSpec(format: LowRank.name, ranks: [8])
        let (qkv, o, gateUp) = (sites[4], sites[5], sites[6])
        let plan = plan(
            parent,
            [
                (qkv.name, [qkv.outputs, qkv.inputs], rank),
                (o.name, [o.outputs, o.inputs], FormatSpec(format: Dense.name)),
                (gateUp.members[1].name, [gateUp.members[1].outputs, gateUp.inputs], rank),
            ])
        let request = try compression(
            parent, plan, compensation: isCompensated ? .fixed(0.5) : .off)
        let result = try Compressor(parent, request).run(output: "\(scratch.path)/small")
        #expect(result.modules.map(\.name) == [qkv.name, gateUp.members[1].name])
        let small = try Checkpoint(path: "\(scratch.path)/small")
        #expect(
            Set(try CompressionManifest(small.config).modules.keys)
                == [qkv.name, gateUp.members[1].name])
        let replaced = Set((qkv.members + [gateUp.members[1]]).map { "\($0.name).weight" })
        for tensor in parent.tensors where !replaced.contains(tensor.name) {
            let (before, after) = (
                try parent.tensor(tensor.name), try small.tensor(tensor.name)
            )
            #expect(try before.isIdentical(to: after), "\(tensor.name) stayed as it was")
        }
        #expect(replaced.allSatisfy { small.info($0) == nil })
        // The model computes with the stacked factors.
        var weights = try WeightLoader(small, device: .cpu, dtype: .float32)
        let group = try weights.group(qkv, bias: true)
        let stacked = try LowRank(
            spec: rank, outputs: qkv.outputs, inputs: qkv.inputs,
            tensors: [0, 1].map { try small.tensor("\(qkv.name).cores.\($0)") })
        let x = try Tensor.randn([3, qkv.inputs], generator: RandomGenerator(seed: 1))
        let bias = try Tensor.cat(qkv.members.map { try small.tensor("\($0.name).bias") })
        let expected = try x.linear(stacked.reconstruct(), bias: bias)
        let found = try Tensor.cat(group(x), dim: 1)
        let scale = try expected.norm().item()
        #expect(try (found - expected).norm().item() <= 64 * DType.float32.epsilon * scale)
        #expect(try small.loadModel().dimensions.layers == 2)
    }

    @Test func statisticsStandForPasses() throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let sites = try parent.sites()
        let store = StatisticsStore(
            directory: scratch.path, key: String(repeating: "a", count: 64), sites: sites)
        let generator = try RandomGenerator(seed: 3)
        for layer in 0..<2 {
            let found = try sites.filter { $0.layer == layer }.map { site in
                let rows = try Tensor.randn([200, site.inputs], generator: generator)
                var sum = MomentSum()
                try sum.add(rows)
                return SiteStatistics(
                    site: site, input: try #require(try sum.mean()),
                    output: try OutputMetric(
                        joining: site.members.map {
                            try OutputMetric(
                                diagonal: Tensor.randn([$0.outputs], generator: generator).square()
                            )
                        }),
                    activations: .init(
                        rms: 1, largest: 1, outlierChannels: [], massiveTokens: 0),
                    tokens: 200)
            }
            try store.save(LayerStatistics(layer: layer, sites: found), withMoments: true)
        }
        var request = try compression(parent, uniform(parent), sources: [])
        request.statistics = store
        let result = try Compressor(parent, request).run(output: "\(scratch.path)/small")
        #expect(result.phases["calibrate"] == nil, "no pass was needed")
        let small = try Checkpoint(path: "\(scratch.path)/small")
        for (site, module) in zip(
            sites,
            sites.compactMap { site in
                result.modules.first { $0.name == site.members[0].name }
            })
        {
            let statistics = try #require(
                try store.load(layer: site.layer)?.sites.first { $0.site == site })
            let member = site.members[0]
            let metric = try Metric(
                input: statistics.input,
                output: statistics.output?.narrow(0..<member.outputs))
            let weight = try parent.tensor("\(member.name).weight")
            let value = try LowRank(
                spec: module.spec, outputs: member.outputs, inputs: member.inputs,
                tensors: [0, 1].map { try small.tensor("\(member.name).cores.\($0)") }
            ).reconstruct()
            let damage = try metric.squaredNorm(value.to(dtype: .float64) - weight) / 2
            let found = try #require(module.damage)
            #expect(abs(found - damage) <= 1e-9 * damage)
        }
        // With the text's own input moments the outputs' are still taken from there.
        request.sources = try someSources(parent)
        request.compensation = .fixed(0.5)
        let compensated = try Compressor(parent, request).run(output: "\(scratch.path)/other")
        #expect(compensated.modules.allSatisfy { $0.damage != nil && $0.compensation == 0.5 })
    }

    @Test func largeOutputsHaveAFilePerLayer() throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-sharded-v5")
        var request = try compression(parent, uniform(parent))
        let single = try Compressor(parent, request).run(output: "\(scratch.path)/single")
        request.largestFile = 1
        let sharded = try Compressor(parent, request).run(output: "\(scratch.path)/sharded")
        #expect(scratch.entries == ["sharded", "single"])
        let (left, right) = (
            try Checkpoint(path: "\(scratch.path)/single"),
            try Checkpoint(path: "\(scratch.path)/sharded")
        )
        let layers = try parent.config.int("num_hidden_layers")
        #expect(right.files.count == layers + 1)
        #expect(Set(left.tensorNames) == Set(right.tensorNames))
        for name in left.tensorNames {
            #expect(try left.tensor(name).isIdentical(to: right.tensor(name)))
        }
        #expect(single.totals == sharded.totals)
        #expect(try right.loadModel().dimensions.layers == layers)
    }

    @Test func modelsWithoutFilesAreCompressedToo() throws {
        let scratch = try Scratch()
        let golden = try goldenModel("qwen3-gqa4-tied-v5")
        let source = try RandomWeights(path: golden.path, seed: 5)
        let request = try compression(source, uniform(source), compensation: .fixed(0.5))
        let result = try Compressor(source, request).run(output: "\(scratch.path)/small")
        let small = try Checkpoint(path: "\(scratch.path)/small")
        #expect(try small.loadModel().dimensions.layers == 2)
        #expect(result.totals.bytesAfter == small.byteCount)
        let name = "model.layers.1.self_attn.q_norm.weight"
        let shape = try #require(small.info(name)).shape
        #expect(
            try small.tensor(name).isIdentical(to: source.tensor(name, shape: shape, on: .cpu)))
    }

    @Test func whatItTakesIsForeseen() throws {
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let plan = try uniform(parent)
        let plain = try Compressor(parent, compression(parent, plan)).requirements
        let compensated = try Compressor(
            parent, compression(parent, plan, compensation: .automatic)
        ).requirements
        #expect(plain.deviceBytes > 0 && compensated.deviceBytes > plain.deviceBytes)
        #expect(compensated.hostBytes > plain.hostBytes && plain.diskBytes > parent.byteCount)
        // A model of absurd size is refused before anything is made.
        let scratch = try Scratch()
        var members = try #require(parent.config.json.object)
        members["intermediate_size"] = .integer(1 << 24)
        try Data(JSON.object(members).text().utf8).write(
            to: URL(filePath: "\(scratch.path)/config.json"))
        let huge = try RandomWeights(path: scratch.path, seed: 1)
        let site = try #require(try huge.sites().first { $0.inputs == 1 << 24 })
        let wide = MinimaStagesTests.plan(
            huge, [(site.name, [site.outputs, site.inputs], .init(format: "lowrank", ranks: [1]))])
        let request = try compression(huge, wide)
        do {
            _ = try Compressor(huge, request).run(output: "\(scratch.path)/small")
            Issue.record("moments of 2 PiB are believed to fit")
        } catch StageError.notEnoughMemory(_, let needed, let available) {
            #expect(needed > 1 << 50 && available > 0)
        }
        #expect(scratch.entries == ["config.json"])
    }

    /// A parent in blocks of float8 is the dense model that it stands for: no float8 is left, also
    /// not where the configuration names it as the type of the weights.
    @Test(arguments: ["bfloat16", "float8_e4m3fn", nil] as [String?])
    func parentsInBlocksOfFloat8(dtype: String?) throws {
        let scratch = try Scratch()
        let dense = try goldenModel("qwen3-gqa3-untied-bf16-v4")
        let parent = try inBlocksOfFloat8(dense, dtype: dtype, at: "\(scratch.path)/parent")
        var plan = try CompressionPlan.uniform(
            parent, ratio: 0.3, format: LowRank.name, version: "test")
        // What the plan does not name stays, as bfloat16.
        let kept = plan.modules.removeLast()
        let result = try Compressor(parent, compression(parent, plan, compensation: .off))
            .run(output: "\(scratch.path)/x")
        let small = try Checkpoint(path: "\(scratch.path)/x")
        #expect(small.config.quantizationConfig?["quant_method"]?.string == "minima")
        #expect(try small.config.dtype == .bfloat16)
        #expect(!small.tensors.contains { $0.dtype == .float8e4m3 })
        #expect(!small.tensorNames.contains { $0.hasSuffix("_scale_inv") })
        let name = "\(kept.name).weight"
        #expect(try small.tensor(name).isIdentical(to: parent.tensor(name)))
        // What the parent takes is what its files hold.
        let totals = result.totals
        #expect(totals.bytesBefore == parent.byteCount && totals.bytesAfter == small.byteCount)
        let linear = parent.tensors.filter { $0.name.contains("_proj.weight") }
        #expect(totals.linearBytesBefore == linear.reduce(0) { $0 + $1.byteCount })
        #expect(totals.linearBytesBefore < 2 * totals.linearParametersBefore)
        let smallLinear = small.tensors.filter { $0.name.contains("_proj") }
        #expect(totals.linearBytesAfter == smallLinear.reduce(0) { $0 + $1.byteCount })
        _ = try small.loadModel()
    }

    /// A type that is not known is passed on as it stands: on a CPU weights keep the types that they have.
    @Test func typesThatAreNotKnownStay() throws {
        let scratch = try Scratch()
        let dense = try goldenModel("qwen3-gqa3-untied-bf16-v4")
        let path = "\(scratch.path)/parent"
        try FileManager.default.copyItem(atPath: dense.path, toPath: path)
        var config = try #require(dense.config.json.object)
        config["dtype"] = nil
        config["torch_dtype"] = "bfloat15"
        try Data(JSON.object(config).text().utf8).write(to: URL(filePath: "\(path)/config.json"))
        let parent = try Checkpoint(path: path)
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.3, format: LowRank.name, version: "test")
        _ = try Compressor(parent, compression(parent, plan, compensation: .off))
            .run(output: "\(scratch.path)/x")
        let small = try Checkpoint(path: "\(scratch.path)/x")
        #expect(small.config.json.object?["torch_dtype"] == .string("bfloat15"))
        _ = try small.loadModel(device: .cpu, dtype: .float32)
    }
}
