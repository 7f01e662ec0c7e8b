import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Constraints: the engine's steps")
struct ConstraintEngineTests {
    private func request(
        _ prompt: [Int32], _ maxTokens: Int, stop: Set<Int32> = [],
        _ constraint: (any TokenConstraint)?
    ) throws -> GenerationRequest {
        GenerationRequest(
            prompt: prompt, maxTokens: maxTokens, sampling: try SamplingParameters(), stop: stop,
            constraint: constraint)
    }

    /// Random requests with and without constraints, arrivals, cancellations, few pages, proposals:
    /// each gets what it would alone, every token is allowed, and the constraint hears of each once.
    @Test(arguments: [ScriptedDraft.oracle, .mostlyRight, .wrong, .huge], 0..<6 as Range<UInt64>)
    func everyTokenIsAllowed(draft: ScriptedDraft, seed: UInt64) throws {
        var random = SplitMix(seed + 70)
        let backend = HashBackend(
            slots: Int.random(in: 1...6, using: &random),
            pages: Int.random(in: 12...40, using: &random), context: 60,
            chunk: Int.random(in: 3...20, using: &random),
            buckets: [[1, 2, 4, 8], [3], [1, 6]].randomElement(using: &random) ?? [1],
            queuedSteps: 1 + Int(seed % 3), draftTokens: [0, 1, 3, 5])
        backend.draft = draft.propose
        let engine = SteppedEngine(
            backend,
            EngineOptions(
                stepTokens: Int.random(in: 1...24, using: &random),
                reservation: seed % 4 == 0 ? .whole : .growing, deterministic: seed == 4,
                speculation: seed < 2 ? .automatic : .fixed(Int(seed))))
        var cancelled: Set<Int> = []
        for _ in 0..<40 {
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                let rule = ConstraintRule.allCases.randomElement(using: &random)
                engine.submit(
                    try request(
                        random.tokens(1...47, below: 50), Int.random(in: 1...60, using: &random),
                        stop: Bool.random(using: &random) || rule == .text ? [7, 8] : [],
                        Int.random(in: 0..<3, using: &random) > 0 ? rule?.constraint : nil))
            }
            if let id = engine.cancelAny(oncePer: 5, &random) { cancelled.insert(id) }
            engine.core.step()
        }
        #expect(engine.finish())
        #expect(backend.violations == [])
        try engine.requireOutcomes(cancelled: cancelled)
        for (id, request) in engine.requests.enumerated() {
            #expect(request.constraintIsUpheld(engine.tokens(id)))
        }
        let metrics = engine.core.metrics
        #expect(metrics.freePages == metrics.totalPages && metrics.failures == 0)
        let drafting = metrics.speculation
        if draft == .wrong || draft == .huge {
            #expect(drafting.accepted.allSatisfy { $0 == 0 })
        }
    }

    /// Preempted requests go on where their constraints are.
    @Test(arguments: [1, 2, 3]) func preemptionReplaysNothing(queuedSteps: Int) throws {
        let backend = HashBackend(
            slots: 4, pages: 10, queuedSteps: queuedSteps, draftTokens: [0, 3])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(3)))
        for (start, rule) in [ConstraintRule.even, .afterTrigger, .shrinking, .even].enumerated() {
            engine.submit(try request([Int32(start), 1, 2], 29, rule.constraint))
        }
        #expect(engine.finish(most: 2000))
        #expect(engine.core.metrics.preemptions > 0 && backend.violations == [])
        for id in 0..<4 {
            #expect(engine.outcome(id)?.ids == engine.expected(id))
            #expect(engine.requests[id].constraintIsUpheld(engine.tokens(id)))
        }
    }

    /// A step is queued ahead of a result only while no constrained sequence waits for it: a stop token
    /// is found in time with one beside it, and a step late again once that has ended.
    @Test func resultsAreReadFirstWhileAConstrainedSequenceRuns() throws {
        let free = HashBackend.reference(try request([9], 20, nil), limit: 20)
        let end = free[6]
        let last = try #require(free.firstIndex(of: end))
        for (company, decodes) in [(nil, last + 1), (2, last + 1), (20, last)] {
            let backend = HashBackend(pages: 40, queuedSteps: 2)
            let engine = SteppedEngine(backend)
            engine.submit(try request([9], 20, stop: [end], nil))
            if let company {
                engine.submit(try request([4], company, ConstraintRule.anything.constraint))
            }
            #expect(engine.finish())
            #expect(engine.outcome(0)?.ids == Array(free[..<last]))
            let own = backend.calls.count { call in
                guard case .decode(let slots, _, _) = call else { return false }
                return slots.contains(0)
            }
            #expect(own == decodes, "\(String(describing: company))")
        }
    }

    /// Proposals of the others are verified as before; a step of constrained rows has none.
    @Test(arguments: [1, 2]) func onlyFreeRowsVerify(queuedSteps: Int) throws {
        let backend = HashBackend(pages: 100, queuedSteps: queuedSteps, draftTokens: [0, 3])
        backend.draft = ScriptedDraft.oracle.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(3)))
        engine.submit(try request([1], 41, ConstraintRule.anything.constraint))
        engine.submit(try request([2], 41, nil))
        engine.submit(try request([3], 41, ConstraintRule.even.constraint))
        #expect(engine.finish() && backend.violations == [])
        for id in 0..<3 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        let metrics = engine.core.metrics.speculation
        #expect(metrics.acceptanceLength == 4)
        #expect(metrics.steps[3]?.rows == 10 && metrics.steps[3]?.tokens == 40)
        // The constrained ones make one a step, 30 of them without the other.
        #expect(metrics.steps[0]?.count == 30 && metrics.steps[0]?.rows == 60)
        // The steps' times are those of all rows.
        #expect(metrics.steps[3]?.timed.tokens ?? 0 <= 6 * 9)
    }

    /// With the flag, launches of constrained requests look the same alone and in company.
    @Test func deterministicLaunchesDoNotDependOnCompany() throws {
        func drafts(_ company: Int) throws -> [Int] {
            let backend = HashBackend(
                slots: 4, pages: 200, buckets: [2, 4], queuedSteps: 2, draftTokens: [0, 4])
            backend.draft = ScriptedDraft.oracle.propose
            let engine = SteppedEngine(
                backend, EngineOptions(deterministic: true, speculation: .fixed(4)))
            engine.submit(try request([3, 3], 20, ConstraintRule.even.constraint))
            for start in 0..<company { engine.submit(try request([Int32(start)], 60, nil)) }
            #expect(engine.finish() && backend.violations == [])
            return backend.calls.compactMap { call in
                guard case .decode(let slots, _, let drafts) = call, slots.contains(0)
                else { return nil }
                return drafts
            }
        }
        let alone = try drafts(0)
        #expect(alone == Array(repeating: 0, count: 19))
        #expect(try drafts(3).prefix(19) == alone[...])
    }

    // MARK: Failures

    /// Where nothing may come, at the prompt or later, that request ends and no other.
    @Test(arguments: [1, 2], [0, 1, 5]) func nothingAllowedFailsAlone(
        queuedSteps: Int, length: Int
    ) throws {
        let backend = HashBackend(
            slots: 3, pages: 60, queuedSteps: queuedSteps, draftTokens: [0, 2])
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(backend, EngineOptions(speculation: .fixed(2)))
        // Tokens behind the vocabulary are none.
        let dead = ScriptedConstraint { answer in
            { answer.count < length ? $0 % 2 == 0 : $0 >= 50 }
        }
        engine.submit(try request([1, 2], 20, nil))
        engine.submit(try request([4, 4, 4], 20, dead))
        engine.submit(try request([3, 2], 20, ConstraintRule.even.constraint))
        #expect(engine.finish())
        let error = EngineError.nothingAllowed(position: 3 + length)
        #expect(engine.outcome(1)?.reason == .failed(error) && "\(error)".contains("\(3 + length)"))
        #expect(engine.outcome(1)?.ids == engine.expected(1))
        #expect(engine.tokens(1).count == length)
        for id in [0, 2] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        let metrics = engine.core.metrics
        #expect(metrics.freePages == 60 && metrics.finished["failed"] == 1)
        // The device did nothing wrong.
        #expect(metrics.failures == 0 && backend.violations == [])
    }

    /// A constraint without a next token costs nobody the pages that are known.
    @Test func aFailedConstraintLeavesKnownPages() throws {
        let backend = HashBackend(pages: 60)
        let engine = SteppedEngine(backend)
        engine.submit(try request([1, 2], 20, nil))
        #expect(engine.finish())
        let known = engine.core.metrics.cachedPages
        let dead = ScriptedConstraint { answer in { _ in answer.isEmpty } }
        engine.submit(try request([4, 4], 20, dead))
        #expect(engine.finish())
        #expect(engine.outcome(1)?.reason == .failed(.nothingAllowed(position: 3)))
        #expect(known > 0 && engine.core.metrics.cachedPages >= known)
    }

    /// Contradicts its own mask, or makes one of another size.
    private final class Broken: TokenConstraint {
        let words: Int?
        init(words: Int?) { self.words = words }
        func allowed(_ mask: inout [UInt32]) -> Bool {
            mask = Array(repeating: .max, count: words ?? mask.count)
            return true
        }
        func accept(_ token: Int32) -> Bool { false }
    }

    @Test(arguments: [1, 2]) func brokenConstraintsFailAlone(queuedSteps: Int) throws {
        let backend = HashBackend(slots: 3, pages: 60, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        engine.submit(try request([1, 2], 20, nil))
        engine.submit(try request([4, 4], 20, Broken(words: nil)))
        for words in [0, 1, 3] {
            engine.submit(try request([5, 4], 20, Broken(words: words)))
        }
        #expect(engine.finish())
        #expect(engine.outcome(0)?.ids == engine.expected(0))
        let token = HashBackend.next([4, 4])
        let refused = EngineError.tokenNotAllowed(id: token, position: 2)
        #expect(engine.outcome(1)?.reason == .failed(refused) && "\(refused)".contains("\(token)"))
        #expect(engine.outcome(1)?.ids == [])
        for (id, words) in [0, 1, 3].enumerated() {
            guard case .failed(.stepFailed(let reason)) = engine.outcome(2 + id)?.reason else {
                Issue.record("\(String(describing: engine.outcome(2 + id)?.reason))")
                continue
            }
            #expect(reason.contains("\(words) words"))
        }
        #expect(engine.core.metrics.freePages == 60 && backend.violations == [])
    }
}

@Suite("Constraints: the controller of proposals")
struct ConstraintControllerTests {
    /// What pays where all rows verify does not where a tenth of them do.
    @Test func rowsThatVerifyNothingCountAsOneTokenEach() {
        func seconds(_ bucket: Int, _ draftTokens: Int) -> Double? { 1 + 0.2 * Double(draftTokens) }
        func chosen(share: Double) -> [Int: Int] {
            var controller = SpeculationController(Array(0...3), seconds: seconds)
            let rows = 20
            let free = Int((Double(rows) * share).rounded())
            var counts: [Int: Int] = [:]
            for _ in 0..<400 {
                let choice = controller.choose(bucket: rows, share: share)
                counts[choice.draftTokens, default: 0] += 1
                controller.record(
                    choice, bucket: rows,
                    accepted: Array(repeating: choice.draftTokens, count: free),
                    constrained: rows - free, seconds: nil)
            }
            return counts
        }
        #expect(chosen(share: 1)[3] ?? 0 > 300)
        #expect(chosen(share: 0.1)[0] ?? 0 > 350)
    }
}
