import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Activation chains")
struct ActivationChainTests {
    private let batches = TokenBatch.batches(smallSources, tokensPerPass: 18)

    @Test("layer by layer gives the whole model's last states", arguments: goldenModelNames)
    func whole(name: String) throws {
        let checkpoint = try goldenModel(name)
        let ends = try checkpoint.loadPart(.ends)
        var chain = try ActivationChain(batches, embeddedBy: ends)
        for layer in 0..<ends.dimensions.layers {
            #expect(chain.boundary == layer)
            try chain.advance(layer: checkpoint.loadPart(.layer(layer)))
        }
        let model = try checkpoint.loadModel()
        for (index, batch) in batches.enumerated() {
            let states = try chain.states(index)
            #expect(states.shape == [batch.windows.count, batch.length, ends.dimensions.hidden])
            let expected = try model.run(batch.ids())
            #expect(try ends.normed(states).isIdentical(to: expected))
        }
        #expect(throws: CalibrationError.self) { try chain.advance(layer: model) }
    }

    @Test("files hold what memory holds", arguments: [DType.float32, .bfloat16])
    func files(dtype: DType) throws {
        let scratch = try Scratch()
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel(dtype: dtype)
        func path(_ name: String) -> String { "\(scratch.path)/\(name)" }
        let memory = try ActivationChain(batches, embeddedBy: model)
        let file = try ActivationChain(
            batches, embeddedBy: model, in: .file(path("0")), key: "k")
        let memoryNext = try memory.advanced(layer: model)
        var fileNext = try file.advanced(layer: model, to: .file(path("1")), key: "k")
        try memoryNext.save(to: path("saved"), key: "k")
        let saved = try ActivationChain(
            file: path("saved"), boundary: 1, batches: batches, key: "k")
        func expectSame(_ left: ActivationChain, _ right: ActivationChain) throws {
            #expect(left.boundary == right.boundary)
            for index in batches.indices {
                let states = try left.states(index)
                #expect(states.dtype == dtype && states.device == .cpu)
                #expect(try states.isIdentical(to: right.states(index)))
            }
        }
        try expectSame(memory, file)
        try expectSame(memoryNext, fileNext)
        try expectSame(memoryNext, saved)
        var memoryLast = memoryNext
        try memoryLast.advance(layer: model)
        try fileNext.advance(layer: model)
        try expectSame(memoryLast, fileNext)
        // The chain before was not touched.
        #expect(memoryNext.boundary == 1 && memory.boundary == 0)
        #expect(try memoryNext.states(0).isIdentical(to: saved.states(0)))
        #expect(
            ActivationChain.byteCount(batches, hidden: 24, dtype: dtype)
                == batches.reduce(0) { $0 + $1.tokens } * 24 * dtype.byteCount)
    }

    @Test func foreignFilesAreRefused() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/chain"
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        try ActivationChain(batches, embeddedBy: model).save(to: path, key: "k")
        _ = try ActivationChain(file: path, boundary: 0, batches: batches, key: "k")
        for (boundary, key, count) in [(0, "l", 5), (1, "k", 5), (0, "k", 1)] {
            var sources = smallSources
            sources[0].windows = Array(sources[0].windows.prefix(count))
            let batches = TokenBatch.batches(sources, tokensPerPass: 18)
            #expect(throws: CalibrationError.self) {
                try ActivationChain(file: path, boundary: boundary, batches: batches, key: key)
            }
        }
        let bytes = try #require(FileManager.default.contents(atPath: path))
        try bytes.dropLast().write(to: URL(filePath: path))
        #expect(throws: CheckpointError.self) {
            try ActivationChain(file: path, boundary: 0, batches: batches, key: "k")
        }
    }

    @Test func substitutesAndObserversReachTheLayer() throws {
        let checkpoint = try goldenModel("llama-gqa2-bias-v5")
        let model = try checkpoint.loadModel()
        let site = try #require(checkpoint.sites().first { $0.name.hasSuffix("down_proj") })
        let zero = Dense(try .zeros([site.outputs, site.inputs]))
        let chain = try ActivationChain(batches, embeddedBy: model)
        var seen: [String] = []
        var weights: [Double] = []
        let changed = try chain.advanced(layer: model, substitutes: [site.name: zero]) {
            batch, name, _, _ in
            seen.append(name)
            weights.append(batch.weight)
        }
        let first = try checkpoint.sites().filter { $0.layer == 0 }.map(\.name)
        #expect(seen == batches.flatMap { _ in first })
        #expect(Set(weights) == Set(batches.map(\.weight)))
        let plain = try chain.advanced(layer: model)
        for index in batches.indices {
            #expect(try !changed.states(index).isIdentical(to: plain.states(index)))
            let own = try chain.output(index, of: model)
            #expect(try own.isIdentical(to: plain.states(index)))
            let other = try chain.output(index, of: model, substitutes: [site.name: zero])
            #expect(try other.isIdentical(to: changed.states(index)))
        }
    }
}

@Suite("Memory of a calibration")
struct CalibrationMemoryTests {
    /// The sizes of a golden model with a changed configuration.
    private func random(_ changes: [String: JSON], _ scratch: Scratch) throws -> RandomWeights {
        let golden = try goldenModel("qwen3-gqa4-tied-v5").config
        var members = try #require(golden.json.object)
        for (key, value) in changes { members[JSON.Name(key)] = value }
        try Data(JSON.object(members).text().utf8)
            .write(to: URL(filePath: "\(scratch.path)/config.json"))
        return try RandomWeights(path: scratch.path, seed: 1)
    }

    @Test func tooMuchIsRefusedBeforehand() throws {
        let scratch = try Scratch()
        let huge = try random(
            ["intermediate_size": .integer(Int64(ModelConfig.largestCount))], scratch)
        let calibrator = try Calibrator(
            huge, sources: smallSources, settings: CalibrationSettings(gradientWindows: 1),
            fingerprints: [:])
        #expect(calibrator.memory.deviceBytes == .max)
        do {
            _ = try calibrator.collect { _ in Issue.record("something is computed") }
            Issue.record("moments of 2⁶⁵ bytes are believed to fit")
        } catch StageError.notEnoughMemory(let purpose, let needed, let available) {
            #expect(needed == .max && available > 0 && purpose.contains("calibration"))
        }
        #expect(CalibrationMemory.momentBytes(try huge.sites()) == .max)
    }

    @Test func whatIsMissingIsNamed() throws {
        let memory = try smallCalibrator().memory
        let both = memory.deviceBytes + memory.hostBytes
        try memory.check(directory: nil, free: (nil, both))
        try memory.check(directory: nil, free: (nil, nil))
        #expect(throws: StageError.self) {
            try memory.check(directory: nil, free: (nil, both - 1))
        }
    }

    @Test func manyTokensGoToFiles() throws {
        let scratch = try Scratch()
        let plain = try smallCalibrator().memory
        #expect(!plain.isSpilled && plain.diskBytes == 0)
        let stored = try smallCalibrator(directory: scratch.path).memory
        #expect(!stored.isSpilled && stored.diskBytes > 0)
        #expect(stored.hostBytes == plain.hostBytes)
        let spilled = try smallCalibrator(directory: scratch.path) { $0.hostBudget = 0 }.memory
        #expect(spilled.isSpilled && spilled.hostBytes < plain.hostBytes)
        #expect(spilled.diskBytes > stored.diskBytes && spilled.deviceBytes == plain.deviceBytes)
        // Without a directory there is nowhere to spill to.
        #expect(try !smallCalibrator { $0.hostBudget = 0 }.memory.isSpilled)
        let forward = try smallCalibrator(gradientWindows: 0).memory
        #expect(forward.hostBytes < plain.hostBytes && forward.deviceBytes < plain.deviceBytes)
    }

    @Test func sizesThatOverflowSaturate() {
        #expect(Saturating.product([.max, 2]) == .max)
        #expect(Saturating.product([.max, 2, 0]) == 0)
        #expect(Saturating.product([]) == 1)
        #expect(Saturating.sum([.max, 1]) == .max && Saturating.sum([1, 2]) == 3)
    }

    @Test("a layer of Qwen3-32B's shape fits one device with 80 GiB")
    func large() throws {
        let scratch = try Scratch()
        let model = try random(
            [
                "hidden_size": 5120, "intermediate_size": 25_600, "num_hidden_layers": 64,
                "num_attention_heads": 64, "num_key_value_heads": 8, "head_dim": 128,
                "vocab_size": 151_936, "tie_word_embeddings": false, "dtype": "bfloat16",
                "layer_types": .array(Array(repeating: "full_attention", count: 64)),
            ], scratch)
        var settings = CalibrationSettings(
            device: .cuda(0), dtype: .bfloat16, gradientWindows: 16)
        settings.hostBudget = 64 << 30
        let windows = Array(repeating: Array(repeating: Int32(0), count: 2048), count: 64)
        let calibrator = try Calibrator(
            model, sources: [CalibrationSource(name: "text", windows: windows)],
            settings: settings, fingerprints: [:])
        // Two layers' worth of bf16 weights is 2 GiB, C of the widest input 5 GiB.
        #expect(calibrator.memory.deviceBytes > 10 << 30)
        #expect(calibrator.memory.deviceBytes < 80 << 30)
        // 131,072 tokens at 65 boundaries in bf16.
        #expect(calibrator.memory.hostBytes > 131_072 * 5120 * 2 * 65)
        #expect(!calibrator.storesMoments)
        func blocks(_ limit: Int) throws -> [[Int]] {
            try model.sites().prefix(4).map { $0.metricRuns(limit: limit).map(\.size) }
        }
        #expect(try blocks(2048) == [[128, 1024, 1024], [256], [256, 256], [256]])
        // 8192 + 2 · 1024 outputs of attention.
        #expect(try blocks(10_239) == [[8192, 1024, 1024], [5120], [256, 256], [5120]])
        #expect(try blocks(10_240) == [[10_240], [5120], [256, 256], [5120]])
    }
}
