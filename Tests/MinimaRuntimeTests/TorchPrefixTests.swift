import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaRuntime

/// A sequence that begins with another's pages gets the tokens that it gets without.
///
/// Chunks that begin elsewhere add products up in another order, which moves logits by about 10⁻⁶;
/// models and prompts are fixed and such that no two scores are that close.
@Suite("Engine: sequences that begin alike, libtorch")
struct TorchPrefixTests {
    private func golden(_ name: String = "qwen3-gqa4-tied-v5") throws -> Checkpoint {
        try Checkpoint(path: "\(packageFolder())/Tests/Goldens/models/\(name)")
    }

    private func backend(
        _ model: any LanguageModel, draft: TorchDraft? = nil, pages: Int = 200
    ) throws -> TorchBackend {
        try TorchBackend(
            model, slots: 4, pages: pages, pageTokens: 4, prefillChunk: 16, draft: draft,
            draftTokens: 5)
    }

    /// Conversations of three turns with one beginning.
    private func converse(
        _ backend: any DecodeBackend, _ options: EngineOptions, temperature: Double = 0
    ) throws -> (EngineCore, [[Int32]]) {
        let engine = SteppedEngine(backend, options)
        var random = SplitMix(3)
        let beginning = random.tokens(33...33, below: 64)
        var turns = (0..<3).map { _ in beginning + random.tokens(2...9, below: 64) }
        for turn in 0..<3 {
            let first = engine.requests.count
            for (index, prompt) in turns.enumerated() {
                engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: 18,
                        sampling: try SamplingParameters(
                            temperature: temperature, seed: UInt64(10 * turn + index))))
            }
            #expect(engine.finish(most: 3000))
            for index in turns.indices {
                turns[index] += engine.tokens(first + index) + random.tokens(2...5, below: 64)
            }
        }
        #expect(engine.core.metrics.failures == 0)
        #expect(engine.core.metrics.freePages == engine.core.metrics.totalPages)
        return (engine.core, engine.requests.indices.map(engine.tokens))
    }

    @Test(arguments: ["qwen3-gqa4-tied-v5", "llama-yarn-v5", "qwen3moe-normalised-v5"])
    func answersAreThoseWithout(name: String) throws {
        let model = try golden(name).loadModel()
        for options in [EngineOptions(), EngineOptions(deterministic: true)] {
            var without = options
            without.prefixCaching = false
            let (core, found) = try converse(backend(model), options)
            let (plain, expected) = try converse(backend(model), without)
            #expect(found == expected)
            #expect(plain.metrics.cachedTokens == 0)
            let all = core.metrics.cachedTokens + core.metrics.promptTokens
            #expect(all == plain.metrics.promptTokens)
            #expect(core.metrics.cachedTokens > all / 2)
        }
        // Few pages: some are given away, and requests lose theirs.
        let (tight, found) = try converse(backend(model, pages: 40), EngineOptions())
        #expect(try found == converse(backend(model), EngineOptions(prefixCaching: false)).1)
        #expect(tight.metrics.cachedTokens > 0)
    }

    /// With the flag answers do not depend on what is known, to the last bit.
    @Test func deterministicAnswersAreTheSameNumbers() throws {
        let model = try golden().loadModel()
        var random = SplitMix(5)
        let prompt = random.tokens(45...45, below: 64)
        func likelihoods(_ known: Int) throws -> [Float?] {
            let engine = SteppedEngine(try backend(model), EngineOptions(deterministic: true))
            for length in [known, 45] where length > 0 {
                engine.submit(
                    GenerationRequest(
                        prompt: Array(prompt.prefix(length)), maxTokens: 12,
                        sampling: try SamplingParameters(logprobs: 0)))
                #expect(engine.finish())
            }
            let outcome = try #require(engine.outcome(engine.requests.count - 1))
            #expect(outcome.timings.cachedTokens == known / 16 * 16)
            return outcome.tokens.map(\.token.logprob)
        }
        let alone = try likelihoods(0)
        for known in [17, 32, 40] { #expect(try likelihoods(known) == alone) }
    }

    /// Angles of dynamic scaling follow the whole sequence's length.
    @Test func keysThatDependOnTheLengthAreNotShared() throws {
        let model = try golden("qwen3-dynamic-v5").loadModel()
        #expect(try backend(model).capacity.prefixes == nil)
        #expect(try backend(golden().loadModel()).capacity.prefixes == PrefixReuse())
    }

    /// The target as its own draft: everything is accepted behind pages that others have filled, with
    /// proposals and without, and of prompts and answers.
    @Test(arguments: [0.0, 1], [true, false])
    func aPerfectDraftStaysRight(temperature: Double, speculates: Bool) throws {
        let model = try golden().loadModel()
        let expected = try converse(
            backend(model), EngineOptions(prefixCaching: false), temperature: temperature
        ).1
        let torch = RarelyDrafting(
            try backend(model, draft: .model(model)), every: speculates ? 1 : 25)
        let (core, found) = try converse(
            torch, EngineOptions(speculation: .fixed(5)), temperature: temperature)
        #expect(found == expected && core.metrics.cachedTokens > 200)
        #expect(torch.accepted > 0 && torch.refused == 0)
    }

    @Test func ngramsKnowWhatWasNotComputed() throws {
        let model = try golden().loadModel()
        let torch = try backend(model, draft: .ngram())
        let engine = SteppedEngine(torch, EngineOptions(speculation: .fixed(5)))
        let prompt = (0..<40).map { Int32($0 % 10) }
        // The token after 0, 1 … 9 is 7 whatever was before: it is found in the prompt.
        for _ in 0..<2 {
            engine.submit(
                GenerationRequest(
                    prompt: prompt, maxTokens: 6,
                    sampling: try SamplingParameters(logitBias: [7: 100])))
            #expect(engine.finish())
        }
        #expect(engine.tokens(1) == engine.tokens(0))
        #expect(engine.outcome(1)?.timings.cachedTokens == 36)
        let steps = engine.core.metrics.speculation.steps
        // Both took as many steps.
        #expect(try #require(steps[5]).count % 2 == 0)
    }

    /// A head's proposals are those that it makes without known pages, also where the tokens behind a
    /// shared page differ: its places read the token after them.
    @Test(arguments: [1, 30]) func theHeadProposesTheSame(every: Int) throws {
        let source = try golden()
        let model = try source.loadModel()
        let weights = try DraftWeights(
            for: model, source, vocabulary: Array(0..<64), seed: 3)
        let head = try EagleDraft(NoisySource(base: weights, spread: 0.2), target: model)
        func run(_ prefixCaching: Bool) throws -> (EngineCore, [[Int32]]) {
            let torch = try backend(model, draft: .eagle(head))
            #expect(torch.capacity.prefixes == PrefixReuse(lookahead: 1))
            return try converse(
                RarelyDrafting(torch, every: every),
                EngineOptions(speculation: .fixed(4), prefixCaching: prefixCaching))
        }
        let (core, found) = try run(true)
        let (plain, expected) = try run(false)
        #expect(found == expected && core.metrics.cachedTokens > 200)
        // A proposal that is as good as another may change with rounding; few do.
        let (left, right) = (core.metrics.speculation, plain.metrics.speculation)
        #expect(left.reached.count == right.reached.count)
        for (own, others) in zip(
            left.accepted + left.reached, right.accepted + right.reached)
        {
            #expect(abs(own - others) <= 2 + others / 50, "\(left) \(right)")
        }
    }
}

/// Asks for proposals in one step of `every` only.
private final class RarelyDrafting: DecodeBackend {
    private let backend: any DecodeBackend
    private let every: Int
    private var steps = 0
    /// Proposals of each result that has not been read.
    private var queued: [Int] = []
    private(set) var accepted = 0
    private(set) var refused = 0

    init(_ backend: any DecodeBackend, every: Int) {
        self.backend = backend
        self.every = every
    }

    var capacity: DecodeCapacity { backend.capacity }
    func open(_ slot: Int, _ sequence: SequenceStart) throws { try backend.open(slot, sequence) }
    func close(_ slot: Int) { backend.close(slot) }
    func prefill(_ chunk: PrefillChunk) throws {
        try backend.prefill(chunk)
        if chunk.samples { queued.append(0) }
    }
    func decode(_ batch: DecodeBatch) throws {
        steps += 1
        var batch = batch
        if steps % every != 0 { batch.draftTokens = 0 }
        try backend.decode(batch)
        queued.append(batch.draftTokens)
    }
    func collect() throws -> [[SampledToken]] {
        let (drafts, rows) = (queued.removeFirst(), try backend.collect())
        for row in rows {
            accepted += row.count - 1
            refused += drafts + 1 - row.count
        }
        return rows
    }
}
