import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

@Suite("Engine: libtorch backend")
struct EngineTorchTests {
    /// What `TextGenerator` gives a request by itself.
    private func reference(_ model: any LanguageModel, _ request: GenerationRequest) throws
        -> [Int32]
    {
        try TextGenerator(model).generate(
            request.prompt, maxTokens: request.maxTokens, sampling: request.sampling,
            stop: request.stop
        ).tokens
    }

    /// Whether two greedy continuations agree up to a tie: batches add products up in another
    /// order, so at the first difference both tokens must be as likely as rounding allows.
    private func agree(
        _ model: any LanguageModel, _ request: GenerationRequest, _ found: [Int32],
        _ expected: [Int32]
    ) throws -> Bool {
        let common = zip(found, expected).prefix { $0 == $1 }.count
        if common == found.count && common == expected.count { return true }
        let tokens = (request.prompt + expected[..<common]).map(Int64.init)
        let logits: [Double] = try withoutGradients {
            let hidden = try model.run(Tensor(tokens, shape: [1, tokens.count]))
            return try model.logits(hidden.select(1, tokens.count - 1)).values()
        }
        let top = logits.sorted(by: >)
        let largest = logits.map(abs).max() ?? 0
        // Sums of `hidden` products per layer and head, in two orders.
        let terms = Double(model.dimensions.hidden * (model.dimensions.layers + 1))
        return top[0] - top[1] <= 2 * terms * model.dtype.epsilon * largest
    }

    private func load(_ name: String) throws -> any LanguageModel {
        try Checkpoint(path: "\(packageFolder())/\(name)").loadModel()
    }

    private func requests(_ count: Int, _ model: any LanguageModel, _ random: inout SplitMix)
        throws -> [GenerationRequest]
    {
        let vocabulary = Int32(clamping: model.dimensions.vocabulary)
        return try (0..<count).map { _ in
            let prompt = random.tokens(1...24, below: vocabulary)
            let stop = Set(random.tokens(0...3, below: vocabulary))
            return try GenerationRequest(
                prompt: prompt, maxTokens: Int.random(in: 1...10, using: &random),
                sampling: SamplingParameters(), stop: stop)
        }
    }

    /// Every family and kind of rotary scaling, in ragged batches with few pages and short chunks.
    @Test(arguments: [
        "qwen3-gqa4-tied-v5", "qwen3-mha-bias-v5", "qwen3-dynamic-v5", "llama-dynamic-v4",
        "llama-llama3-v5", "llama-yarn-v5", "qwen3moe-normalised-v5",
    ])
    func familiesAgreeWithTextGenerator(name: String) throws {
        let model = try load("Tests/Goldens/models/\(name)")
        var random = SplitMix(7)
        // With dynamic scaling a request that is computed again gets other angles.
        let pages = model.rotary.dependsOnLength ? 60 : 20
        let backend = try TorchBackend(
            model, slots: 5, pages: pages, pageTokens: 4, prefillChunk: 8)
        let core = EngineCore(backend, EngineOptions(stepTokens: 16))
        let requests = try requests(10, model, &random)
        let outcomes = try run(core, requests, &random)
        for (request, outcome) in zip(requests, outcomes) {
            let expected = try reference(model, request)
            #expect(try agree(model, request, outcome.ids, expected), "\(request.prompt)")
        }
        #expect(core.metrics.freePages == pages && core.metrics.failures == 0)
    }

    /// A row's probabilities do not depend on the rows beside it, which are of other lengths; with
    /// dynamic scaling past the trained context not even its angles do.
    @Test(arguments: [
        "qwen3-gqa4-tied-v5", "qwen3-dynamic-v5", "llama-dynamic-v4", "qwen3moe-normalised-v5",
    ])
    func companyChangesNothingButRounding(name: String) throws {
        let model = try load("Tests/Goldens/models/\(name)")
        var random = SplitMix(13)
        var requests = try requests(6, model, &random)
        for index in requests.indices {
            requests[index].sampling.logprobs = 0
            requests[index].stop = []
            requests[index].maxTokens = 10
        }
        func outcomes(slots: Int) throws -> [GenerationOutcome] {
            let backend = try TorchBackend(
                model, slots: slots, pages: 60, pageTokens: 4, prefillChunk: 8)
            let core = EngineCore(backend, EngineOptions())
            defer { #expect(core.metrics.preemptions == 0) }
            return try run(core, requests, &random)
        }
        // Rounding of sums over the model's width in every layer, relative to logits of up to 10.
        let terms = Double(model.dimensions.hidden * (model.dimensions.layers + 1))
        let tolerance = 2 * terms * model.dtype.epsilon * 10
        for (alone, together) in zip(try outcomes(slots: 1), try outcomes(slots: 6)) {
            #expect(alone.ids.count == 10)
            for (left, right) in zip(alone.tokens, together.tokens) {
                let pair = (left.token.logprob ?? 0, right.token.logprob ?? 1)
                #expect(Double(abs(pair.0 - pair.1)) <= tolerance)
                // After a tie the sequences are no longer the same.
                if left.id != right.id { break }
            }
        }
    }

    /// Steps an engine, submitting at random moments.
    private func run(
        _ core: EngineCore, _ requests: [GenerationRequest], _ random: inout SplitMix
    ) throws -> [GenerationOutcome] {
        let context = Engine.context(core.capacity)
        var channels: [GenerationChannel] = []
        while channels.count < requests.count || !core.isIdle {
            if channels.count < requests.count, Int.random(in: 0..<3, using: &random) > 0 {
                let request = requests[channels.count]
                let channel = GenerationChannel()
                core.add(
                    EngineInbox.Arrival(
                        id: UInt64(channels.count), request: request,
                        limit: min(request.maxTokens, context - request.prompt.count),
                        channel: channel, submitted: .now))
                channels.append(channel)
            }
            core.step()
        }
        return try channels.map { try #require($0.progress.outcome) }
    }

    /// transformers' 200 greedy tokens, alone and among four others of other lengths.
    @Test func exampleModelAgreesWithTransformers() throws {
        let file = URL(filePath: "\(packageFolder())/Tests/Goldens/models/tiny.json")
        let golden = try JSON(parsing: Array(try Data(contentsOf: file)))
        func tokens(_ key: String) -> [Int32] {
            (golden[key]?.array ?? []).compactMap { $0.int.map { Int32($0) } }
        }
        let model = try load("Examples/tiny-qwen3-4m")
        let request = try GenerationRequest(
            prompt: tokens("ids"), maxTokens: 200, sampling: SamplingParameters())
        #expect(tokens("greedy").count == 200)
        var random = SplitMix(1)
        for company in [0, 4] {
            let engine = try Engine {
                try TorchBackend(model, slots: 8, pages: 64, prefillChunk: 32)
            }
            let others = try requests(company, model, &random).map(engine.submit)
            let found = try engine.submit(request).wait().ids
            #expect(try agree(model, request, found, tokens("greedy")))
            for other in others { #expect(try other.wait().reason != .cancelled) }
        }
    }

    /// With the flag, not even the last bit depends on company: no allowance for ties.
    @Test func deterministicTokensAreTheSameInAnyCompany() throws {
        let model = try load("Examples/tiny-qwen3-4m")
        var random = SplitMix(3)
        var requests = try requests(6, model, &random)
        for index in requests.indices { requests[index].sampling.logprobs = 1 }
        func run(_ requests: [GenerationRequest]) throws -> [GenerationOutcome] {
            let backend = try TorchBackend(model, slots: 6, pages: 40, prefillChunk: 16)
            let core = EngineCore(backend, EngineOptions(deterministic: true))
            return try self.run(core, requests, &random)
        }
        let together = try run(requests)
        for (request, outcome) in zip(requests, together) {
            let alone = try run([request])
            #expect(alone[0].tokens.map(\.token) == outcome.tokens.map(\.token))
        }
    }

    /// A sequence that loses its pages draws the same tokens when it is computed again.
    @Test func drawsDoNotDependOnPreemption() throws {
        let model = try load("Examples/tiny-qwen3-4m")
        var random = SplitMix(5)
        let requests = try (0..<4).map { seed in
            try GenerationRequest(
                prompt: random.tokens(4...8, below: 8192), maxTokens: 24,
                sampling: SamplingParameters(
                    temperature: 1, topP: 0.9, presencePenalty: 2, frequencyPenalty: 2,
                    seed: UInt64(seed)))
        }
        func run(pages: Int) throws -> (EngineCore, [[Int32]]) {
            let backend = try TorchBackend(model, slots: 4, pages: pages, pageTokens: 4)
            let core = EngineCore(backend, EngineOptions())
            return (core, try self.run(core, requests, &random).map(\.ids))
        }
        let (roomy, expected) = try run(pages: 100)
        let (tight, found) = try run(pages: 10)
        #expect(roomy.metrics.preemptions == 0 && tight.metrics.preemptions > 0)
        #expect(found == expected)
        #expect(tight.metrics.freePages == 10)
    }

    @Test func bytesPerTokenAreThoseOfThePages() throws {
        let model = try load("Examples/tiny-qwen3-4m")
        // Keys and values of 6 layers, one head of 64, float32.
        let expected = 2 * 6 * 1 * 64 * 4
        #expect(try TorchBackend.bytesPerToken(of: model) == expected)
        #expect(try TorchBackend(model, pages: 2).bytesPerToken == expected)
    }

    @Test func misuseIsAnError() throws {
        let model = try load("Tests/Goldens/models/qwen3-gqa4-tied-v5")
        let backend = try TorchBackend(model, slots: 2, pages: 4, pageTokens: 4)
        let chunk = PrefillChunk(
            slot: 0, position: 0, tokens: [1, 2, 3, 4, 5], pages: [0], samples: true)
        #expect(throws: EngineError.self) { try backend.prefill(chunk) }
        #expect(throws: EngineError.self) { try backend.collect() }
    }

    /// Random requests from several threads, random cancellations, few pages: what is not cancelled
    /// is what it would be alone, what is cancelled a beginning of it, and no page is lost.
    @Test func soak() throws {
        let model = try load("Tests/Goldens/models/qwen3-gqa4-tied-v5")
        var random = SplitMix(11)
        let requests = try requests(120, model, &random)
        let engine = try Engine(EngineOptions(stepTokens: 16)) {
            try TorchBackend(model, slots: 6, pages: 24, pageTokens: 4, prefillChunk: 12)
        }
        var handles: [GenerationHandle] = []
        var cancelled: Set<Int> = []
        for (index, request) in requests.enumerated() {
            handles.append(try engine.submit(request))
            if Int.random(in: 0..<4, using: &random) == 0 {
                let victim = Int.random(in: 0...index, using: &random)
                handles[victim].cancel()
                cancelled.insert(victim)
            }
            // Let the engine run down now and then.
            if index % 30 == 29 { _ = try handles[index].wait() }
        }
        for (index, handle) in handles.enumerated() {
            let outcome = try handle.wait()
            let expected = try reference(model, requests[index])
            if outcome.reason == .cancelled {
                #expect(cancelled.contains(index))
                let begun = Array(expected.prefix(outcome.ids.count))
                #expect(try agree(model, requests[index], outcome.ids, begun))
            } else {
                #expect(try agree(model, requests[index], outcome.ids, expected))
            }
        }
        engine.shutDown(.drain)
        let metrics = engine.metrics
        #expect(metrics.freePages == 24 && metrics.failures == 0)
        #expect(metrics.finished.values.reduce(0, +) == 120)
    }
}
