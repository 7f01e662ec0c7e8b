import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Calibration and compression")
struct CompressorTests {
    private func request(
        _ parent: Checkpoint, ratio: Double = 0.35, format: String = LowRank.name
    ) throws -> Compressor.Request {
        let vocabulary = try parent.config.int("vocab_size")
        let windows = TokenWindows.split(
            [someTokens(256, vocabulary: vocabulary)], context: 16, keepRest: false)
        return Compressor.Request(
            ratio: ratio, format: format, windows: windows,
            calibration: .init(sources: ["test"], samples: 16, context: 16, seed: 1),
            device: .cpu, version: "test")
    }

    @Test(
        "second moments are the mean outer products",
        arguments: ["qwen3-gqa4-tied-v5", "llama-gqa2-bias-v5"])
    func secondMoments(name: String) throws {
        let model = try goldenModel(name).loadModel()
        let windows = TokenWindows.split(
            [someTokens(60, vocabulary: model.dimensions.vocabulary)], context: 20, keepRest: false)
        var inputs: [String: [Tensor]] = [:]
        for window in windows {
            let ids = try Tensor(window.map(Int64.init), shape: [1, 20])
            _ = try model.run(ids) { names, x in
                for name in names { inputs[name, default: []].append(try x.squeeze(0)) }
            }
        }
        let moments = SecondMoments()
        try moments.accumulate(model, windows, tokensPerPass: 40)
        #expect(moments.tokens == 60)
        let shapes = try Set(
            FamilyRegistry.family(goldenModel(name).config).linearShapes(goldenModel(name).config))
        #expect(Set(inputs.keys) == Set(shapes.map(\.name)))
        for shape in shapes {
            let rows = try Tensor.cat(try #require(inputs[shape.name])).to(dtype: .float64)
            let expected = try rows.transpose().matmul(rows) / 60
            let found = try #require(try moments.moment(shape.name))
            #expect(found.dtype == .float64)
            let scale = try expected.norm().item()
            // float32 products of 40 terms.
            #expect(try (found - expected).norm().item() <= 40 * DType.float32.epsilon * scale)
        }
    }

    @Test(
        "every format writes a checkpoint that loads and keeps its budget",
        arguments: FormatRegistry.all.map { $0.name }.filter { $0 != Dense.name })
    func everyFormat(format: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-sharded-v5")
        let output = "\(scratch.path)/small"
        let result = try Compressor(parent, request(parent, format: format)).run(output: output)
        #expect(scratch.entries == ["small"], "nothing but the output is left")
        let small = try Checkpoint(path: output)
        let model = try small.loadModel()
        #expect(model.dimensions == (try parent.loadModel()).dimensions)
        let manifest = try CompressionManifest(small.config)
        let shapes = try Qwen3.linearShapes(parent.config)
        #expect(Set(manifest.modules.keys) == Set(shapes.map(\.name)))
        #expect(result.modules.count == shapes.count)
        for module in result.modules {
            #expect(module.spec.format == format)
            #expect(Double(module.parameters) <= 0.65 * Double(module.outputs * module.inputs))
            #expect(module.weightError > 0 && module.weightError < 1)
            #expect(module.outputError >= 0 && module.outputError.isFinite)
        }
        #expect(result.linearParametersAfter == result.modules.reduce(0) { $0 + $1.parameters })
        #expect(
            result.parametersBefore - result.parametersAfter
                == result.linearParametersBefore - result.linearParametersAfter)
        #expect(result.bytesAfter == small.byteCount)
        #expect(result.device == "cpu" && result.dtype == "float32" && result.schema == 1)
        #expect(result.parentHashes.count == parent.files.count)
        #expect(result.parentHashes.values.allSatisfy { $0.count == 64 })
        let saved = try String(contentsOf: URL(filePath: "\(output)/minima.json"), encoding: .utf8)
        #expect(try CompressionResult(json: saved) == result)
        // Inspecting counts the same parameters.
        let inspection = try InspectionResult(small)
        #expect(inspection.parameters == result.parametersAfter)
    }

    @Test func compressedModelsComputeWithTheirReconstructions() throws {
        let scratch = try Scratch()
        let parent = try goldenModel("llama-gqa2-bias-v5")
        let output = "\(scratch.path)/small"
        _ = try Compressor(parent, request(parent)).run(output: output)
        let small = try Checkpoint(path: output)
        var weights = try WeightLoader(small, device: .cpu, dtype: .float32)
        let shape = try #require(try Llama.linearShapes(small.config).first)
        let linear = try weights.linear(
            shape.name, outputs: shape.outputs, inputs: shape.inputs, bias: true)
        let x = try Tensor.randn(
            [3, shape.inputs], generator: RandomGenerator(seed: 1))
        let bias = try #require(linear.bias)
        let expected = try x.linear(linear.weight.reconstruct(), bias: bias)
        let difference = try (linear(x) - expected).abs().max().item()
        #expect(difference <= 64 * DType.float32.epsilon * (try expected.norm().item()))
    }

    @Test func compressionIsDeterministic() throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        for name in ["a", "b"] {
            _ = try Compressor(parent, request(parent)).run(output: "\(scratch.path)/\(name)")
        }
        let files = try ["a", "b"].map {
            try Data(contentsOf: URL(filePath: "\(scratch.path)/\($0)/model.safetensors"))
        }
        #expect(files[0] == files[1])
    }

    @Test func cancelledRunsLeaveNothing() throws {
        struct Stop: Error {}
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        for stage in ["load", "calibrate", "hash", "decompose"] {
            #expect(throws: Stop.self) {
                _ = try Compressor(parent, request(parent)).run(output: "\(scratch.path)/x") {
                    if $0.stage == stage { throw Stop() }
                }
            }
            #expect(scratch.entries.isEmpty, "stopped in \(stage)")
        }
    }

    @Test func badRequestsAreRefused() throws {
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        for ratio in [0, 1, -0.5, 2, .nan] {
            #expect(throws: StageError.self) {
                try Compressor(parent, request(parent, ratio: ratio))
            }
        }
        #expect(throws: FormatError.self) { try Compressor(parent, request(parent, format: "svd")) }
        do {
            _ = try Compressor(parent, request(parent, ratio: 0.9999))
            Issue.record("a matrix was compressed to nothing")
        } catch {
            #expect("\(error)".contains("q_proj") && "\(error)".contains("lower the ratio"))
        }
        let scratch = try Scratch()
        _ = try Compressor(parent, request(parent)).run(output: "\(scratch.path)/once")
        let compressed = try Checkpoint(path: "\(scratch.path)/once")
        do {
            _ = try Compressor(compressed, request(parent))
            Issue.record("a compressed model was compressed again")
        } catch StageError.alreadyCompressed {}
        // An output that exists is not overwritten.
        #expect(throws: CheckpointError.self) {
            _ = try Compressor(parent, request(parent)).run(output: "\(scratch.path)/once")
        }
    }
}
