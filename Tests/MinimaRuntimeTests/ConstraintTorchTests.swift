import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

@Suite("Constraints: sampling")
struct ConstraintSamplingTests {
    private func mask(_ vocabulary: Int, _ isAllowed: (Int) -> Bool) -> [UInt32] {
        var mask = [UInt32](repeating: 0, count: (vocabulary + 31) / 32)
        for token in 0..<vocabulary where isAllowed(token) {
            mask[token / 32] |= 1 << UInt32(token % 32)
        }
        return mask
    }

    /// The distribution is that of logits of which the excluded ones are −∞ from the beginning, by the
    /// definitions in float64; no bias brings a token back.
    @Test(arguments: 0..<40 as Range<UInt64>)
    func probabilitiesAreTheDefinitions(_ seed: UInt64) throws {
        var generator = SamplingGenerator(state: 400 + seed)
        let vocabulary = Int.random(in: 1...70, using: &generator)
        let logits = generator.logits(vocabulary)
        var parameters = try generator.parameters(vocabulary: vocabulary)
        if parameters.temperature == 0 { parameters.temperature = 0.7 }
        var allowed = Set(generator.tokens(Int(seed % 9) + 1, vocabulary: vocabulary))
        if seed % 4 == 0 { allowed = Set(0..<Int32(vocabulary)) }
        for token in 0..<Int32(vocabulary) where !allowed.contains(token) {
            parameters.logitBias[token] = 100
        }
        let prompt = generator.tokens(5, vocabulary: vocabulary)
        let answer = generator.tokens(9, vocabulary: vocabulary)
        var sequence = SamplingSequence(
            parameters, tokens: prompt + answer, promptCount: prompt.count)
        sequence.mask = mask(vocabulary) { allowed.contains(Int32($0)) }
        let row = try Tensor(logits, shape: [1, vocabulary])
        let found: [Float] = try Sampler.probabilities(row, [sequence]).values()
        let masked = logits.enumerated().map {
            allowed.contains(Int32($0.offset)) ? Double($0.element) : -.infinity
        }
        let adjusted = PlainSampling.adjusted(
            masked, parameters, prompt: prompt, answer: answer)
        let expected = PlainSampling.probabilities(adjusted, parameters)
        for (found, expected) in zip(found, expected) {
            #expect(abs(Double(found) - expected) < 1e-5, "\(parameters)")
        }
        // The likeliest of them without a temperature.
        var greedy = SamplingSequence(
            try SamplingParameters(logitBias: parameters.logitBias))
        greedy.mask = sequence.mask
        let biased = PlainSampling.adjusted(masked, greedy.parameters)
        let best = try Sampler.tokens(row, [greedy]).values(as: Int64.self)[0]
        #expect(biased[Int(best)] == biased.max())
    }

    /// A mask goes with one token, says nothing of other rows, and leaves log-probabilities the model's.
    @Test func aMaskIsOfOneTokenOfOneRow() throws {
        let logits = try Tensor([5, 1, 0, 3, 5, 1, 0, 3] as [Float], shape: [2, 4])
        let plain = SamplingSequence(try SamplingParameters(logprobs: 2))
        var masked = plain
        masked.mask = [0b0110]
        let free = try Sampler.sample(logits, [plain, plain])
        let found = try Sampler.sample(logits, [masked, plain])
        #expect(found[1] == free[1] && free[0].id == 0 && found[0].id == 1)
        #expect(found[0].alternatives == free[0].alternatives)
        // ln of e^(1 − 5) times the likeliest token's probability.
        let likeliest = try #require(free[0].logprob)
        #expect(abs((found[0].logprob ?? 0) - (likeliest - 4)) < 1e-5)
        masked.append(1)
        #expect(masked.mask == nil)
    }

    @Test func masksOfAnotherSizeAreRefused() throws {
        let logits = try Tensor.zeros([1, 33])
        for words in [0, 1, 3] {
            var sequence = SamplingSequence(try SamplingParameters())
            sequence.mask = Array(repeating: 1, count: words)
            #expect(throws: SamplingError.badMask(words: words, needed: 2)) {
                try Sampler.tokens(logits, [sequence])
            }
        }
        #expect("\(SamplingError.badMask(words: 3, needed: 2))".contains("3 words"))
    }

    /// Logits that are not finite fail a row, allowed or not.
    @Test func excludedLogitsThatAreNotFinite() throws {
        var sequence = SamplingSequence(try SamplingParameters())
        sequence.mask = [0b01]
        let logits = try Tensor([1, .nan] as [Float], shape: [1, 2])
        #expect(try Sampler.sample(logits, [sequence])[0].id == SampledToken.notFinite)
    }
}

/// Models, seeds and prompts are such that no two scores are as close as rounding; see
/// `SpeculationTorchTests`.
@Suite("Constraints: libtorch backend")
struct ConstraintTorchTests {
    private static let vocabulary = 64

    private func model() throws -> any LanguageModel {
        try source().loadModel()
    }

    private func source() throws -> Checkpoint {
        try Checkpoint(path: "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5")
    }

    /// Requests of all kinds; those that `rules` names have constraints.
    private func requests(
        _ count: Int, seed: UInt64, _ rules: (Int) -> ConstraintRule?
    ) throws -> [GenerationRequest] {
        var random = SplitMix(seed)
        var generator = SamplingGenerator(state: seed)
        return try (0..<count).map { index in
            let rule = rules(index)
            var sampling = try generator.parameters(vocabulary: Self.vocabulary)
            if index % 3 == 0 { sampling = try SamplingParameters() }
            return GenerationRequest(
                prompt: random.tokens(3...24, below: Int32(Self.vocabulary)),
                maxTokens: Int.random(in: 12...24, using: &random), sampling: sampling,
                stop: rule == .text ? [ConstraintRule.end] : [], constraint: rule?.constraint)
        }
    }

    private func run(
        _ requests: [GenerationRequest], pages: Int = 200, _ speculation: Speculation = .off,
        draft: TorchDraft? = nil, drafter: ScriptedDrafter? = nil
    ) throws -> (core: EngineCore, outcomes: [GenerationOutcome]) {
        let torch = try TorchBackend(
            try model(), slots: 5, pages: pages, pageTokens: 4, prefillChunk: 8, draftTokens: 3
        ) { try drafter ?? draft?.drafter($0) }
        let engine = SteppedEngine(torch, EngineOptions(stepTokens: 16, speculation: speculation))
        for request in requests { engine.submit(request) }
        #expect(engine.finish(most: 5000))
        for (id, request) in requests.enumerated() {
            #expect(request.constraintIsUpheld(engine.tokens(id)))
        }
        return (engine.core, try requests.indices.map { try #require(engine.outcome($0)) })
    }

    private func rules(_ index: Int) -> ConstraintRule? {
        let all = ConstraintRule.allCases
        return index % 4 == 3 ? nil : all[index % all.count]
    }

    /// Every token is allowed, requests without constraint and those with one that excludes nothing
    /// give what they give without.
    @Test func tokensAreAllowedAndTheOthersTheSame() throws {
        let found = try run(requests(18, seed: 31, rules)).outcomes
        let plain = try run(requests(18, seed: 31) { _ in nil }).outcomes
        for index in found.indices {
            guard let rule = rules(index), !rule.isFree else {
                #expect(found[index].ids == plain[index].ids)
                continue
            }
            #expect(rule.allows(found[index].ids))
            if rule == .text {
                #expect(found[index].ids == ConstraintRule.answer)
                #expect(found[index].reason == .stop)
            }
        }
        // The constraints count for something.
        #expect(found.indices.contains { found[$0].ids != plain[$0].ids })
    }

    /// What a bias of −100 leaves next to no chance comes as seldom as what is excluded: the same
    /// tokens, as the draws are the same.
    @Test func excludingIsLikeTheStrongestBias() throws {
        let constrained = try requests(9, seed: 6) { _ in .even }
        var biased = try requests(9, seed: 6) { _ in nil }
        for index in biased.indices {
            for token in stride(from: Int32(1), to: 64, by: 2) {
                biased[index].sampling.logitBias[token] = -100
            }
        }
        #expect(try run(constrained).outcomes.map(\.ids) == run(biased).outcomes.map(\.ids))
    }

    /// With every kind of draft and too few pages, what comes is what comes without; drafts of free rows
    /// are right as often as they were.
    @Test(arguments: 0..<6) func draftsChangeNothing(kind: Int) throws {
        func all() throws -> [GenerationRequest] { try self.requests(18, seed: 77, rules) }
        let expected = try run(all()).outcomes
        let requests = try all()
        let truths = zip(requests, expected).map { $0.prompt + $1.ids }
        let hostile: HostileDraft = kind == 0 ? .oracle : .bush
        let script = hostile.script(vocabulary: 64) { tokens in
            truths.first { $0.count > tokens.count && $0.starts(with: tokens) }?[tokens.count]
        }
        let scripted = kind < 2 ? ScriptedDrafter(script) : nil
        let draft: TorchDraft? =
            switch kind {
            case 2: .ngram()
            case 3: .model(try model())
            case 4, 5: .eagle(try head(), width: kind == 4 ? 1 : 4)
            default: nil
            }
        let (core, found) = try run(
            requests, pages: 20, .fixed(3), draft: draft, drafter: scripted)
        #expect(found.map(\.ids) == expected.map(\.ids))
        #expect(found.map(\.reason) == expected.map(\.reason))
        #expect(scripted.map(\.violations) ?? [] == [])
        let metrics = core.metrics
        #expect(metrics.preemptions > 0 && metrics.freePages == 20 && metrics.failures == 0)
        #expect(metrics.speculation.drafted > 0)
        if kind == 0 { #expect(metrics.speculation.acceptanceLength ?? 0 > 2) }
        // The target as its own draft is always right.
        if kind == 3 { #expect(metrics.speculation.accepted == metrics.speculation.reached) }
    }

    private func head() throws -> EagleDraft {
        let base = try DraftWeights(
            for: model(), source(), vocabulary: Array(stride(from: 0, to: 64, by: 2)), seed: 3)
        return try EagleDraft(NoisySource(base: base, spread: 0.2), target: model())
    }

    /// A backend by itself: a row with a mask makes one token, whatever is proposed.
    @Test func aRowWithAMaskVerifiesNothing() throws {
        let torch = try TorchBackend(
            try model(), slots: 2, pages: 40, pageTokens: 4, draftTokens: 3
        ) { _ in ScriptedDrafter { DraftTree(chain: Array(repeating: 7, count: $1)) } }
        // The model would say nothing but 7.
        let sampling = try SamplingParameters(logitBias: [7: 100])
        for slot in 0..<2 {
            let pages = (0..<20).map { Int32(20 * slot + $0) }
            try torch.open(
                slot, SequenceStart(tokens: [1, 2], promptCount: 2, sampling: sampling))
            try torch.prefill(
                PrefillChunk(
                    slot: slot, position: 0, tokens: [1, 2], pages: pages, samples: true,
                    mask: slot == 0 ? [1 << 9, 0] : nil))
            #expect(try torch.collect()[0].map(\.id) == [slot == 0 ? 9 : 7])
        }
        func step(_ position: Int, _ mask: [UInt32]?) throws -> [[Int32]] {
            let rows = (0..<2).map { slot in
                DecodeBatch.Row(
                    slot: slot, position: slot == 0 ? position : 2 + (position - 2) * 4,
                    pages: (0..<20).map { Int32(20 * slot + $0) }, mask: slot == 0 ? mask : nil)
            }
            try torch.decode(DecodeBatch(rows: rows, bucket: 2, draftTokens: 3))
            return try torch.collect().map { $0.map(\.id) }
        }
        #expect(try step(2, [1 << 7, 0]) == [[7], [7, 7, 7, 7]])
        #expect(try step(3, [0, 1 << 1]) == [[33], [7, 7, 7, 7]])
        #expect(try step(4, nil) == [[7, 7, 7, 7], [7, 7, 7, 7]])
    }

    /// Through the thread and handles, cancelled in the middle among others.
    @Test func cancellation() throws {
        let engine = try Engine(EngineOptions(speculation: .fixed(3))) {
            try TorchBackend(
                try Checkpoint(
                    path: "\(packageFolder())/Tests/Goldens/models/qwen3-gqa4-tied-v5"
                ).loadModel(), slots: 3, pages: 200, pageTokens: 4, draft: .ngram())
        }
        var all = try requests(3, seed: 3) { _ in .shrinking }
        for index in all.indices { all[index].maxTokens = 100 }
        let handles = try all.map { try engine.submit($0) }
        struct Enough: Error {}
        var count = 0
        #expect(throws: Enough.self) {
            _ = try handles[1].wait { _ in
                count += 1
                if count == 5 { throw Enough() }
            }
        }
        for id in [0, 2] {
            let outcome = try handles[id].wait()
            #expect(outcome.ids.count == 100 && ConstraintRule.shrinking.allows(outcome.ids))
            #expect(all[id].constraintIsUpheld(outcome.ids))
        }
        #expect(try handles[1].wait().reason == .cancelled)
        engine.shutDown(.drain)
        #expect(engine.metrics.freePages == 200 && engine.metrics.failures == 0)
    }
}
