import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// A smaller model that drafts in the step's graph, against libtorch; skipped where there is no GPU.
@Suite("Model as draft on the GPU", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0), .serialized)
struct CUDAModelDrafterGPUTests {
    let kernels: CUDAContext
    let checkpoint: Checkpoint

    init() throws {
        kernels = try .forTests(ofModels: true)
        checkpoint = try Checkpoint(path: "\(packageFolder())/Examples/tiny-qwen3-4m")
    }

    /// A model of three layers with random weights and the target's vocabulary.
    ///
    /// - Parameters:
    ///   - format: What its sites are stored in.
    ///   - bits: Of codes; `nil` for bfloat16.
    private func draft(_ format: String = Dense.name, bits: Int? = nil) throws -> RandomWeights {
        let sizes: [(JSON.Name, JSON)] = [
            ("model_type", .string("qwen3")), ("dtype", .string("bfloat16")),
            ("tie_word_embeddings", .bool(true)), ("hidden_act", .string("silu")),
            ("hidden_size", .integer(128)), ("intermediate_size", .integer(320)),
            ("num_hidden_layers", .integer(3)), ("num_attention_heads", .integer(4)),
            ("num_key_value_heads", .integer(2)), ("head_dim", .integer(64)),
            ("vocab_size", .integer(8192)), ("max_position_embeddings", .integer(4096)),
            ("rope_theta", .integer(10_000)), ("rms_norm_eps", .number(1e-6)),
        ]
        let config = try ModelConfig(
            json: .object(.init(uniqueKeysWithValues: sizes)), path: "draft")
        let plan = try Qwen3.sites(config).map { site in
            var spec = FormatSpec(format: Dense.name)
            if format != Dense.name {
                let found = try FormatRegistry.format(format) as? any BudgetedFormat.Type
                spec = try #require(found).spec(
                    fitting: site.outputs * site.inputs * 6 / 10, outputs: site.outputs,
                    inputs: site.inputs)
            }
            if let bits {
                spec = FormatSpec(
                    format: Quantized.name, bits: bits, groupSize: 64, parts: [spec])
            }
            return CompressionPlan.Module(
                name: site.name, outputs: site.outputs, inputs: site.inputs, spec: spec,
                parameters: 0, bytes: 0, damage: nil)
        }
        return try RandomWeights(config, path: "draft", seed: 5, plan: plan)
    }

    /// What `model` says after a sequence, float32 `[vocabulary]`.
    private func logits(_ model: any LanguageModel, after sequence: [Int32]) throws -> Tensor {
        let ids = try Tensor(sequence.map(Int64.init), shape: [1, sequence.count])
            .to(model.device)
        return try withoutGradients {
            try model.logits(model.run(ids).select(1, sequence.count - 1)).reshape([-1])
                .to(dtype: .float32)
        }
    }

    /// Opens a slot and reads a prompt in the backend's chunks; returns it with the token after it.
    private func read(
        _ prompt: [Int32], _ parameters: SamplingParameters, slot: Int, pages: [Int32],
        _ backend: CUDABackend
    ) throws -> [Int32] {
        try backend.open(
            slot,
            SequenceStart(tokens: prompt, promptCount: prompt.count, sampling: parameters))
        let chunk = backend.capacity.prefillChunk
        for start in stride(from: 0, to: prompt.count, by: chunk) {
            let end = min(start + chunk, prompt.count)
            try backend.prefill(
                PrefillChunk(
                    slot: slot, position: start, tokens: prompt[start..<end], pages: pages,
                    samples: end == prompt.count))
        }
        return prompt + [try backend.collect()[0][0].id]
    }

    private func pages(of slot: Int, _ backend: CUDABackend) -> [Int32] {
        let width = backend.decoder.layout.pagesPerSlot
        return (slot * width..<(slot + 1) * width).map { Int32($0) }
    }

    /// Prompts of several lengths, shorter than a round and longer than a chunk among them, continued by
    /// steps of changing numbers of proposals: the logits of each step's last proposal are the model's
    /// over the whole sequence with the proposals before, and the proposal is what they say.
    ///
    /// Tolerance: twice the error of the model in bfloat16 through libtorch, which rounds at the same
    /// places in another order, as the root of the mean square over all steps and rows.
    @Test(
        arguments: underRacecheck(
            [("dense", nil), ("interpolative", 4)],
            otherwise: [
                ("dense", nil), ("dense", 8), ("dense", 4), ("interpolative", nil),
                ("interpolative", 4),
            ]))
    func proposalsAreTheModels(format: String, bits: Int?) throws {
        let numbers = underRacecheck([3, 1, 0, 3], otherwise: [3, 3, 1, 0, 1, 3, 0, 0, 3])
        let weights = try draft(format, bits: bits)
        let exact = try weights.loadModel(device: .cuda(0), dtype: .float32)
        let rounding = try weights.loadModel(device: .cuda(0), dtype: .bfloat16)
        let bucket = 4
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: bucket, context: 256, chunk: 64, buckets: [bucket],
                draftTokens: [1, 3]), draft: .model(weights), kernels: kernels)
        let drafter = try #require(backend.decoder.drafter as? CUDAModelDrafter)
        #expect(backend.capacity.prefixes == PrefixReuse(computed: 3))
        var random = SplitMix(8)
        var sequences: [[Int32]] = []
        var parameters: [SamplingParameters] = []
        for (slot, length) in [1, 2, 70, 150].enumerated() {
            parameters.append(try SamplingParameters(temperature: slot == 2 ? 0.9 : 0, seed: 77))
            sequences.append(
                try read(
                    random.tokens(length...length, below: 8000), parameters[slot], slot: slot,
                    pages: pages(of: slot, backend), backend))
        }
        var (errors, usual) = (0.0, 0.0)
        for number in numbers {
            try backend.decode(
                DecodeBatch(
                    rows: (0..<bucket).map {
                        .init(
                            slot: $0, position: sequences[$0].count - 1,
                            pages: pages(of: $0, backend))
                    }, bucket: bucket, draftTokens: number))
            let found = try backend.collect()
            let drafts: [Int32] = try backend.decoder.state.drafts.values()
            for slot in 0..<bucket where number > 0 {
                let guesses = drafts[slot * 3..<slot * 3 + number]
                let read = sequences[slot] + guesses.dropLast()
                let own = try drafter.logits.select(0, slot)
                let expected = try logits(exact, after: read)
                let size = try expected.norm().item()
                let error = try (own - expected).norm().item() / size
                let other = try (logits(rounding, after: read) - expected).norm().item() / size
                errors += error * error
                usual += other * other
                #expect(error < 0.2, "\(number) behind \(sequences[slot].count) tokens")
                #expect(
                    try guesses.last
                        == Self.choice(own, parameters[slot], position: read.count))
            }
            for slot in 0..<bucket { sequences[slot] += found[slot].map(\.id) }
        }
        #expect(errors <= 4 * usual, "\(errors) of \(4 * usual)")
    }

    /// The draft's token by the sampler's arithmetic.
    private static func choice(
        _ logits: Tensor, _ parameters: SamplingParameters, position: Int
    ) throws -> Int32 {
        let values: [Float] = try logits.values()
        var scores = values
        if parameters.temperature > 0 {
            let draws = HostNoise.logDraws(
                seed: parameters.seed, position: position, vocabulary: values.count)
            let inverse = Float(1 / parameters.temperature)
            scores = values.indices.map { values[$0] * inverse - draws[$0] }
        }
        return Int32(scores.indices.reduce(0) { scores[$1] > scores[$0] ? $1 : $0 })
    }

    /// Of a large vocabulary several thread blocks choose a row's token, launch after launch: the one that
    /// the host finds, whether the draft's ids are the target's or listed.
    @Test func largeVocabularies() throws {
        let (vocabulary, slots, device) = (100_003, [2, -1, 0, 1], Device.cuda(0))
        let parameters = try [0, 0.7, 1.3].map {
            try SamplingParameters(temperature: $0, seed: 12)
        }
        let state = try SamplingState(
            slots: 3, vocabulary: vocabulary, places: 4, sequenceLength: 8, device: device)
        let sampling = try SamplingKernel(context: kernels, vocabulary: vocabulary, rows: 4)
        let stream = try CUDAStream(on: kernels)
        for (slot, own) in parameters.enumerated() {
            try sampling.open(
                slot: slot, own.settings, tokens: Array(0...Int32(slot)), promptCount: 1,
                state: state, on: stream)
        }
        let draft = try DraftKernels(context: kernels)
        let round = try DraftKernels.Round(
            rows: 4, places: 1, steps: 3, reading: .tokens, device: device)
        let rows = try Tensor(slots.map(Int32.init)).to(device)
        let ids = try Tensor((0..<vocabulary).map(Int32.init)).to(device)
        let logits = try Tensor.randn(
            [4, vocabulary], device: device, generator: RandomGenerator(seed: 4, device: device))
        try device.synchronize()
        for (place, ids) in [nil, ids, nil].enumerated() {
            try draft.choose(
                logits, slots: rows, state: state, targetIds: ids, round: round, place: place,
                on: stream)
        }
        try stream.synchronize()
        let drafts: [Int32] = try state.drafts.values()
        for (row, slot) in slots.enumerated() where slot >= 0 {
            for place in 0..<3 {
                let expected = try Self.choice(
                    logits.select(0, row), parameters[slot], position: slot + 1 + place)
                #expect(drafts[3 * slot + place] == expected, "slot \(slot), place \(place)")
            }
        }
        #expect(try round.next.values(as: Int32.self)[1] == -1)
    }

    /// The launches of a step are those of the draft's layers, once for what it reads again and each
    /// proposal after the first, then those of the step without.
    @Test func launches() throws {
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: 2, context: 128, chunk: 64, buckets: [1, 2], draftTokens: [1, 3]),
            draft: .model(draft()), kernels: kernels)
        for size in backend.decoder.layout.steps {
            let names = backend.step(size).kernels.map(\.name)
            func count(_ name: String) -> Int { names.count { $0 == name } }
            let passes = max(size.draftTokens, 1)
            #expect(names.first == "draft begin" && count("draft begin") == 1)
            #expect(count("draft embed") == passes && count("embed") == 1)
            #expect(count("draft qkv") == 3 * passes && count("draft attention") == 3 * passes)
            // Keys and values are all that is wanted of a step that proposes nothing.
            #expect(count("draft down") == 3 * passes - (size.draftTokens == 0 ? 1 : 0))
            for name in ["draft head", "draft choose"] { #expect(count(name) == size.draftTokens) }
            #expect(count("draft last") == (size.draftTokens > 0 ? 1 : 0))
            #expect(count("attention") == 6 && count("begin") == 1)
            let last = names.lastIndex { $0.hasPrefix("draft") }
            #expect(try #require(last) < #require(names.firstIndex(of: "begin")))
        }
        for bucket in [1, 2] {
            let plain = backend.step(StepSize(bucket: bucket, draftTokens: 0, leavesDraft: true))
            #expect(plain.graph != nil && plain.kernels.first?.name == "begin")
            #expect(!plain.kernels.contains { $0.name.hasPrefix("draft") })
        }
    }

    /// Decodes four requests side by side until each has `count` new tokens, in the smallest bucket for
    /// those that are not done.
    ///
    /// - Parameter numbers: Proposals of each step in turn.
    /// - Returns: New tokens, the steps, and of all rows' proposals the share that was right.
    private func decode(
        _ draft: CUDADraft?, _ prompts: [[Int32]], _ sampling: [SamplingParameters], count: Int,
        numbers: [Int]
    ) throws -> (tokens: [[Int32]], steps: Int, right: Double) {
        // Each takes five launches of its steps to time them.
        let buckets = underRacecheck([4], otherwise: [1, 2, 4])
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: 4, context: 256, chunk: 64, buckets: buckets, draftTokens: [1, 3]),
            draft: draft, kernels: kernels)
        var sequences: [[Int32]] = []
        for (slot, prompt) in prompts.enumerated() {
            sequences.append(
                try read(
                    prompt, sampling[slot], slot: slot, pages: pages(of: slot, backend), backend))
        }
        func isOpen(_ slot: Int) -> Bool { sequences[slot].count < prompts[slot].count + count }
        var (steps, proposed, right) = (0, 0, 0)
        while prompts.indices.contains(where: isOpen) {
            // Now and then a row waits, so that rows change their places and buckets.
            let open = prompts.indices.filter(isOpen)
            let rows = steps % 5 == 4 && open.count > 1 ? Array(open.dropFirst()) : open
            let bucket = try #require(buckets.first { $0 >= rows.count })
            let number = numbers[steps % numbers.count]
            try backend.decode(
                DecodeBatch(
                    rows: rows.map {
                        .init(
                            slot: $0, position: sequences[$0].count - 1,
                            pages: pages(of: $0, backend))
                    }, bucket: bucket, draftTokens: number))
            for (slot, tokens) in zip(rows, try backend.collect()) {
                sequences[slot] += tokens.map(\.id)
                proposed += number
                right += tokens.count - 1
            }
            steps += 1
        }
        let tokens = zip(sequences, prompts).map { Array($0[$1.count..<$1.count + count]) }
        return (tokens, steps, Double(right) / Double(max(proposed, 1)))
    }

    private func requests() throws -> (prompts: [[Int32]], sampling: [SamplingParameters]) {
        var random = SplitMix(1)
        return (
            [2, 61, 130, 64].map { random.tokens($0...$0, below: 8000) },
            try (0..<4).map {
                try SamplingParameters(temperature: $0 < 2 ? 0 : 0.5, seed: UInt64($0))
            }
        )
    }

    /// With or without a draft the tokens are the same, up to near-ties, whether it is the target itself
    /// or guesses at random.
    @Test func theDraftDoesNotChangeTokens() throws {
        let count = underRacecheck(8, otherwise: 50)
        let exact = try checkpoint.loadModel(device: .cuda(0), dtype: .float32)
        let (prompts, sampling) = try requests()
        let expected = try decode(nil, prompts, sampling, count: count, numbers: [0]).tokens
        var drafts = [CUDADraft.model(try draft(bits: 4))]
        drafts += try underRacecheck([], otherwise: [.model(checkpoint), .model(draft())])
        for draft in drafts {
            let found = try decode(draft, prompts, sampling, count: count, numbers: [3, 1, 3, 0])
                .tokens
            for slot in found.indices where found[slot] != expected[slot] {
                #expect(
                    try NearTie.explains(
                        (found[slot], expected[slot]), prompt: prompts[slot], sampling[slot], exact)
                )
            }
        }
    }

    /// The target as its own draft says what it will say, greedy or drawn from the same numbers, as rows
    /// change their places, buckets and numbers of proposals: its pages hold what was settled.
    ///
    /// Only near-ties part the two, as rows are multiplied in other numbers: one proposal of five may be
    /// wrong or stand behind one that is.
    @Test(
        arguments: underRacecheck(
            [[3, 0, 1, 3, 3]], otherwise: [[3], [1], [3, 0, 1, 3, 3], [3, 0, 0, 0, 0, 0, 0]]))
    func aPerfectDraftIsRight(numbers: [Int]) throws {
        let (prompts, sampling) = try requests()
        let found = try decode(
            .model(checkpoint), prompts, sampling, count: underRacecheck(16, otherwise: 60),
            numbers: numbers)
        #expect(found.right > 0.8, "\(found.right) in \(found.steps) steps")
    }

    /// A sequence that begins with pages that another has filled is drafted for as well: the target as
    /// its own draft stays right through conversations.
    @Test func prefixesHoldForTheDraft() throws {
        let (checkpoint, kernels) = (checkpoint, kernels)
        let engine = try Engine(EngineOptions(speculation: .fixed(3))) {
            try CUDABackend(
                checkpoint,
                layout: CUDALayout(
                    slots: 2, context: 512, chunk: 64, buckets: [2], draftTokens: [3]),
                draft: .model(checkpoint), kernels: kernels)
        }
        defer { engine.shutDown(.drain) }
        var random = SplitMix(9)
        var turns = (0..<2).map { _ in random.tokens(130...130, below: 8000) }
        let (rounds, count) = underRacecheck((2, 21), otherwise: (3, 70))
        for _ in 0..<rounds {
            let handles = try turns.map { prompt in
                try engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: count, sampling: SamplingParameters()))
            }
            for (index, handle) in handles.enumerated() {
                turns[index] += try handle.wait().ids + random.tokens(3...3, below: 8000)
            }
        }
        // Of each second and third turn the pages of the turn before.
        #expect(engine.metrics.cachedTokens >= 2 * [128, 192].prefix(rounds - 1).reduce(0, +))
        let length = try #require(engine.metrics.speculation.acceptanceLength)
        #expect(length > 3.2, "\(length)")
    }

    /// A model of other tokens is refused before its weights are read.
    @Test func anotherVocabularyIsAnError() throws {
        let other = try Checkpoint(
            path: "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5")
        #expect(throws: DraftingError.self) {
            try CUDABackend(
                checkpoint, layout: CUDALayout(slots: 1, context: 64, draftTokens: [1]),
                draft: .model(other), kernels: kernels)
        }
    }
}
