import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Engine: scheduling")
struct EngineSchedulingTests {
    /// Random requests, arrivals and cancellations, against the hash of each sequence alone.
    @Test(arguments: 0..<12) func everyRequestGetsWhatItWouldGetAlone(seed: UInt64) throws {
        var random = SplitMix(seed)
        let backend = HashBackend(
            slots: Int.random(in: 1...6, using: &random),
            pages: Int.random(in: 12...40, using: &random), context: 60,
            chunk: Int.random(in: 3...20, using: &random),
            buckets: [[1, 2, 4, 8], [3], [1, 6]].randomElement(using: &random) ?? [1],
            queuedSteps: 1 + Int(seed % 3))
        let engine = SteppedEngine(
            backend,
            EngineOptions(
                stepTokens: Int.random(in: 1...24, using: &random),
                reservation: seed % 4 == 0 ? .whole : .growing,
                overtakes: Int.random(in: 0...3, using: &random), deterministic: seed % 5 == 4))
        var cancelled: Set<Int> = []
        for _ in 0..<60 {
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                try engine.submit(
                    random.tokens(1...47, below: 50),
                    maxTokens: Int.random(in: 1...40, using: &random),
                    stop: Bool.random(using: &random) ? [7, 8] : [])
            }
            if let id = engine.cancelAny(oncePer: 4, &random) {
                cancelled.insert(id)
                #expect(engine.outcome(id)?.reason == .cancelled)
            }
            engine.core.step()
        }
        #expect(engine.finish())
        #expect(backend.violations == [])
        try engine.requireOutcomes(cancelled: cancelled)
        let metrics = engine.core.metrics
        #expect(metrics.freePages == metrics.totalPages && metrics.running == 0)
        #expect(metrics.finished["cancelled", default: 0] == cancelled.count)
        #expect(metrics.finished.values.reduce(0, +) == engine.requests.count)
        #expect(metrics.failures == 0)
        let generated = engine.requests.indices.map { engine.tokens($0).count }.reduce(0, +)
        #expect(metrics.generatedTokens == generated)
    }

    /// Four requests whose ends need 32 pages of 10: each in turn loses its pages, all get done.
    @Test(arguments: [1, 2, 3]) func preemptionComputesAgain(queuedSteps: Int) throws {
        let backend = HashBackend(slots: 4, pages: 10, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        for start in 0..<4 { try engine.submit([Int32(start), 1, 2], maxTokens: 29) }
        #expect(engine.finish(most: 2000))
        #expect(engine.core.metrics.preemptions > 0)
        for id in 0..<4 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        // The oldest is never preempted.
        #expect(engine.outcome(0)?.timings.preemptions == 0)
        #expect(backend.opened.contains { $0.promptCount == 3 && $0.tokens.count > 3 })
        #expect(engine.core.metrics.freePages == 10 && backend.violations == [])
    }

    /// What lost its pages runs again before what came later.
    @Test func preemptedRequestsKeepTheirTurn() throws {
        let backend = HashBackend(slots: 2, pages: 10)
        let engine = SteppedEngine(backend, EngineOptions(overtakes: 0))
        for start in 0..<3 { try engine.submit([Int32(start), 1, 2], maxTokens: 29) }
        #expect(engine.finish())
        #expect(engine.core.metrics.preemptions == 2)
        #expect(backend.opened.map { $0.tokens[0] } == [0, 1, 1, 2, 2])
    }

    @Test(arguments: [
        EngineOptions(reservation: .whole), EngineOptions(deterministic: true),
    ]) func wholeReservationNeverPreempts(options: EngineOptions) throws {
        let engine = SteppedEngine(HashBackend(slots: 4, pages: 10), options)
        for start in 0..<4 { try engine.submit([Int32(start), 1, 2], maxTokens: 29) }
        #expect(engine.finish())
        #expect(engine.core.metrics.preemptions == 0)
        for id in 0..<4 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    /// 10 pages hold one request of 29 + 12 − 1 tokens to the last place.
    @Test func aRequestMayFillEveryPage() throws {
        let engine = SteppedEngine(HashBackend(pages: 10))
        #expect(Engine.context(engine.core.capacity) == 41)
        try engine.submit(Array(repeating: 3, count: 29), maxTokens: 100)
        #expect(engine.finish())
        #expect(engine.outcome(0)?.ids.count == 12 && engine.outcome(0)?.reason == .length)
    }

    @Test func firstComeFirstServed() throws {
        let engine = SteppedEngine(HashBackend(slots: 1, pages: 20))
        var ended: [Int] = []
        for start in 0..<5 { try engine.submit([Int32(start)], maxTokens: 3) }
        while !engine.core.isIdle {
            engine.core.step()
            ended += (0..<5).filter { engine.outcome($0) != nil && !ended.contains($0) }
        }
        #expect(ended == [0, 1, 2, 3, 4])
    }

    /// A request that needs most pages waits behind a stream of small ones that fit: they overtake
    /// it as often as allowed, then it is its turn.
    @Test(arguments: [0, 1, 5]) func overtakingEnds(overtakes: Int) throws {
        let backend = HashBackend(slots: 4, pages: 12)
        let engine = SteppedEngine(
            backend, EngineOptions(reservation: .whole, overtakes: overtakes))
        try engine.submit([1], maxTokens: 16)
        engine.core.step()
        let large = try engine.submit([40, 2], maxTokens: 43)
        for _ in 0..<60 {
            try engine.submit([2], maxTokens: 8)
            engine.core.step()
        }
        #expect(engine.finish())
        let place = try #require(backend.opened.firstIndex { $0.tokens == [40, 2] })
        // The first request, those that overtook, the large one.
        #expect(place == 1 + overtakes)
        #expect(engine.outcome(large)?.ids == engine.expected(large))
    }

    /// While a prompt of 500 tokens is computed, who decodes gets a token with every step, and no
    /// step computes more than its budget.
    @Test func longPromptsDoNotStarveDecodes() throws {
        let backend = HashBackend(slots: 4, pages: 300, chunk: 64)
        let engine = SteppedEngine(backend, EngineOptions(stepTokens: 20))
        try engine.submit([1], maxTokens: 100)
        try engine.submit([2], maxTokens: 100)
        engine.core.step()
        let prompt = [Int32](repeating: 5, count: 500)
        let long = try engine.submit(prompt, maxTokens: 2)
        while engine.tokens(long).isEmpty {
            let before = (engine.tokens(0).count, engine.tokens(1).count, backend.calls.count)
            engine.core.step()
            #expect(engine.tokens(0).count == before.0 + 1)
            #expect(engine.tokens(1).count == before.1 + 1)
            #expect(tokens(in: backend.calls[before.2...]) <= 20)
        }
        #expect(engine.finish())
        #expect(engine.tokens(long) == engine.expected(long))
    }

    private func tokens(in calls: ArraySlice<HashBackend.Call>) -> Int {
        calls.reduce(0) { sum, call in
            switch call {
            case .prefill(_, _, let count): sum + count
            case .decode(let slots, _, let drafts): sum + slots.count * (drafts + 1)
            }
        }
    }

    /// More decodes than a step has tokens leave a page per step for prompts.
    @Test func decodesDoNotStarvePrompts() throws {
        let backend = HashBackend(slots: 4, pages: 300)
        let engine = SteppedEngine(backend, EngineOptions(stepTokens: 2))
        for start in 0..<3 { try engine.submit([Int32(start)], maxTokens: 200) }
        for _ in 0..<3 { engine.core.step() }
        try engine.submit([Int32](repeating: 5, count: 40), maxTokens: 1)
        for _ in 0..<10 { engine.core.step() }
        #expect(engine.outcome(3)?.ids == engine.expected(3))
        #expect(engine.outcome(0) == nil)
    }

    /// A millisecond per decode step and per 4 tokens of a prompt, and steps of 5 ms: 16 tokens of a
    /// prompt at a time beside decodes, all that fit without.
    @Test func chunksKeepTheStepsTime() throws {
        let backend = HashBackend(slots: 2, pages: 300, chunk: 64)
        backend.seconds = ({ _, _ in 0.001 }, { count, _ in Double(count) * 0.00025 })
        let engine = SteppedEngine(backend, EngineOptions(stepSeconds: 0.005))
        try engine.submit([Int32](repeating: 1, count: 64), maxTokens: 40)
        engine.core.step()
        #expect(backend.calls == [.prefill(slot: 0, position: 0, count: 64)])
        try engine.submit([Int32](repeating: 2, count: 50), maxTokens: 1)
        for _ in 0..<4 { engine.core.step() }
        let chunks = backend.calls.dropFirst().compactMap { call -> Int? in
            guard case .prefill(_, _, let count) = call else { return nil }
            return count
        }
        #expect(chunks == [16, 16, 16, 2])
        #expect(engine.outcome(1)?.ids == engine.expected(1))
    }

    /// With the flag, a request's launches look the same alone and in company.
    @Test func deterministicLaunchesDoNotDependOnCompany() throws {
        func launches(_ company: Int) throws -> [HashBackend.Call] {
            let backend = HashBackend(slots: 4, pages: 200, chunk: 16, buckets: [2, 4])
            let engine = SteppedEngine(backend, EngineOptions(stepTokens: 9, deterministic: true))
            try engine.submit(Array(repeating: 3, count: 37), maxTokens: 5)
            for start in 0..<company {
                try engine.submit(Array(repeating: Int32(start), count: 21), maxTokens: 7)
            }
            #expect(engine.finish())
            #expect(engine.outcome(0)?.ids == engine.expected(0))
            return backend.calls.compactMap { call in
                switch call {
                case .prefill(let slot, _, _): slot == 0 ? call : nil
                case .decode(let slots, let bucket, _):
                    slots.contains(0) ? .decode(slots: [0], bucket: bucket) : nil
                }
            }
        }
        let alone = try launches(0)
        #expect(
            alone.prefix(3).map { $0 } == [
                .prefill(slot: 0, position: 0, count: 16),
                .prefill(slot: 0, position: 16, count: 16),
                .prefill(slot: 0, position: 32, count: 5),
            ])
        #expect(try launches(3).prefix(alone.count) == alone[...])
    }

    @Test func buckets() {
        func splits(_ buckets: [Int], _ seconds: [Int: Double] = [:]) -> [[Int]] {
            let table = BucketTable(buckets, rows: 9) { seconds[$0] }
            return (0...9).map(table.split)
        }
        #expect(
            splits([1, 2, 4, 8])
                == [[], [1], [2], [4], [4], [8], [8], [8], [8], [8, 1]])
        #expect(
            splits([4]) == [[], [4], [4], [4], [4], [4, 4], [4, 4], [4, 4], [4, 4], [4, 4, 4]])
        // A bucket of 8 that takes three times as long as one of 4 is not worth it.
        #expect(splits([4, 8], [4: 1, 8: 3])[8] == [4, 4])
        #expect(splits([4, 8], [4: 1, 8: 1.5])[5] == [8])
    }
}
