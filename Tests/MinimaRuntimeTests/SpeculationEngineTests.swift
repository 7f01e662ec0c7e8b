import MinimaCore
import Testing

@testable import MinimaRuntime

/// Drafts from perfect to hostile, for ``HashBackend``.
enum ScriptedDraft: CaseIterable {
    case oracle, mostlyRight, short, uniform, wrong, constant, negative, huge

    func propose(_ tokens: [Int32], _ count: Int) -> [Int32] {
        func truth(_ count: Int) -> [Int32] {
            var all = tokens
            for _ in 0..<count { all.append(HashBackend.next(all)) }
            return Array(all[tokens.count...])
        }
        var random = SplitMix(UInt64(tokens.count * 50) + UInt64(UInt32(bitPattern: tokens[0])))
        switch self {
        case .oracle: return truth(count)
        case .mostlyRight:
            return truth(count).map { Int.random(in: 0..<5, using: &random) == 0 ? 49 - $0 : $0 }
        case .short: return truth(Int.random(in: 0...count, using: &random))
        case .uniform:
            return (0..<count).map { _ in Int32.random(in: 0..<50, using: &random) }
        case .wrong: return truth(count).map { ($0 + 1) % 50 }
        case .constant: return Array(repeating: 7, count: count)
        case .negative: return Array(repeating: -1, count: count)
        case .huge: return (0..<count).map { Int32.max - Int32($0) }
        }
    }
}

@Suite("Speculation: the engine's steps")
struct SpeculationEngineTests {
    /// Random requests, arrivals, cancellations, few pages, a short context, another number of proposals
    /// with every step: what comes out is the hash of each sequence alone.
    @Test(arguments: ScriptedDraft.allCases, 0..<6 as Range<UInt64>)
    func everyRequestGetsWhatItWouldGetAlone(draft: ScriptedDraft, seed: UInt64) throws {
        var random = SplitMix(seed)
        let backend = HashBackend(
            slots: Int.random(in: 1...6, using: &random),
            pages: Int.random(in: 12...40, using: &random), context: 60,
            chunk: Int.random(in: 3...20, using: &random),
            buckets: [[1, 2, 4, 8], [3], [1, 6]].randomElement(using: &random) ?? [1],
            queuedSteps: 1 + Int(seed % 3),
            draftTokens: [[0, 1, 2, 3, 5, 7], [0, 4], [0, 9]].randomElement(using: &random) ?? [0])
        backend.draft = draft.propose
        // Times that change with every question change what is best with every step.
        var times = SplitMix(seed + 100)
        backend.seconds.decode = { _, _ in Double.random(in: 1...3, using: &times) }
        let engine = SteppedEngine(
            backend,
            EngineOptions(
                stepTokens: Int.random(in: 1...24, using: &random),
                reservation: seed % 4 == 0 ? .whole : .growing,
                overtakes: Int.random(in: 0...3, using: &random), deterministic: seed == 4,
                speculation: seed < 2 ? .automatic : .fixed(Int(seed) + 1)))
        var cancelled: Set<Int> = []
        for _ in 0..<40 {
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                try engine.submit(
                    random.tokens(1...47, below: 50),
                    maxTokens: Int.random(in: 1...60, using: &random),
                    stop: Bool.random(using: &random) ? [7, 8] : [])
            }
            if let id = engine.cancelAny(oncePer: 5, &random) { cancelled.insert(id) }
            engine.core.step()
        }
        #expect(engine.finish())
        #expect(backend.violations == [])
        try engine.requireOutcomes(cancelled: cancelled)
        let metrics = engine.core.metrics
        #expect(metrics.freePages == metrics.totalPages && metrics.running == 0)
        #expect(metrics.failures == 0)
        #expect(metrics.finished.values.reduce(0, +) == engine.requests.count)
        let generated = engine.requests.indices.map { engine.tokens($0).count }.reduce(0, +)
        #expect(metrics.generatedTokens == generated)
        let drafting = metrics.speculation
        #expect(drafting.drafted > 0)
        #expect(
            drafting.reached.first
                == drafting.steps.reduce(0) {
                    $0 + ($1.key > 0 ? $1.value.rows : 0)
                })
        for place in drafting.reached.indices.dropFirst() {
            #expect(drafting.reached[place] <= drafting.accepted[place - 1])
        }
        if [.wrong, .negative, .huge].contains(draft) {
            #expect(drafting.acceptanceLength == 1 && drafting.accepted.allSatisfy { $0 == 0 })
        }
    }

    /// Of 24 tokens the prompt's pass makes one; with K right proposals each step makes K + 1.
    @Test(arguments: [1, 2], [1, 3, 7]) func rightProposalsSaveSteps(queuedSteps: Int, count: Int)
        throws
    {
        let backend = HashBackend(
            pages: 40, queuedSteps: queuedSteps, draftTokens: [0, 1, 3, 7])
        backend.draft = ScriptedDraft.oracle.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(count)))
        try engine.submit([3, 1, 4], maxTokens: 25)
        #expect(engine.finish())
        #expect(engine.outcome(0)?.ids == engine.expected(0) && backend.violations == [])
        // A step queued before the last result is read finds the sequence at its end.
        let steps = 24 / (count + 1)
        #expect((steps...steps + queuedSteps - 1).contains(backend.calls.count - 1))
        #expect(engine.core.metrics.speculation.acceptanceLength == Double(count + 1))
        #expect(engine.core.metrics.speculation.steps[count]?.count == backend.calls.count - 1)
    }

    /// What is computed behind an end token, among the accepted ones or in a step queued ahead, is
    /// dropped.
    @Test(arguments: [1, 2], [2, 5]) func endTokensAmongAcceptedOnes(queuedSteps: Int, count: Int)
        throws
    {
        let plain = SteppedEngine(HashBackend(pages: 40))
        try plain.submit([9], maxTokens: 40)
        #expect(plain.finish())
        for index in 0..<20 {
            let backend = HashBackend(
                pages: 40, queuedSteps: queuedSteps, draftTokens: [0, 2, 5])
            backend.draft = ScriptedDraft.oracle.propose
            let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(count)))
            let end = plain.tokens(0)[index]
            try engine.submit([9], maxTokens: 40, stop: [end])
            #expect(engine.finish())
            #expect(engine.outcome(0)?.reason == .stop)
            #expect(engine.outcome(0)?.ids == engine.expected(0))
            #expect(engine.core.metrics.freePages == 40)
        }
    }

    @Test(arguments: [1, 2], [3, 4, 5, 6, 7, 8]) func outputThatIsNotFiniteFailsAlone(
        queuedSteps: Int, length: Int
    ) throws {
        let backend = HashBackend(
            slots: 3, pages: 60, queuedSteps: queuedSteps, draftTokens: [0, 4])
        backend.draft = ScriptedDraft.oracle.propose
        backend.notFinite = [11: length]
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(4)))
        for start in [10, 11, 12] { try engine.submit([Int32(start), 0], maxTokens: 9) }
        #expect(engine.finish())
        #expect(engine.outcome(1)?.reason == .failed(.notFinite(position: length)))
        #expect(engine.outcome(1)?.ids == Array(engine.expected(1).prefix(length - 2)))
        for id in [0, 2] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    /// The last places of the context, and of all pages there are, to the last token.
    @Test(arguments: [1, 2, 3], [false, true]) func theContextIsFilled(
        queuedSteps: Int, deterministic: Bool
    ) throws {
        for (pages, context) in [(10, 1000), (40, 41), (40, 43), (11, 43)] {
            let backend = HashBackend(
                pages: pages, context: context, queuedSteps: queuedSteps, draftTokens: [0, 2, 5])
            backend.draft = ScriptedDraft.mostlyRight.propose
            let engine = SteppedEngine(
                backend, EngineOptions(deterministic: deterministic, speculation: .fixed(5)))
            try engine.submit(Array(repeating: 3, count: 20), maxTokens: 100)
            #expect(engine.finish(most: 200))
            #expect(engine.outcome(0)?.ids.count == min(context, 4 * pages + 1) - 20)
            #expect(engine.outcome(0)?.ids == engine.expected(0) && backend.violations == [])
        }
    }

    /// Pages for proposals are taken from nobody: four requests that fit without, fit with.
    @Test(arguments: [1, 2]) func proposalsPreemptNobody(queuedSteps: Int) throws {
        // 3 + 29 tokens each, the last of which is never read: 8 pages.
        let backend = HashBackend(
            slots: 4, pages: 36, queuedSteps: queuedSteps, draftTokens: [0, 7])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(7)))
        for start in 0..<4 { try engine.submit([Int32(start), 1, 2], maxTokens: 29) }
        #expect(engine.finish())
        #expect(engine.core.metrics.preemptions == 0 && backend.violations == [])
        #expect((engine.core.metrics.speculation.acceptanceLength ?? 0) > 2)
        for id in 0..<4 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    @Test(arguments: [1, 2, 3]) func preemptionComputesAgain(queuedSteps: Int) throws {
        let backend = HashBackend(
            slots: 4, pages: 10, queuedSteps: queuedSteps, draftTokens: [0, 1, 2, 3])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(3)))
        for start in 0..<4 { try engine.submit([Int32(start), 1, 2], maxTokens: 29) }
        #expect(engine.finish(most: 2000))
        #expect(engine.core.metrics.preemptions > 0)
        for id in 0..<4 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(engine.outcome(0)?.timings.preemptions == 0)
        #expect(engine.core.metrics.freePages == 10 && backend.violations == [])
    }

    /// Pages taken at the start hold what steps behind the end write: ⌈(2 + 8 − 1 + 2·5)/4⌉ of them.
    @Test func wholeReservationHoldsProposals() throws {
        let backend = HashBackend(
            slots: 1, pages: 20, queuedSteps: 2, draftTokens: [0, 5])
        backend.draft = ScriptedDraft.oracle.propose
        let engine = SteppedEngine(
            backend, EngineOptions(reservation: .whole, speculation: .fixed(5)))
        try engine.submit([1, 2], maxTokens: 8)
        engine.core.step()
        #expect(engine.core.metrics.freePages == 20 - 5)
        #expect(engine.finish())
        #expect(engine.outcome(0)?.ids == engine.expected(0) && backend.violations == [])
    }

    /// Proposals are tokens that a step computes: two rows of 5 leave 10 of 20 for prompts.
    @Test func proposalsCountInTheStepsTokens() throws {
        let backend = HashBackend(slots: 3, pages: 300, chunk: 64, draftTokens: [0, 4])
        let engine = SteppedEngine(
            backend, EngineOptions(stepTokens: 20, speculation: .fixed(4)))
        for start in 0..<2 { try engine.submit([Int32(start)], maxTokens: 40) }
        engine.core.step()
        try engine.submit(Array(repeating: 5, count: 40), maxTokens: 1)
        let before = backend.calls.count
        engine.core.step()
        let calls = backend.calls[before...]
        #expect(calls.contains(.decode(slots: [0, 1], bucket: 2, drafts: 4)))
        // Cut where a page ends.
        #expect(calls.contains(.prefill(slot: 2, position: 0, count: 8)))
        #expect(engine.finish() && backend.violations == [])
    }

    @Test func numbersThatTheBackendHas() throws {
        func drafts(_ speculation: Speculation, _ choices: [Int]) throws -> Set<Int> {
            let backend = HashBackend(pages: 300, draftTokens: choices)
            backend.draft = ScriptedDraft.oracle.propose
            // There is no step of five proposals.
            backend.seconds.decode = { $1 == 5 ? .infinity : 1 + 0.1 * Double($1) }
            let engine = SteppedEngine(backend, EngineOptions(speculation: speculation))
            try engine.submit([1], maxTokens: 100)
            #expect(engine.finish() && engine.tokens(0) == engine.expected(0))
            return Set(
                backend.calls.compactMap { call in
                    guard case .decode(_, _, let drafts) = call else { return nil }
                    return drafts
                })
        }
        #expect(try drafts(.off, [0, 2, 5]) == [0])
        #expect(try drafts(.fixed(4), [0, 2, 5]) == [2])
        #expect(try drafts(.fixed(9), [0, 2, 5]) == [2])
        #expect(try drafts(.fixed(1), [0, 2, 5]) == [0])
        #expect(try drafts(.fixed(3), [0]) == [0])
        #expect(try drafts(.automatic, [0]) == [0])
        // Every token right: mostly two proposals, never five.
        #expect(try drafts(.automatic, [0, 2, 5]).isSubset(of: [0, 2]))
        #expect(try drafts(.automatic, [0, 2, 5]).contains(2))
    }

    /// With the flag, a request's launches look the same alone and in company, which here comes to the
    /// context's end meanwhile.
    @Test(arguments: [1, 2]) func deterministicLaunchesDoNotDependOnCompany(queuedSteps: Int) throws
    {
        func launches(_ company: Int, _ speculation: Speculation) throws -> [HashBackend.Call] {
            let backend = HashBackend(
                slots: 4, pages: 200, context: 60, chunk: 16, buckets: [2, 4],
                queuedSteps: queuedSteps, draftTokens: [0, 2, 4])
            backend.draft = ScriptedDraft.mostlyRight.propose
            let engine = SteppedEngine(
                backend,
                EngineOptions(stepTokens: 30, deterministic: true, speculation: speculation))
            try engine.submit(Array(repeating: 3, count: 17), maxTokens: 50)
            for start in 0..<company {
                try engine.submit(
                    Array(repeating: Int32(start), count: 30 + 7 * start), maxTokens: 100)
            }
            #expect(engine.finish() && backend.violations == [])
            #expect(engine.outcome(0)?.ids == engine.expected(0))
            return backend.calls.compactMap { call in
                guard case .decode(let slots, let bucket, let drafts) = call,
                    slots.contains(0)
                else { return nil }
                return .decode(slots: [0], bucket: bucket, drafts: drafts)
            }
        }
        let alone = try launches(0, .fixed(4))
        #expect(alone.contains(.decode(slots: [0], bucket: 2, drafts: 0)))
        #expect(alone.contains(.decode(slots: [0], bucket: 2, drafts: 4)))
        // Other requests take the slot when this one has ended.
        #expect(try launches(3, .fixed(4)).prefix(alone.count) == alone[...])
        // Left to measured times, there would be no telling.
        #expect(
            try launches(0, .automatic).allSatisfy { $0 == .decode(slots: [0], bucket: 2) })
    }

    @Test(arguments: [1, 2], [true, false]) func aDecodeThatThrows(
        queuedSteps: Int, atOnce: Bool
    ) throws {
        let backend = HashBackend(
            slots: 2, pages: 40, queuedSteps: queuedSteps, draftTokens: [0, 3])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(3)))
        for start in 0..<3 { try engine.submit([Int32(start)], maxTokens: 20) }
        for _ in 0..<3 { engine.core.step() }
        backend.breakNextDecode(atOnce: atOnce)
        #expect(engine.finish())
        for id in 0..<2 {
            let outcome = try #require(engine.outcome(id))
            #expect(outcome.reason == .failed(.stepFailed("Broken()")))
            #expect(engine.expected(id).starts(with: outcome.ids))
        }
        #expect(engine.outcome(2)?.ids == engine.expected(2))
        #expect(engine.core.metrics.freePages == 40)
    }

    /// A backend that breaks the contract fails the step instead of corrupting positions.
    @Test(arguments: [0, 4]) func wrongNumbersOfTokensAreRefused(count: Int) throws {
        let backend = MiscountingBackend(count)
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(2)))
        try engine.submit([1], maxTokens: 20)
        #expect(engine.finish(most: 20))
        guard case .failed(.stepFailed) = engine.outcome(0)?.reason else {
            Issue.record("\(String(describing: engine.outcome(0)?.reason))")
            return
        }
        #expect(engine.core.metrics.freePages == 20)
    }
}

/// Gives back a wrong number of tokens per row.
private final class MiscountingBackend: DecodeBackend {
    let capacity = DecodeCapacity(
        slots: 1, pages: 20, pageTokens: 4, context: 80, vocabulary: 50, buckets: [1],
        deterministicBucket: 1, queuedSteps: 1, draftTokens: [0, 2])
    private let count: Int
    private var results: [Int] = []

    init(_ count: Int) { self.count = count }

    func open(_ slot: Int, _ sequence: SequenceStart) {}
    func close(_ slot: Int) {}
    func prefill(_ chunk: PrefillChunk) { results.append(1) }
    func decode(_ batch: DecodeBatch) { results.append(count) }
    func collect() -> [[SampledToken]] {
        [Array(repeating: SampledToken(id: 3), count: results.removeFirst())]
    }
}
