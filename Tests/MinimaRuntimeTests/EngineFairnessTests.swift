import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Engine: fairness")
struct EngineFairnessTests {
    /// Where a request may be when it is cancelled.
    enum Stage: CaseIterable { case queued, prefilling, decoding, speculating }

    /// Pages are free at once in every state, also with steps queued that still write; who comes next
    /// gets them and its own tokens.
    @Test(arguments: Stage.allCases, [1, 2, 3])
    func cancellationFreesThePagesWithinAStep(stage: Stage, queuedSteps: Int) throws {
        let backend = HashBackend(
            slots: 2, pages: 30, chunk: 8, queuedSteps: queuedSteps, draftTokens: [0, 5],
            headPlaces: 6)
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(
            backend,
            EngineOptions(
                maxRunning: stage == .queued ? 1 : 2, stepTokens: 14,
                speculation: stage == .speculating ? .fixed(5) : .off))
        let kept = try engine.submit([1, 2, 3], maxTokens: 40)
        engine.core.step()
        engine.core.step()
        let victim = try engine.submit((0..<40).map { Int32($0) }, maxTokens: 30)
        var steps = 0
        while steps < 100 {
            engine.core.step()
            steps += 1
            let count = engine.tokens(victim).count
            if stage == .queued || stage == .prefilling || count > 4 { break }
        }
        #expect(engine.outcome(victim) == nil && steps < 100)
        engine.core.cancel(UInt64(victim))
        #expect(engine.outcome(victim)?.reason == .cancelled)
        engine.core.step()
        let metrics = engine.core.metrics
        #expect(metrics.running == (engine.outcome(kept) == nil ? 1 : 0) && metrics.waiting == 0)
        // What is held is the other's: its tokens, those in flight and their proposals.
        let most = 3 + engine.tokens(kept).count + (queuedSteps + 1) * 6
        #expect(metrics.freePages >= 30 - (most + 3) / 4)
        // The next one needs pages that the cancelled one had.
        let next = try engine.submit((10..<50).map { Int32($0) }, maxTokens: 9)
        #expect(engine.finish(most: 500))
        for id in [kept, next] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(engine.expected(victim).starts(with: engine.tokens(victim)))
        #expect(engine.core.metrics.freePages == 30 && backend.violations == [])
    }

    /// While 10,000 tokens of a prompt are read, who decodes gets a token with every step, speculating
    /// or not, and the prompt gets on by what the step has left.
    @Test(arguments: [1, 2], [false, true])
    func aVeryLongPromptHoldsUpNoDecode(queuedSteps: Int, speculates: Bool) throws {
        let backend = HashBackend(
            slots: 4, pages: 900, pageTokens: 16, context: 12_000, chunk: 256,
            queuedSteps: queuedSteps, draftTokens: [0, 3])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(
            backend, EngineOptions(speculation: speculates ? .fixed(3) : .off))
        for start in 0..<3 { try engine.submit([Int32(start)], maxTokens: 600) }
        for _ in 0..<3 { engine.core.step() }
        let prompt = (0..<10_000).map { Int32($0 * $0 % 47) }
        let long = try engine.submit(prompt, maxTokens: 1)
        var (steps, gap) = (0, [0, 0, 0])
        while engine.outcome(long) == nil, steps < 100 {
            let before = (0..<3).map { engine.tokens($0).count }
            engine.core.step()
            steps += 1
            for id in 0..<3 {
                gap[id] = engine.tokens(id).count > before[id] ? 0 : gap[id] + 1
                #expect(gap[id] == 0)
            }
        }
        // 10,000 tokens by what 256 a step leave, in whole pages.
        let share = 256 - 3 * (speculates ? 4 : 1)
        #expect(steps <= 10_000 / (share - 15) + 2 + queuedSteps)
        #expect(engine.outcome(long)?.ids == engine.expected(long) && backend.violations == [])
        engine.core.cancelAll()
    }

    /// Of 64 tokens per step a decode leaves three pages; fewer where prefill is slow and a step's time is
    /// limited, one however slow it is.
    @Test(arguments: [(0.001, 48), (0.004, 16), (1.0, 16)])
    func slowPrefillIsCutSmall(seconds: Double, expected: Int) throws {
        let backend = HashBackend(slots: 2, pages: 300, pageTokens: 16, chunk: 64)
        backend.seconds.prefill = { count, _ in Double(count) * seconds }
        let engine = SteppedEngine(backend, EngineOptions(stepSeconds: 0.1))
        try engine.submit([1], maxTokens: 40)
        engine.core.step()
        try engine.submit((0..<200).map { Int32($0 % 50) }, maxTokens: 1)
        engine.core.step()
        #expect(
            backend.calls.contains(.prefill(slot: 1, position: 0, count: expected)))
        #expect(engine.finish())
        for id in 0..<2 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    /// A short prompt behind a long one that is being read comes first.
    @Test(arguments: [1, 2]) func aShortPromptPassesALongOne(queuedSteps: Int) throws {
        let backend = HashBackend(
            slots: 4, pages: 300, chunk: 16, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        let long = try engine.submit((0..<600).map { Int32($0 * $0 % 47) }, maxTokens: 1)
        for _ in 0..<3 { engine.core.step() }
        let short = try engine.submit([1, 2, 3, 4, 5], maxTokens: 1)
        var steps = 0
        while engine.outcome(short) == nil, steps < 100 {
            engine.core.step()
            steps += 1
        }
        #expect(steps <= 1 + queuedSteps && engine.outcome(long) == nil)
        #expect(engine.finish(most: 500))
        for id in [long, short] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(backend.violations == [])
    }

    /// How long a prompt is, is what must be computed of it: one that goes on with a known text passes a
    /// shorter one.
    @Test func knownBeginningsMakePromptsShort() throws {
        let backend = HashBackend(slots: 4, pages: 300, chunk: 16)
        let engine = SteppedEngine(backend)
        let known = (0..<100).map { Int32($0 % 50) }
        try engine.submit(known, maxTokens: 1)
        #expect(engine.finish())
        let new = try engine.submit((0..<90).map { Int32($0 * $0 % 47) }, maxTokens: 1)
        engine.core.step()
        let next = try engine.submit(known + [7, 8, 9], maxTokens: 1)
        engine.core.step()
        #expect(engine.outcome(next) != nil && engine.outcome(new) == nil)
        #expect(engine.finish())
        for id in 0..<3 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(backend.violations == [])
    }

    /// No short prompt passes a long one any more once as many tokens were read as the long one has,
    /// however many come.
    @Test func aLongPromptIsNotPassedForever() throws {
        let backend = HashBackend(slots: 4, pages: 400, chunk: 16)
        let engine = SteppedEngine(backend, EngineOptions(prefixCaching: false))
        let length = 320
        let long = try engine.submit((0..<length).map { Int32($0 * $0 % 47) }, maxTokens: 1)
        engine.core.step()
        var random = SplitMix(9)
        var steps = 0
        while engine.outcome(long) == nil, steps < 1000 {
            while engine.core.metrics.running + engine.core.metrics.waiting < 4 {
                try engine.submit(random.tokens(16...16, below: 40), maxTokens: 1)
                engine.core.step()
                steps += 1
            }
            engine.core.step()
            steps += 1
        }
        // A step reads 16 tokens: its own and as many of others, and what was begun before.
        #expect(steps <= 2 * length / 16 + 8)
        #expect(engine.finish(most: 500))
        #expect(engine.outcome(long)?.ids == engine.expected(long) && backend.violations == [])
    }

    /// A small request behind large ones that do not fit is the next to begin.
    @Test(arguments: [EngineOptions.Reservation.whole, .growing])
    func aSmallRequestPassesLargeOnes(reservation: EngineOptions.Reservation) throws {
        let backend = HashBackend(slots: 4, pages: 40)
        let engine = SteppedEngine(backend, EngineOptions(reservation: reservation))
        for start in 0..<10 {
            try engine.submit(Array(repeating: Int32(start), count: 100), maxTokens: 20)
        }
        for _ in 0..<3 { engine.core.step() }
        let before = backend.opened.count
        let small = try engine.submit([40, 41], maxTokens: 4)
        #expect(engine.finish(most: 3000))
        let place = try #require(backend.opened.firstIndex { $0.tokens == [40, 41] })
        #expect(place == before && before == 1)
        for id in engine.requests.indices {
            #expect(engine.outcome(id)?.ids == engine.expected(id))
        }
        #expect(engine.outcome(small)?.reason == .length && backend.violations == [])
    }

    /// A large request among small ones that keep coming begins after as many admissions as may overtake
    /// it and slots are taken, whichever way pages are reserved, and what is admitted beside it.
    @Test(arguments: [EngineOptions.Reservation.whole, .growing], [0, 8])
    func aLargeRequestIsNotPassedForever(
        reservation: EngineOptions.Reservation, overtakes: Int
    ) throws {
        let backend = HashBackend(slots: 4, pages: 40)
        let engine = SteppedEngine(
            backend, EngineOptions(reservation: reservation, overtakes: overtakes))
        var random = SplitMix(4)
        func small() throws {
            try engine.submit(random.tokens(6...12, below: 40), maxTokens: 12)
        }
        for _ in 0..<4 { try small() }
        engine.core.step()
        let large = try engine.submit([45] + Array(repeating: 46, count: 139), maxTokens: 10)
        let before = backend.opened.count
        for _ in 0..<200 {
            try small()
            engine.core.step()
        }
        let place = try #require(backend.opened.firstIndex { $0.tokens.first == 45 })
        #expect(place <= before + overtakes + 3)
        #expect(engine.finish(most: 5000))
        #expect(engine.outcome(large)?.ids == engine.expected(large) && backend.violations == [])
    }

    /// A step behind a sequence's end tells nothing of the draft.
    @Test func whatComesAfterTheEndIsNotCounted() throws {
        let backend = HashBackend(pages: 40, queuedSteps: 2, draftTokens: [0, 3])
        backend.draft = ScriptedDraft.oracle.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(3)))
        let id = try engine.submit([3, 1, 4], maxTokens: 9)
        #expect(engine.finish() && engine.tokens(id).count == 9)
        let metrics = engine.core.metrics.speculation
        // The prompt's token, then two steps of four; one more was queued before the end was read.
        #expect(metrics.steps[3]?.rows == 2 && metrics.reached == [2, 2, 2])
    }
}
