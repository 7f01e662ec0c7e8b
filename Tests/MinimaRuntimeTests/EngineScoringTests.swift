import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// Log-probabilities of prompts.
@Suite("Engine: prompts' log-probabilities")
struct EngineScoringTests {
    /// Scored and other requests in few pages: each is told what its own tokens alone decide, whatever
    /// is preempted, cancelled or proposed beside it.
    @Test(arguments: [1, 2], [[0], [0, 2]])
    func scoresAmongOthers(queuedSteps: Int, draftTokens: [Int]) throws {
        var (random, preemptions) = (SplitMix(31), 0)
        for round in 0..<40 {
            let backend = HashBackend(
                pages: 12, chunk: round % 2 == 0 ? 5 : 64, queuedSteps: queuedSteps,
                draftTokens: draftTokens)
            backend.draft = { tokens, count in
                (0..<count).map { _ in HashBackend.next(tokens) }
            }
            let engine = SteppedEngine(
                backend, EngineOptions(stepTokens: 9, speculation: .fixed(draftTokens.last ?? 0)))
            var cancelled: Set<Int> = []
            for _ in 0..<12 {
                let scored = Int.random(in: 0...2, using: &random) > 0
                let id = engine.submit(
                    try GenerationRequest(
                        prompt: random.tokens(1...30, below: 50),
                        maxTokens: Int.random(in: scored ? 0...12 : 1...12, using: &random),
                        sampling: SamplingParameters(),
                        promptLogprobs: scored ? Int.random(in: 0...3, using: &random) : nil))
                for _ in 0..<Int.random(in: 0...3, using: &random) { engine.core.step() }
                if Int.random(in: 0..<8, using: &random) == 0 {
                    engine.core.cancel(UInt64(id))
                    cancelled.insert(id)
                }
            }
            #expect(engine.finish(most: 2000))
            #expect(backend.violations.isEmpty, "\(backend.violations)")
            try engine.requireOutcomes(cancelled: cancelled)
            for (id, request) in engine.requests.enumerated() {
                let prompt = try #require(engine.outcome(id)).prompt
                if cancelled.contains(id), prompt.isEmpty { continue }
                #expect(prompt == HashBackend.scores(request))
            }
            #expect(engine.core.metrics.freePages == 12)
            preemptions += engine.core.metrics.preemptions
        }
        #expect(preemptions > 10)
    }

    /// What is known when a request loses its pages is not computed again.
    @Test func preemptedRequestsKeepTheirScores() throws {
        let backend = HashBackend(pages: 8, chunk: 8)
        let engine = SteppedEngine(backend)
        try engine.submit([1, 2, 3], maxTokens: 26)
        let scored = engine.submit(
            try GenerationRequest(
                prompt: Array(0..<18), maxTokens: 8, sampling: SamplingParameters(),
                promptLogprobs: 2))
        #expect(engine.finish(most: 200))
        #expect(engine.core.metrics.preemptions > 0 && backend.violations.isEmpty)
        #expect(engine.outcome(scored)?.prompt == HashBackend.scores(engine.requests[scored]))
        #expect(engine.outcome(scored)?.ids == engine.expected(scored))
    }

    @Test func failuresAreTheirOwnRequestsOnly() throws {
        for broken in [true, false] {
            let backend = HashBackend(pages: 64, chunk: 4)
            if broken {
                // The second chunk of the first request's slot.
                backend.resultFailure = { $0 == .prefill(slot: 0, position: 4, count: 4) }
            } else {
                backend.notFinite = [7: 6]
            }
            let engine = SteppedEngine(backend)
            for first: Int32 in [7, 9] {
                engine.submit(
                    try GenerationRequest(
                        prompt: [first] + Array(1...11), maxTokens: 3,
                        sampling: SamplingParameters(), promptLogprobs: 1))
            }
            #expect(engine.finish(most: 100) && backend.violations.isEmpty)
            let failed = try #require(engine.outcome(0))
            guard case .failed(let error) = failed.reason else {
                Issue.record("\(failed.reason)")
                continue
            }
            if !broken { #expect(error == .notFinite(position: 6)) }
            #expect(failed.prompt.isEmpty)
            #expect(engine.outcome(1)?.prompt == HashBackend.scores(engine.requests[1]))
            #expect(engine.outcome(1)?.ids == engine.expected(1))
        }
    }

    @Test func requestsAreChecked() async throws {
        let engine = try Engine { HashBackend(pages: 16) }
        func submit(_ maxTokens: Int, _ logprobs: Int?) throws -> GenerationHandle {
            try engine.submit(
                GenerationRequest(
                    prompt: [1, 2, 3], maxTokens: maxTokens, sampling: SamplingParameters(),
                    promptLogprobs: logprobs))
        }
        #expect(throws: EngineError.noNewTokens(asked: 0)) { try submit(0, nil) }
        #expect(throws: EngineError.noNewTokens(asked: -1)) { try submit(-1, 0) }
        #expect(throws: EngineError.badSampling(.badLogprobs(21))) { try submit(1, 21) }
        #expect(throws: EngineError.badSampling(.badLogprobs(-1))) { try submit(1, -1) }
        // The prompt's scores are there with the prompt, with or without an answer behind it.
        let alone = try submit(0, 20)
        #expect(await alone.scoredPrompt?.count == 3)
        #expect(await alone.outcome.reason == .length)
        #expect(await alone.outcome.ids == [])
        let plain = try submit(2, nil)
        #expect(await plain.scoredPrompt == nil)
        let answered = try submit(5, 0)
        #expect(
            await answered.scoredPrompt
                == alone.outcome.prompt.map { token in
                    SampledToken(id: token.id, logprob: token.logprob)
                })
        #expect(await answered.outcome.ids.count == 5)
        engine.shutDown(.cancel)
    }

    // MARK: libtorch

    /// The scores of every family are the log-softmax of one pass over the whole prompt, across the
    /// borders of chunks, pages and slices, alone and with others, with and without an answer.
    @Test(arguments: [
        "Examples/tiny-qwen3-4m", "Tests/Goldens/models/qwen3-dynamic-v5",
        "Tests/Goldens/models/llama-llama3-v5", "Tests/Goldens/models/qwen3moe-normalised-v5",
    ])
    func scoresAreTheForwardPass(name: String) throws {
        let model = try Checkpoint(path: "\(packageFolder())/\(name)").loadModel(
            device: .cpu, dtype: .float32)
        let vocabulary = Int32(clamping: model.dimensions.vocabulary)
        var random = SplitMix(3)
        let backend = try TorchBackend(
            model, slots: 3, pages: 100, pageTokens: 16, prefillChunk: 100)
        let engine = SteppedEngine(backend)
        for length in [1, 2, 16, 17, 100, 101, 197] {
            engine.submit(
                try GenerationRequest(
                    prompt: random.tokens(length...length, below: vocabulary),
                    maxTokens: length % 3, sampling: SamplingParameters(temperature: 0.5, seed: 4),
                    promptLogprobs: length % 4))
        }
        #expect(engine.finish(most: 1000))
        // Sums of `hidden` products per layer and head, relative to logits of up to 20.
        let terms = Double(model.dimensions.hidden * (model.dimensions.layers + 1))
        let tolerance = 2 * terms * DType.float32.epsilon * 20
        for (id, request) in engine.requests.enumerated() {
            let outcome = try #require(engine.outcome(id))
            let count = request.prompt.count
            #expect(outcome.ids.count == request.maxTokens)
            #expect(outcome.prompt.map(\.id) == request.prompt)
            #expect(outcome.prompt.first == SampledToken(id: request.prompt[0]))
            let expected = try withoutGradients {
                try model.logits(
                    model.run(Tensor(request.prompt.map(Int64.init), shape: [1, count]))
                ).select(0, 0).logSoftmax()
            }
            let values: [Double] = try expected.values()
            let width = Int(vocabulary)
            for place in 1..<max(count, 1) {
                let row = values[(place - 1) * width..<place * width]
                let found = outcome.prompt[place]
                let own = row[row.startIndex + Int(request.prompt[place])]
                #expect(abs(Double(try #require(found.logprob)) - own) <= tolerance)
                let best = row.sorted(by: >).prefix(request.promptLogprobs ?? 0)
                #expect(found.alternatives.count == best.count)
                for (alternative, value) in zip(found.alternatives, best) {
                    let told = Double(alternative.logprob)
                    #expect(abs(told - value) <= tolerance)
                    #expect(abs(row[row.startIndex + Int(alternative.id)] - told) <= tolerance)
                }
            }
        }
    }

    // MARK: Slices

    @Test func slicesCoverTheRows() {
        for (rows, size) in [(0..<1, 4), (3..<9, 4), (4..<8, 4), (0..<130, 64), (63..<65, 64)] {
            let slices = PromptScoring(rows: rows, tokens: [], alternatives: 0).slices(of: size)
            #expect(
                slices.flatMap { slice in slice.scored.map { slice.rows.lowerBound + $0 } }
                    == Array(rows))
            for slice in slices {
                #expect(slice.rows.lowerBound % size == 0 && 1...size ~= slice.rows.count)
            }
        }
    }

    /// The arithmetic that keeps no second tensor of the logits' size gives the log-softmax.
    @Test(arguments: [0, 3, 50])
    func numbersAreTheLogSoftmax(alternatives: Int) throws {
        let generator = try RandomGenerator(seed: 5)
        let logits = try Tensor.randn([7, 50], generator: generator) * 9
        let tokens: [Int32] = [4, 0, 49, 20, 7, 7, 30]
        let expected = try LogProbabilities(
            logits.clone(), tokens.map(Int64.init), count: alternatives)
        var parts: [PromptScores] = []
        for rows in [0..<4, 4..<7] {
            parts.append(
                try PromptScores(
                    overwriting: logits.narrow(0, rows).clone(),
                    tokens: Tensor(tokens[rows].map(Int64.init)), alternatives: alternatives))
        }
        let found = try PromptScores(joining: parts).tokens(tokens)
        // The sum of 50 exponentials, relative to logits of up to 40.
        let tolerance = Float(60 * DType.float32.epsilon * 40)
        for (row, token) in found.enumerated() {
            #expect(token.id == tokens[row])
            #expect(abs(try #require(token.logprob) - expected.chosen[row]) <= tolerance)
            #expect(token.alternatives.map(\.id) == expected.top[row].map(\.id))
            for (one, other) in zip(token.alternatives, expected.top[row]) {
                #expect(abs(one.logprob - other.logprob) <= tolerance)
            }
        }
        let spoilt = try Tensor([1, Float.nan, 2, Float.infinity, 3, 4], shape: [3, 2])
        let scores = try PromptScores(
            overwriting: spoilt, tokens: Tensor([0, 0, 0] as [Int64]), alternatives: 1)
        #expect(try scores.tokens([0, 0, 0]).map { $0.id } == [-1, -1, 0])
    }
}
