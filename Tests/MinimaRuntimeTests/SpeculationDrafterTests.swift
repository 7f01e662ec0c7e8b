import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

@Suite("Speculation: drafts")
struct SpeculationDrafterTests {
    private func checkpoint(_ name: String = "Tests/Goldens/models/qwen3-gqa4-tied-v5") throws
        -> Checkpoint
    {
        try Checkpoint(path: "\(packageFolder())/\(name)")
    }

    private func backend(
        _ model: any LanguageModel, _ draft: TorchDraft?, pages: Int = 100, pageTokens: Int = 4,
        draftTokens: Int = 5
    ) throws -> TorchBackend {
        try TorchBackend(
            model, slots: 4, pages: pages, pageTokens: pageTokens, prefillChunk: 8, draft: draft,
            draftTokens: draftTokens)
    }

    // MARK: n-grams

    @Test func whatFollowedBeforeIsProposed() {
        func propose(_ tokens: [Int32], _ count: Int = 4, suffix: Int = 3) -> [Int32] {
            NGramDrafter.proposal(after: tokens, count: count, suffix: suffix)
        }
        #expect(propose([1, 2, 3, 4, 5, 6, 1, 2, 3]) == [4, 5, 6, 1])
        // The longest suffix before a later, shorter one.
        #expect(propose([1, 2, 3, 4, 5, 9, 3, 7, 7, 1, 2, 3]) == [4, 5, 9, 3])
        #expect(propose([1, 2, 3, 4, 5, 9, 3, 7, 7, 1, 2, 3], suffix: 1) == [7, 7, 1, 2])
        // Of equal ones the last.
        #expect(propose([1, 2, 5, 1, 2, 6, 1, 2], 2) == [6, 1])
        // Past the end it goes on with itself.
        #expect(propose([8, 1, 2, 1, 2]) == [1, 2, 1, 2])
        #expect(propose([4, 4], 3) == [4, 4, 4])
        #expect(propose([1, 2, 3]) == [] && propose([1]) == [])
        // Against every occurrence, one by one.
        var random = SplitMix(2)
        for _ in 0..<200 {
            let tokens = random.tokens(1...30, below: 4)
            let end = tokens.count - 1
            func match(_ place: Int) -> Int {
                (0..<3).prefix { $0 <= place && tokens[place - $0] == tokens[end - $0] }.count
            }
            let best = (0..<end).max { (match($0), $0) < (match($1), $1) }
            let found = propose(tokens, 1)
            if let best, match(best) > 0 {
                #expect(found == [tokens[best + 1]])
            } else {
                #expect(found.isEmpty)
            }
        }
    }

    /// A model that only ever repeats itself is guessed right.
    @Test func repetitionIsFound() throws {
        let model = try checkpoint().loadModel()
        let sampling = try SamplingParameters(logitBias: [7: 100])
        let (tokens, made) = try backend(model, .ngram()).drive(
            [1, 2, 3], tokens: 40, sampling: sampling, counts: [5])
        #expect(tokens.allSatisfy { $0.id == 7 })
        // The first step knows no 7 before the last.
        #expect(made == [1] + Array(repeating: 6, count: 7))
    }

    // MARK: An independent model

    /// The target as its own draft, greedy and drawn, with penalties: everything is accepted, whatever
    /// the number of proposals was before, so positions, pages and draws are right.
    @Test(arguments: [[5], [3, 0, 0, 5, 1], [1, 2, 3, 4, 5], [0, 0, 0, 0, 0, 0, 5]])
    func aPerfectDraftIsAlwaysRight(counts: [Int]) throws {
        let model = try checkpoint().loadModel()
        for sampling in [
            try SamplingParameters(), try SamplingParameters(temperature: 1, seed: 5),
            try SamplingParameters(
                temperature: 1.5, topP: 0.9, repetitionPenalty: 1.3, frequencyPenalty: 0.5,
                seed: 6),
        ] {
            var random = SplitMix(4)
            let prompt = random.tokens(21...21, below: 64)
            let expected = try backend(model, nil).drive(
                prompt, tokens: 120, sampling: sampling, counts: [0])
            let found = try backend(model, .model(model)).drive(
                prompt, tokens: 120, sampling: sampling, counts: counts)
            #expect(found.tokens == expected.tokens)
            for (step, made) in found.made.enumerated() {
                #expect(made == counts[step % counts.count] + 1)
            }
        }
    }

    /// While nothing is proposed for 200 steps the draft follows page by page, and is right at once.
    @Test func longPausesAreFollowed() throws {
        let model = try checkpoint().loadModel()
        let sampling = try SamplingParameters(temperature: 0.3, seed: 2)
        let pause = Array(repeating: 0, count: 200)
        let expected = try backend(model, nil).drive(
            [1, 2, 3], tokens: 300, sampling: sampling, counts: [0])
        let found = try backend(model, .model(model)).drive(
            [1, 2, 3], tokens: 300, sampling: sampling,
            counts: pause + Array(repeating: 5, count: 60))
        #expect(found.tokens == expected.tokens)
        #expect(found.made.dropFirst(200).allSatisfy { $0 == 6 })
    }

    /// Several requests, preemption, pages of one table in two storages.
    @Test func aDraftAmongManyRequests() throws {
        let model = try checkpoint().loadModel()
        var random = SplitMix(8)
        let requests = try (0..<8).map { seed in
            GenerationRequest(
                prompt: random.tokens(3...20, below: 64), maxTokens: 20,
                sampling: try SamplingParameters(
                    temperature: seed % 2 == 0 ? 0 : 1, seed: UInt64(seed)))
        }
        func run(_ draft: TorchDraft?, pages: Int) throws -> (EngineCore, [[Int32]]) {
            let engine = SteppedEngine(
                try backend(model, draft, pages: pages), EngineOptions(speculation: .fixed(3)))
            for request in requests { engine.submit(request) }
            #expect(engine.finish(most: 3000))
            return (engine.core, requests.indices.map(engine.tokens))
        }
        let expected = try run(nil, pages: 200).1
        let (core, found) = try run(.model(model), pages: 16)
        #expect(found == expected)
        #expect(core.metrics.preemptions > 0)
        let metrics = core.metrics.speculation
        #expect(metrics.accepted == metrics.reached && metrics.drafted > 80)
    }

    @Test func otherVocabulariesAreRefused() throws {
        let target = try checkpoint().loadModel()
        let draft = try checkpoint("Tests/Goldens/models/qwen3-mha-bias-v5").loadModel()
        #expect(throws: DraftingError.otherVocabulary(draft: 67, target: 64)) {
            try backend(target, .model(draft))
        }
        #expect("\(DraftingError.otherVocabulary(draft: 67, target: 64))".contains("67"))
    }

    @Test func pagesHoldTheDraftToo() throws {
        let model = try checkpoint("Examples/tiny-qwen3-4m").loadModel()
        let own = try TorchBackend.bytesPerToken(of: model)
        #expect(try backend(model, .model(model)).bytesPerToken == 2 * own)
        #expect(try backend(model, .ngram()).bytesPerToken == own)
        #expect(try TorchDraft.model(model).bytesPerToken() == own)
    }

    // MARK: EAGLE-3

    /// An untrained head with noise on all of its weights, so that attention counts.
    private func head(for model: any LanguageModel, _ source: any WeightSource, vocabulary: [Int32])
        throws -> EagleDraft
    {
        let base = try DraftWeights(for: model, source, vocabulary: vocabulary, seed: 3)
        return try EagleDraft(NoisySource(base: base, spread: 0.2), target: model)
    }

    /// Logarithms of the head's probabilities of its tokens after `tokens` and `guessed` ones, from
    /// nothing but these, without pages.
    private func likelihoods(
        _ draft: EagleDraft, _ model: any LanguageModel, _ tokens: [Int32], _ guessed: [Int32]
    ) throws -> [Int32: Float] {
        try withoutGradients {
            func context(_ count: Int, _ rotary: RotaryEmbedding) throws -> ForwardContext {
                try ForwardContext(
                    batch: 1, tokens: count, cache: nil, padding: nil, rotary: rotary,
                    device: .cpu, dtype: .float32)
            }
            func ids(_ tokens: some Sequence<Int32>) throws -> Tensor {
                try Tensor(tokens.map(Int64.init)).unsqueeze(0)
            }
            let places = tokens.count - 1
            let features = try model.features(
                of: ids(tokens.dropLast()), entering: draft.featureLayers,
                context(places, model.rotary)
            ).features
            var hidden = try draft.fuse(features)
            var next = Array(tokens.dropFirst())
            func output() throws -> Tensor {
                try draft.layer(
                    embedding: draft.embed(ids(next)), hidden: hidden,
                    context: context(next.count, draft.rotary)
                ).narrow(1, next.count - 1..<next.count)
            }
            for token in guessed {
                hidden = try .cat([hidden, output()], dim: 1)
                next.append(token)
            }
            let names: [Int64] = try draft.targetIds.values()
            let values: [Float] = try draft.logits(output()).reshape([-1]).logSoftmax().values()
            return Dictionary(uniqueKeysWithValues: zip(names.map { Int32($0) }, values))
        }
    }

    /// The likeliest texts of up to `count` tokens after `tokens`, level by level from the `width`
    /// best of the level before.
    private func reference(
        _ draft: EagleDraft, _ model: any LanguageModel, _ tokens: [Int32], count: Int, width: Int
    ) throws -> Set<[Int32]> {
        var all: [(text: [Int32], score: Float)] = []
        var open: [(text: [Int32], score: Float)] = [([], 0)]
        for _ in 0..<count {
            var level: [(text: [Int32], score: Float)] = []
            for (text, score) in open {
                let best = try likelihoods(draft, model, tokens, text)
                    .sorted { $0.value > $1.value }.prefix(width)
                level += best.map { (text + [$0.key], score + $0.value) }
            }
            open = Array(level.sorted { $0.score > $1.score }.prefix(width))
            all += level
        }
        return Set(all.sorted { $0.score > $1.score }.prefix(count).map(\.text))
    }

    /// What a tree's nodes say, from its beginning.
    private func texts(_ tree: DraftTree) -> Set<[Int32]> {
        var texts: [[Int32]] = []
        for (token, parent) in zip(tree.tokens, tree.parents) {
            texts.append((parent < 0 ? [] : texts[parent]) + [token])
        }
        return Set(texts)
    }

    /// A drafter that also notes what another proposes.
    private final class Listener: Drafter {
        let drafter: any Drafter
        private(set) var proposals: [(position: Int, tree: DraftTree)] = []

        init(_ drafter: any Drafter) { self.drafter = drafter }

        var featureLayers: [Int] { drafter.featureLayers }
        var lookahead: Int { drafter.lookahead }
        func open(_ slot: Int, cached: ArraySlice<Int32>) { drafter.open(slot, cached: cached) }
        func close(_ slot: Int) { drafter.close(slot) }
        func prefill(_ chunk: PrefillChunk, features: Tensor?) throws {
            try drafter.prefill(chunk, features: features)
        }
        func observe(_ row: DecodeBatch.Row, _ tokens: [Int32], features: Tensor?) throws {
            try drafter.observe(row, tokens, features: features)
        }
        func propose(_ rows: [DraftRow], count: Int) throws -> [DraftTree] {
            let found = try drafter.propose(rows, count: count)
            for (row, tree) in zip(rows, found) { proposals.append((row.position, tree)) }
            return found
        }
    }

    /// Proposals are those of the head over all features from the beginning, whatever was accepted and
    /// however many were proposed before; what comes out is what comes without.
    @Test(arguments: [[4], [3, 0, 0, 5, 1], [1, 2, 3, 4, 5]], [1, 3])
    func theHeadProposesWhatItWouldFromTheBeginning(counts: [Int], width: Int) throws {
        for whole in [true, false] { try proposesFromTheBeginning(counts, width, whole) }
    }

    private func proposesFromTheBeginning(_ counts: [Int], _ width: Int, _ whole: Bool) throws {
        let source = try checkpoint()
        let model = try source.loadModel()
        let draft = try head(
            for: model, source,
            vocabulary: whole ? Array(0..<64) : Array(stride(from: 1, to: 64, by: 2)))
        let sampling = try SamplingParameters()
        let prompt: [Int32] = [9, 3, 5, 1, 8, 8, 2, 60, 61, 33, 12, 7, 7, 5, 40, 3, 3, 21, 11]
        let expected = try backend(model, nil).drive(
            prompt, tokens: 50, sampling: sampling, counts: [0])
        var listener: Listener?
        let torch = try TorchBackend(
            model, slots: 2, pages: 100, pageTokens: 4, prefillChunk: 8, draftTokens: 5
        ) { capacity in
            let drafter = Listener(try EagleDrafter(draft, capacity, width: width))
            listener = drafter
            return drafter
        }
        let found = try torch.drive(prompt, tokens: 50, sampling: sampling, counts: counts)
        #expect(found.tokens == expected.tokens)
        let all = prompt + found.tokens.map(\.id)
        let proposals = try #require(listener?.proposals)
        #expect(proposals.count > 5)
        for (position, tree) in proposals where position < all.count {
            let right = try reference(
                draft, model, Array(all[...position]), count: tree.count, width: width)
            #expect(texts(tree) == right && tree.count > 0, "\(position)")
            #expect(width > 1 || tree.isChain)
        }
    }

    @Test func theHeadAmongManyRequests() throws {
        let source = try checkpoint()
        let model = try source.loadModel()
        let draft = try head(
            for: model, source, vocabulary: Array(stride(from: 0, to: 64, by: 2)))
        var random = SplitMix(8)
        let requests = try (0..<8).map { seed in
            GenerationRequest(
                prompt: random.tokens(1...20, below: 64), maxTokens: 20,
                sampling: try SamplingParameters(
                    temperature: seed % 2 == 0 ? 0 : 1, presencePenalty: 0.5, seed: UInt64(seed)))
        }
        func run(_ draft: TorchDraft?, pages: Int) throws -> (EngineCore, [[Int32]]) {
            let engine = SteppedEngine(
                RestlessBackend(try backend(model, draft, pages: pages)), EngineOptions())
            for request in requests { engine.submit(request) }
            #expect(engine.finish(most: 3000))
            return (engine.core, requests.indices.map(engine.tokens))
        }
        let expected = try run(nil, pages: 200).1
        for width in [1, 4] {
            let (core, found) = try run(.eagle(draft, width: width), pages: 16)
            #expect(found == expected)
            #expect(core.metrics.preemptions > 0 && core.metrics.speculation.drafted > 0)
        }
    }

    /// While nothing is proposed for 200 steps the head follows page by page: then it proposes what it
    /// would from the beginning.
    @Test func theHeadAfterLongPauses() throws {
        let source = try checkpoint()
        let model = try source.loadModel()
        let draft = try head(for: model, source, vocabulary: Array(0..<64))
        let sampling = try SamplingParameters()
        let expected = try backend(model, nil).drive(
            [1, 2, 3], tokens: 300, sampling: sampling, counts: [0])
        var listener: Listener?
        let torch = try TorchBackend(
            model, slots: 1, pages: 100, pageTokens: 4, draftTokens: 5
        ) { capacity in
            let drafter = Listener(try EagleDrafter(draft, capacity))
            listener = drafter
            return drafter
        }
        let counts = Array(repeating: 0, count: 200) + Array(repeating: 4, count: 100)
        let found = try torch.drive([1, 2, 3], tokens: 300, sampling: sampling, counts: counts)
        #expect(found.tokens == expected.tokens)
        let (position, tree) = try #require(listener?.proposals.first)
        let all = [1, 2, 3] + found.tokens.map(\.id)
        #expect(position > 200)
        let right = try reference(
            draft, model, Array(all[...position]), count: 4, width: 1)
        #expect(texts(tree) == right && tree.count == 4)
    }
}
