import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// The engine on the GPU against libtorch's forward pass; skipped where there is no GPU.
@Suite("CUDA backend on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct CUDABackendGPUTests {
    let kernels: CUDAContext

    init() throws {
        kernels = try .forTests(ofModels: true)
    }

    /// Ways of storing a site's weight: dense, factored, with codes, in blocks; behind a plus, that of the
    /// output projection, which is dense otherwise.
    static let ways = [
        "dense", "interpolative", "lowrank", "tucker", "tt", "tr", "dense int8", "dense int4",
        "dense int3", "dense int6", "dense fp8", "interpolative int8", "interpolative int4",
        "interpolative fp8", "blocks",
        "dense+dense int8", "dense int4+dense int8", "dense int8+dense int4", "dense+dense int6",
        "dense int4u", "dense int3u",
    ]

    private static func spec(_ way: String, outputs: Int, inputs: Int) throws -> FormatSpec {
        let words = way.split(separator: " ").map(String.init)
        if way == "blocks" {
            let half = outputs / 2
            return FormatSpec(
                format: Blocks.name, outputModes: [half, outputs - half],
                parts: [
                    try spec("interpolative", outputs: half, inputs: inputs),
                    FormatSpec(format: Dense.name),
                ])
        }
        var result = FormatSpec(format: Dense.name)
        if words[0] != Dense.name {
            let format = try #require(
                try FormatRegistry.format(words[0]) as? any BudgetedFormat.Type)
            result = try format.spec(
                fitting: outputs * inputs * 6 / 10, outputs: outputs, inputs: inputs)
        }
        guard words.count > 1 else { return result }
        let isFloat8 = words[1] == "fp8", isUniform = words[1].hasSuffix("u")
        let digits = words[1].dropFirst(3).dropLast(isUniform ? 1 : 0)
        let bits = isFloat8 ? 8 : try #require(Int(digits))
        return FormatSpec(
            format: Quantized.name, bits: bits, groupSize: 64,
            levels: isFloat8 ? .float8 : isUniform ? .uniform : .normal, parts: [result])
    }

    /// A model of two layers with random weights, every site stored in one way.
    func model(_ way: String) throws -> RandomWeights {
        let sizes: [(JSON.Name, JSON)] = [
            ("model_type", .string("qwen3")), ("dtype", .string("bfloat16")),
            ("tie_word_embeddings", .bool(false)), ("hidden_act", .string("silu")),
            ("hidden_size", .integer(512)), ("intermediate_size", .integer(1152)),
            ("num_hidden_layers", .integer(2)), ("num_attention_heads", .integer(8)),
            ("num_key_value_heads", .integer(2)), ("head_dim", .integer(64)),
            ("vocab_size", .integer(1000)), ("max_position_embeddings", .integer(4096)),
            ("rope_theta", .integer(10_000)), ("rms_norm_eps", .number(1e-6)),
        ]
        let config = try ModelConfig(
            json: .object(.init(uniqueKeysWithValues: sizes)), path: "test")
        let parts = way.split(separator: "+").map(String.init)
        let sites = try Qwen3.sites(config) + (parts.count > 1 ? [config.headSite()] : [])
        let plan = try sites.map { site in
            let way = site.name == LinearShape.headName ? parts[1] : parts[0]
            return CompressionPlan.Module(
                name: site.name, outputs: site.outputs, inputs: site.inputs,
                spec: try Self.spec(way, outputs: site.outputs, inputs: site.inputs),
                parameters: 0, bytes: 0, damage: nil)
        }
        return try RandomWeights(config, path: "test", seed: 7, plan: plan)
    }

    func tokens(_ count: Int, seed: UInt64, vocabulary: Int = 1000) -> [Int32] {
        var state = seed
        return (0..<count).map { _ in
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int32((state >> 33) % UInt64(vocabulary))
        }
    }

    /// Logits after `prompt` and after each of `rest`, by the libtorch forward in float32.
    private func reference(_ model: any LanguageModel, _ sequence: [Int32], from start: Int)
        throws -> Tensor
    {
        let input = try Tensor(sequence.map(Int64.init), shape: [1, sequence.count])
            .to(model.device)
        return try withoutGradients {
            let hidden = try model.run(input)
            return try model.logits(hidden.select(0, 0).narrow(0, start..<sequence.count))
                .to(dtype: .float32)
        }
    }

    /// Prompts of several lengths are read in chunks and continued together; the logits of every step
    /// are those of the whole forward pass in float32.
    ///
    /// Tolerance: twice the error of libtorch's own forward pass in bfloat16, which rounds at the same
    /// places in another order; keys and values in e4m3 add at most half a unit of its three bits, 2⁻⁴.
    @Test(arguments: ways, [KeyValueFormat.bfloat16, .float8])
    func logitsAreTheForwardPass(_ way: String, _ format: KeyValueFormat) throws {
        try compareLogits(
            way, format, lengths: [5, 64, underRacecheck(70, otherwise: 130)], bucket: 4,
            steps: underRacecheck(1, otherwise: 6))
    }

    /// The same in steps of more rows than one launch of the decoding kernel takes: codes go through it
    /// in groups, other weights through the library's products.
    @Test(arguments: ways)
    func logitsOfManyRowsAreTheForwardPass(_ way: String) throws {
        let apart = underRacecheck(2, otherwise: 7)
        try compareLogits(
            way, .bfloat16, lengths: (0..<20).map { 3 + apart * $0 }, bucket: 24, steps: 1)
    }

    private func compareLogits(
        _ way: String, _ format: KeyValueFormat, lengths: [Int], bucket: Int, steps: Int
    ) throws {
        let source = try model(way)
        let model = try source.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try source.loadModel(device: .cuda(0), dtype: .bfloat16)
        let sequences = lengths.enumerated().map { tokens($1 + steps, seed: UInt64($0 + 1)) }
        /// Of each sequence, from the last token of its prompt on; all in one pass, short ones filled up.
        func logits(_ model: any LanguageModel) throws -> [Tensor] {
            let width = sequences.map(\.count).max() ?? 0
            let filled = sequences.flatMap { sequence in
                sequence.map(Int64.init) + Array(repeating: 0, count: width - sequence.count)
            }
            let input = try Tensor(filled, shape: [sequences.count, width]).to(model.device)
            return try withoutGradients {
                let hidden = try model.run(input)
                return try lengths.enumerated().map { slot, length in
                    let places = length - 1..<length + steps
                    return try model.logits(hidden.select(0, slot).narrow(0, places))
                        .to(dtype: .float32)
                }
            }
        }
        let (expected, usual) = (try logits(model), try logits(rounding))
        let backend = try CUDABackend(
            source,
            layout: CUDALayout(
                slots: bucket, context: 256, format: format, chunk: 48, buckets: [bucket]),
            kernels: kernels)
        func check(row: Int, slot: Int, step: Int) throws {
            let found = try backend.decoder.buffers.logits.narrow(0, row..<row + 1)
            let place = step..<step + 1
            let right = try expected[slot].narrow(0, place)
            let length = try right.norm().item()
            let error = try (found - right).norm().item() / length
            let own = try (usual[slot].narrow(0, place) - right).norm().item() / length
            let bound = 2 * own + (format == .float8 ? 0x1p-4 : 0)
            #expect(error <= bound, "\(way) \(format): \(error) of \(bound)")
        }
        let pages = lengths.indices.map { slot in
            (slot * 4..<slot * 4 + 4).map { Int32($0) }
        }
        for (slot, length) in lengths.enumerated() {
            let prompt = Array(sequences[slot][..<length])
            try backend.open(
                slot,
                SequenceStart(
                    tokens: prompt, promptCount: length, sampling: try SamplingParameters()))
            for start in stride(from: 0, to: length, by: 48) {
                let end = min(start + 48, length)
                try backend.prefill(
                    PrefillChunk(
                        slot: slot, position: start, tokens: sequences[slot][start..<end],
                        pages: pages[slot], samples: end == length))
            }
            _ = try backend.collect()
            try check(row: 0, slot: slot, step: 0)
        }
        for step in 0..<steps {
            var inputs = [Int32](repeating: 0, count: bucket)
            for (slot, length) in lengths.enumerated() {
                inputs[slot] = sequences[slot][length + step]
            }
            try backend.decoder.stream.use {
                try HostTransfer.upload(inputs, to: backend.decoder.state.tokens)
            }
            // In another order than the slots'.
            let order = [lengths.count - 1] + lengths.indices.dropLast()
            try backend.decode(
                DecodeBatch(
                    rows: order.map {
                        DecodeBatch.Row(slot: $0, position: lengths[$0] + step, pages: pages[$0])
                    }, bucket: bucket))
            _ = try backend.collect()
            for (row, slot) in order.enumerated() {
                try check(row: row, slot: slot, step: step + 1)
            }
        }
    }

    /// The trained example model: greedy continuations of many requests at once are the reference's,
    /// token for token, up to the first near-tie of the reference's own logits.
    @Test func greedyTokensAreTheReference() throws {
        let path = "\(packageFolder())/Examples/tiny-qwen3-4m"
        let checkpoint = try Checkpoint(path: path)
        let model = try checkpoint.loadModel(device: .cpu, dtype: .float32)
        let kernels = kernels
        let engine = try Engine(EngineOptions()) {
            try CUDABackend(
                checkpoint, layout: CUDALayout(slots: 12, context: 512, chunk: 64),
                kernels: kernels)
        }
        let prompts = (0..<12).map {
            tokens(3 + 17 * $0, seed: UInt64($0), vocabulary: model.dimensions.vocabulary)
        }
        let handles = try prompts.map {
            try engine.submit(
                GenerationRequest(
                    prompt: $0, maxTokens: 40, sampling: SamplingParameters()))
        }
        var compared = 0
        for (prompt, handle) in zip(prompts, handles) {
            let found = try handle.wait().ids
            #expect(found.count == 40)
            var sequence = prompt
            for token in found {
                let logits = try reference(model, sequence, from: sequence.count - 1).select(0, 0)
                let values: [Float] = try logits.values()
                let best = values.indices.max { values[$0] < values[$1] } ?? 0
                // Two bfloat16 rounding errors of logits of this size.
                let tie = 0x1p-6 * (values.map(abs).max() ?? 0)
                #expect(values[best] - values[Int(token)] <= tie)
                guard best == Int(token) else { break }
                sequence.append(token)
                compared += 1
            }
        }
        #expect(compared > 240, "\(compared) of 480 tokens before a near-tie")
        engine.shutDown(.drain)
    }

    /// A prompt's log-probabilities are the forward pass's, across the borders of chunks and of the slices
    /// of logits, for few and many rows at a time, whatever the output projection is stored as.
    @Test(arguments: ["dense", "interpolative int4"], [1, 24])
    func scoresAreTheForwardPass(_ way: String, _ slots: Int) throws {
        let source = try model(way)
        let kernels = kernels
        let engine = try Engine(EngineOptions()) {
            try CUDABackend(
                source, layout: CUDALayout(slots: slots, context: 256, chunk: 48), kernels: kernels)
        }
        defer { engine.shutDown(.drain) }
        let prompts = [1, 2, 48, 49, 130].map { tokens($0, seed: UInt64($0)) }
        let handles = try prompts.enumerated().map { index, prompt in
            try engine.submit(
                GenerationRequest(
                    prompt: prompt, maxTokens: index % 3, sampling: SamplingParameters(),
                    promptLogprobs: 2))
        }
        let model = try source.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try source.loadModel(device: .cuda(0), dtype: .bfloat16)
        for (index, (prompt, handle)) in zip(prompts, handles).enumerated() {
            let outcome = try handle.wait()
            #expect(outcome.ids.count == index % 3 && outcome.prompt.map(\.id) == prompt)
            guard prompt.count > 1 else { continue }
            let targets = try Tensor(prompt.dropFirst().map(Int64.init)).to(.cuda(0)).unsqueeze(1)
            func own(_ model: any LanguageModel) throws -> [Float] {
                let logits = try reference(model, prompt, from: 0).narrow(0, 0..<targets.shape[0])
                return try logits.logSoftmax().gather(1, targets).values()
            }
            let (expected, usual) = (try own(model), try own(rounding))
            func error(_ found: [Float]) -> Double {
                zip(found, expected).reduce(0) { $0 + Double(($1.0 - $1.1) * ($1.0 - $1.1)) }
                    .squareRoot()
            }
            let found = try outcome.prompt.dropFirst().map { try #require($0.logprob) }
            // As far off as libtorch's own pass in bfloat16, which rounds at the same places in another
            // order; a unit of rounding where there is but one number.
            #expect(error(found) <= 2 * error(usual) + 0x1p-7, "\(way) \(prompt.count)")
            for token in outcome.prompt.dropFirst() {
                #expect(token.alternatives.count == 2)
                #expect(token.alternatives[0].logprob >= token.alternatives[1].logprob)
            }
        }
    }

    /// Decoding's perplexity over 1,192 tokens is the forward pass's within half a percent; errors of fewer
    /// even out less, as the root of their number.
    @Test(arguments: [KeyValueFormat.bfloat16, .float8])
    func perplexityIsTheForwardPass(_ format: KeyValueFormat) throws {
        let path = "\(packageFolder())/Examples/tiny-qwen3-4m"
        let checkpoint = try Checkpoint(path: path)
        let model = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let length = underRacecheck(20, otherwise: 150)
        let text = tokens(8 * length, seed: 3, vocabulary: model.dimensions.vocabulary)
        let windows = stride(from: 0, to: text.count, by: length).map {
            Array(text[$0..<$0 + length])
        }
        let backend = try CUDABackend(
            checkpoint, layout: CUDALayout(slots: 8, context: 192, format: format, chunk: 64),
            kernels: kernels)
        let (nats, count) = try DecodeEvaluator(backend).measure(windows)
        var expected = 0.0
        for window in windows {
            let logits = try reference(model, window, from: 0).narrow(0, 0..<length - 1)
            let targets = try Tensor(window.dropFirst().map(Int64.init)).to(.cuda(0)).unsqueeze(1)
            let chosen = try logits.logSoftmax().gather(1, targets)
            expected -= try chosen.sum().item()
        }
        #expect(count == 8 * (length - 1))
        let bound = 0.005 * (1192 / Double(count)).squareRoot()
        #expect(abs(nats - expected) <= bound * Double(count))
    }
}
