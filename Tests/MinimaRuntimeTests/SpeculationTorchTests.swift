import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// With proposals the same tokens come out as without.
///
/// A pass over K + 1 tokens adds its products up in another order than K + 1 passes, so logits differ
/// by about 10⁻⁶; a token differs only where two scores are that close. Models, seeds and prompts here
/// are fixed and such that no two are, so tokens are compared without allowance.
@Suite("Speculation: libtorch backend")
struct SpeculationTorchTests {
    private func load(_ name: String) throws -> any LanguageModel {
        try Checkpoint(path: "\(packageFolder())/\(name)").loadModel()
    }

    private func golden(_ name: String = "qwen3-gqa4-tied-v5") throws -> any LanguageModel {
        try load("Tests/Goldens/models/\(name)")
    }

    /// Requests of all kinds: greedy and drawn, with filters, penalties, biases, log-probabilities and
    /// end tokens.
    private func requests(_ count: Int, _ model: any LanguageModel, seed: UInt64) throws
        -> [GenerationRequest]
    {
        let vocabulary = model.dimensions.vocabulary
        var random = SplitMix(seed)
        var generator = SamplingGenerator(state: seed)
        return try (0..<count).map { index in
            var sampling = try generator.parameters(vocabulary: vocabulary)
            if index % 3 == 0 {
                sampling = try SamplingParameters(logprobs: index % 2 == 0 ? 2 : nil)
            }
            return GenerationRequest(
                prompt: random.tokens(3...24, below: Int32(vocabulary)),
                maxTokens: Int.random(in: 1...24, using: &random), sampling: sampling,
                stop: Set(random.tokens(0...2, below: Int32(vocabulary))))
        }
    }

    private func outcomes(
        _ backend: any DecodeBackend, _ options: EngineOptions, _ requests: [GenerationRequest]
    ) throws -> (EngineCore, [GenerationOutcome]) {
        let engine = SteppedEngine(backend, options)
        for request in requests { engine.submit(request) }
        #expect(engine.finish(most: 5000))
        return (engine.core, try requests.indices.map { try #require(engine.outcome($0)) })
    }

    private func plain(_ model: any LanguageModel, _ requests: [GenerationRequest]) throws
        -> [GenerationOutcome]
    {
        let backend = try TorchBackend(model, slots: 5, pages: 200, pageTokens: 4, prefillChunk: 8)
        return try outcomes(backend, EngineOptions(), requests).1
    }

    /// Same tokens, same ends, same log-probabilities up to rounding.
    private func compare(
        _ found: [GenerationOutcome], _ expected: [GenerationOutcome], _ model: any LanguageModel
    ) {
        // Rounding of sums over the model's width in every layer, relative to logits of up to 10.
        let terms = Double(model.dimensions.hidden * (model.dimensions.layers + 1))
        let tolerance = Float(2 * terms * model.dtype.epsilon * 10)
        for (found, expected) in zip(found, expected) {
            #expect(found.ids == expected.ids)
            #expect(found.reason == expected.reason)
            for (left, right) in zip(found.tokens, expected.tokens) {
                let (left, right) = (left.token, right.token)
                #expect((left.logprob == nil) == (right.logprob == nil))
                #expect(abs((left.logprob ?? 0) - (right.logprob ?? 0)) <= tolerance)
                #expect(left.alternatives.map(\.id) == right.alternatives.map(\.id))
                for (left, right) in zip(left.alternatives, right.alternatives) {
                    #expect(abs(left.logprob - right.logprob) <= tolerance)
                }
            }
        }
    }

    private func backend(
        _ model: any LanguageModel, pages: Int = 20, draftTokens: Int = 5,
        _ drafter: @escaping (DecodeCapacity) throws -> any Drafter
    ) throws -> TorchBackend {
        try TorchBackend(
            model, slots: 5, pages: pages, pageTokens: 4, prefillChunk: 8,
            draftTokens: draftTokens, drafter: drafter)
    }

    /// What follows a sequence by outcomes that are known.
    private func truth(_ requests: [GenerationRequest], _ outcomes: [GenerationOutcome])
        -> @Sendable ([Int32]) -> Int32?
    {
        let all = zip(requests, outcomes).map { $0.prompt + $1.ids }
        return { tokens in
            all.first { $0.count > tokens.count && $0.starts(with: tokens) }?[tokens.count]
        }
    }

    /// Mixed requests in ragged batches with too few pages, so that some are preempted, and another
    /// number of proposals with every step.
    @Test(arguments: HostileDraft.allCases)
    func hostileDraftsChangeNothing(draft: HostileDraft) throws {
        let model = try golden()
        let requests = try requests(18, model, seed: 31)
        let expected = try plain(model, requests)
        let script = draft.script(vocabulary: 64, truth: truth(requests, expected))
        for isRestless in [false, true] {
            let drafter = ScriptedDrafter(script)
            let torch = try backend(model) { _ in drafter }
            let (core, found) = try outcomes(
                isRestless ? RestlessBackend(torch) : torch,
                EngineOptions(
                    stepTokens: 16, speculation: isRestless ? .automatic : .fixed(3)), requests)
            compare(found, expected, model)
            #expect(drafter.violations == [])
            #expect(core.metrics.preemptions > 0 && core.metrics.freePages == 20)
            #expect(core.metrics.speculation.drafted > 0 && core.metrics.failures == 0)
            let length = try #require(core.metrics.speculation.acceptanceLength)
            switch draft {
            case .oracle, .tooMany: #expect(length > 2)
            case .mostlyRight: #expect(length > 1.5)
            case .secondBranch: #expect(length > 1.2)
            case .wrong, .negative, .huge: #expect(length == 1)
            case .uniform, .constant: #expect(length < 1.5)
            case .bush: #expect(length > 1.1)
            }
        }
    }

    /// Every family and kind of rotary scaling.
    @Test(arguments: [
        "qwen3-mha-bias-v5", "qwen3-dynamic-v5", "llama-dynamic-v4", "llama-llama3-v5",
        "qwen3moe-normalised-v5",
    ])
    func familiesGiveTheSame(name: String) throws {
        for draft in [HostileDraft.mostlyRight, .secondBranch] {
            try givesTheSame(name, draft)
        }
    }

    private func givesTheSame(_ name: String, _ draft: HostileDraft) throws {
        let model = try Checkpoint(path: "\(packageFolder())/Tests/Goldens/models/\(name)")
            .loadModel(dtype: .float32)
        let requests = try requests(10, model, seed: 5)
        let expected = try plain(model, requests)
        let script = draft.script(
            vocabulary: Int32(model.dimensions.vocabulary), truth: truth(requests, expected))
        // Pages for all: with dynamic scaling what is computed again gets other angles.
        let torch = try backend(model, pages: 200) { _ in ScriptedDrafter(script) }
        let (core, found) = try outcomes(torch, EngineOptions(speculation: .fixed(4)), requests)
        compare(found, expected, model)
        #expect((core.metrics.speculation.acceptanceLength ?? 0) > 1.5)
    }

    /// To the last place of the model's context, and of all pages.
    @Test(arguments: [(pages: 200, prompt: 500), (pages: 10, prompt: 25)])
    func theContextsEnd(pages: Int, prompt: Int) throws {
        let model = try golden()
        let vocabulary = Int32(model.dimensions.vocabulary)
        var random = SplitMix(3)
        let request = GenerationRequest(
            prompt: random.tokens(prompt...prompt, below: vocabulary), maxTokens: 100,
            sampling: try SamplingParameters(temperature: 1, seed: 4))
        let roomy = try TorchBackend(
            model, slots: 1, pages: pages, pageTokens: 4, prefillChunk: 64)
        let expected = try outcomes(roomy, EngineOptions(), [request]).1
        #expect(expected[0].ids.count == min(512, 4 * pages + 1) - prompt)
        for draft in [HostileDraft.oracle, .mostlyRight, .uniform, .bush] {
            let script = draft.script(vocabulary: vocabulary, truth: truth([request], expected))
            let torch = try backend(model, pages: pages, draftTokens: 7) { _ in
                ScriptedDrafter(script)
            }
            let (_, found) = try outcomes(
                torch, EngineOptions(speculation: .fixed(7)), [request])
            compare(found, expected, model)
        }
    }

    /// Cancelled in the middle: a beginning of what would have come, for the others nothing changes.
    @Test func cancellation() throws {
        let model = try golden()
        let requests = try requests(9, model, seed: 77)
        let expected = try plain(model, requests)
        let script = HostileDraft.mostlyRight.script(
            vocabulary: 64, truth: truth(requests, expected))
        for victim in 0..<5 {
            let engine = SteppedEngine(
                try backend(model) { _ in ScriptedDrafter(script) },
                EngineOptions(speculation: .fixed(3)))
            for request in requests { engine.submit(request) }
            for _ in 0...victim { engine.core.step() }
            engine.core.cancel(UInt64(victim))
            #expect(engine.finish(most: 5000))
            for id in requests.indices {
                if engine.outcome(id)?.reason == .cancelled {
                    #expect(id == victim && expected[id].ids.starts(with: engine.tokens(id)))
                } else {
                    #expect(engine.outcome(id)?.ids == expected[id].ids)
                }
            }
            #expect(engine.core.metrics.freePages == 20)
        }
    }

    /// A reader that looks for a text across tokens and cancels at it has the same tokens before it,
    /// though some behind it were computed with them.
    @Test func stopStrings() throws {
        let model = try golden()
        var request = GenerationRequest(
            prompt: [3, 1, 4, 1, 5], maxTokens: 60,
            sampling: try SamplingParameters(temperature: 1, seed: 12))
        let expected = try plain(model, [request])[0].ids
        let text = expected.map { " \($0)" }
        let wanted = text[20..<23].joined()
        request.maxTokens = 400
        let script = HostileDraft.mostlyRight.script(
            vocabulary: 64, truth: truth([request], try plain(model, [request])))
        let engine = try Engine(EngineOptions(speculation: .fixed(5))) {
            try TorchBackend(
                model, slots: 1, pages: 200, pageTokens: 4, draftTokens: 5
            ) { _ in ScriptedDrafter(script) }
        }
        struct Found: Error {}
        var (read, ids) = ("", [Int32]())
        #expect(throws: Found.self) {
            _ = try engine.submit(request).wait { token in
                read += " \(token.id)"
                ids.append(token.id)
                if read.hasSuffix(wanted) { throw Found() }
            }
        }
        #expect(expected.starts(with: ids) && ids.count <= 23)
    }

    /// Bit for bit the same alone and in company, proposals and all.
    @Test func deterministicTokensAreTheSameInAnyCompany() throws {
        let model = try golden()
        var requests = try requests(6, model, seed: 9)
        for index in requests.indices {
            requests[index].sampling.logprobs = 1
            requests[index].stop = []
        }
        func run(_ requests: [GenerationRequest]) throws -> [GenerationOutcome] {
            let torch = try TorchBackend(
                model, slots: 6, pages: 200, pageTokens: 4, prefillChunk: 16, draft: .ngram())
            return try outcomes(
                torch, EngineOptions(deterministic: true, speculation: .fixed(4)), requests
            ).1
        }
        let together = try run(requests)
        for (request, outcome) in zip(requests, together) {
            #expect(try run([request])[0].tokens.map(\.token) == outcome.tokens.map(\.token))
        }
    }

    /// Pearson's chi-square of the third new token over draws with other seeds, against the product
    /// of the model's own distributions; limits as in `SamplingDistributionTests`.
    @Test(arguments: [HostileDraft.uniform, .wrong, .constant, .huge, .bush])
    func drawsFollowTheModel(draft: HostileDraft) throws {
        let model = try golden()
        let (vocabulary, prompt, draws) = (64, [5, 9, 2] as [Int32], 1500)
        let parameters = try SamplingParameters(temperature: 1)
        func probabilities(_ sequences: [[Int32]]) throws -> [[Double]] {
            let shape = [sequences.count, sequences[0].count]
            let ids = try Tensor(sequences.flatMap { $0.map(Int64.init) }, shape: shape)
            return try withoutGradients {
                let hidden = try model.run(ids).select(1, shape[1] - 1)
                let all: [Float] = try model.logits(hidden).softmax().values()
                return (0..<shape[0]).map { row in
                    all[row * vocabulary..<(row + 1) * vocabulary].map(Double.init)
                }
            }
        }
        let tokens = (0..<Int32(vocabulary)).map(\.self)
        let first = try probabilities([prompt])[0]
        let second = try probabilities(tokens.map { prompt + [$0] })
        let pairs = tokens.flatMap { a in tokens.map { prompt + [a, $0] } }
        let third = try probabilities(pairs)
        var expected = [Double](repeating: 0, count: vocabulary)
        for a in 0..<vocabulary {
            for b in 0..<vocabulary {
                for c in 0..<vocabulary {
                    expected[c] += first[a] * second[a][b] * third[a * vocabulary + b][c]
                }
            }
        }
        // Where nothing is known to be right, "wrong" is the likeliest token's neighbour.
        let script = draft.script(vocabulary: Int32(vocabulary)) { _ in 3 }
        let torch = try TorchBackend(
            model, slots: 30, pages: 120, pageTokens: 4, draftTokens: 3
        ) { _ in ScriptedDrafter(script) }
        let (core, outcomes) = try outcomes(
            torch, EngineOptions(maxWaiting: draws, speculation: .fixed(3)),
            (0..<draws).map { seed in
                GenerationRequest(
                    prompt: prompt, maxTokens: 3, sampling: parameters.forSequence(seed))
            })
        var counts = [Double](repeating: 0, count: vocabulary)
        for outcome in outcomes { counts[Int(outcome.ids[2])] += 1 }
        #expect(isPlausible(counts, expected, draws: draws))
        // The test can fail: the second token's distribution is another one.
        for index in counts.indices { counts[index] = 0 }
        for outcome in outcomes { counts[Int(outcome.ids[1])] += 1 }
        #expect(!isPlausible(counts, expected, draws: draws))
        #expect(core.metrics.speculation.drafted >= draws)
    }

    private func isPlausible(_ counts: [Double], _ expected: [Double], draws: Int) -> Bool {
        var (chi, degrees, pooled) = (0.0, -1.0, (count: 0.0, mean: 0.0))
        for (count, probability) in zip(counts, expected).sorted(by: { $0.1 < $1.1 }) {
            pooled.count += count
            pooled.mean += probability * Double(draws)
            guard pooled.mean > 5 else { continue }
            chi += (pooled.count - pooled.mean) * (pooled.count - pooled.mean) / pooled.mean
            degrees += 1
            pooled = (0, 0)
        }
        let spread = 2 / (9 * degrees)
        let root = 1 - spread + 3.09 * spread.squareRoot()
        return chi < degrees * root * root * root
    }

    @Test func logitsThatAreNotFiniteEndARow() throws {
        let model = try golden()
        let request = GenerationRequest(
            prompt: [1, 2, 3], maxTokens: 10, sampling: try SamplingParameters())
        let expected = try plain(model, [request])
        let broken = BrokenModel(model: model, badPosition: 7)
        let script = HostileDraft.oracle.script(vocabulary: 64, truth: truth([request], expected))
        for count in 0...5 {
            let torch = try backend(broken) { _ in ScriptedDrafter(script) }
            let (_, found) = try outcomes(
                torch, EngineOptions(speculation: .fixed(count)), [request])
            #expect(found[0].reason == .failed(.notFinite(position: 8)))
            #expect(found[0].ids == Array(expected[0].ids.prefix(5)))
        }
    }
}

/// A model whose logits at one position are NaN.
private struct BrokenModel: LanguageModel {
    static let modelTypes: [String] = []
    static func sites(_ config: ModelConfig) throws -> [Site] { [] }
    static func layerPrefix(_ index: Int) -> String { "" }

    let model: any LanguageModel
    let badPosition: Int

    init(model: any LanguageModel, badPosition: Int) {
        self.model = model
        self.badPosition = badPosition
    }

    init(_ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader) throws {
        throw ModelError.badTokens(shape: [])
    }

    var dimensions: ModelDimensions { model.dimensions }
    var rotary: RotaryEmbedding { model.rotary }
    var device: Device { model.device }
    var dtype: DType { model.dtype }
    var head: Linear { model.head }
    func embed(_ tokens: Tensor) throws -> Tensor { try model.embed(tokens) }
    func normed(_ x: Tensor) throws -> Tensor { try model.normed(x) }

    /// The last layer's output is NaN where the angle is that of the bad position.
    func layer(_ index: Int, _ x: Tensor, _ context: ForwardContext) throws -> Tensor {
        let x = try model.layer(index, x, context)
        guard index == model.dimensions.layers - 1 else { return x }
        let place = try Tensor([Int64(badPosition)], shape: [1, 1])
        let bad = try model.rotary.table(place, length: badPosition + 1, dtype: model.dtype)
        let distance = try (context.cosines - bad.cosines).abs().sum([1, 3])
        let isBad = try distance.isLess(than: 1e-6).unsqueeze(2)
        return try x.maskedFill(isBad, .nan)
    }
}
