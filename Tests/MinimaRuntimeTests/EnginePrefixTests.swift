import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Engine: sequences that begin alike")
struct EnginePrefixTests {
    /// Random requests of few beginnings, and such that go on with an earlier answer, with arrivals,
    /// cancellations, preemption, drafts, a head, salts: what comes out is the hash of each sequence
    /// alone, and every read finds the sequence's own tokens.
    @Test(arguments: 0..<24 as Range<UInt64>)
    func everyRequestGetsWhatItWouldGetAlone(seed: UInt64) throws {
        var random = SplitMix(seed)
        let drafts = [[0], [0, 1, 2, 3, 5], [0, 4]].randomElement(using: &random) ?? [0]
        let backend = HashBackend(
            slots: Int.random(in: 1...6, using: &random),
            pages: Int.random(in: 20...60, using: &random), context: 80,
            chunk: [4, 7, 8, 16].randomElement(using: &random) ?? 8,
            buckets: [[1, 2, 4, 8], [3], [1, 6]].randomElement(using: &random) ?? [1],
            queuedSteps: 1 + Int(seed % 3), draftTokens: drafts,
            headPlaces: seed % 2 == 0 ? (drafts.max() ?? 0) + 1 : 0)
        backend.draft = (ScriptedDraft.allCases.randomElement(using: &random) ?? .oracle).propose
        var times = SplitMix(seed + 100)
        backend.seconds.decode = { _, _ in Double.random(in: 1...3, using: &times) }
        let engine = SteppedEngine(
            backend,
            EngineOptions(
                stepTokens: Int.random(in: 4...40, using: &random),
                reservation: seed % 4 == 0 ? .whole : .growing,
                deterministic: seed % 6 == 5, speculation: seed % 5 < 2 ? .automatic : .fixed(4)))
        let beginnings = (0..<3).map { _ in random.tokens(9...40, below: 50) }
        var cancelled: Set<Int> = []
        for _ in 0..<60 {
            for _ in 0..<Int.random(in: 0...2, using: &random) {
                var prompt = beginnings.randomElement(using: &random) ?? []
                if let earlier = engine.requests.indices.randomElement(using: &random),
                    Bool.random(using: &random)
                {
                    prompt = engine.requests[earlier].prompt + engine.tokens(earlier)
                }
                prompt = Array(prompt.prefix(60)) + random.tokens(1...6, below: 50)
                engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: Int.random(in: 1...30, using: &random),
                        sampling: try SamplingParameters(),
                        stop: Bool.random(using: &random) ? [7, 8] : [],
                        cacheSalt: Int.random(in: 0..<5, using: &random) == 0 ? "other" : ""))
            }
            if let id = engine.cancelAny(oncePer: 4, &random) { cancelled.insert(id) }
            engine.core.step()
            #expect(engine.core.metrics.cachedPages <= engine.core.metrics.freePages)
        }
        #expect(engine.finish())
        #expect(backend.violations == [])
        try engine.requireOutcomes(cancelled: cancelled)
        let metrics = engine.core.metrics
        #expect(metrics.freePages == metrics.totalPages && metrics.running == 0)
        #expect(metrics.failures == 0)
        // With the flag and chunks that are no whole pages nothing is shared.
        if seed % 6 != 5 { #expect(metrics.cachedTokens > 0) }
        #expect(
            metrics.cachedTokens == backend.opened.map(\.cached).reduce(0, +)
                && backend.opened.allSatisfy { $0.cached < $0.tokens.count })
    }

    private func prompts(_ calls: some Sequence<HashBackend.Call>) -> [[Int]] {
        calls.compactMap { call in
            guard case .prefill(_, let position, let count) = call else { return nil }
            return [position, count]
        }
    }

    private let prompt = (0..<20).map { Int32($0) }

    /// Of 20 tokens four whole pages of 4 are taken, as the last token is computed in any case; then a
    /// conversation goes on behind the answer's pages.
    @Test func onlyWhatFollowsIsComputed() throws {
        let backend = HashBackend(pages: 40)
        let engine = SteppedEngine(backend)
        try engine.submit(prompt, maxTokens: 10)
        #expect(engine.finish())
        try engine.submit(prompt, maxTokens: 3)
        #expect(engine.finish())
        // 20 + 10 tokens, of which the last has no keys and values: seven pages.
        let next = prompt + engine.tokens(0) + [1, 2, 3]
        try engine.submit(next, maxTokens: 3)
        #expect(engine.finish())
        #expect(prompts(backend.calls) == [[0, 20], [16, 4], [28, 5]])
        #expect((0..<3).map { engine.outcome($0)?.timings.cachedTokens } == [0, 16, 28])
        #expect(engine.core.metrics.cachedTokens == 44)
        #expect(engine.core.metrics.promptTokens == 29)
        for id in 0..<3 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(backend.violations == [])
    }

    /// What arrives at one time is computed once, as far as it is the same: a sequence looks again
    /// before its first chunk.
    @Test(arguments: [1, 2]) func simultaneousRequestsShare(queuedSteps: Int) throws {
        let backend = HashBackend(pages: 60, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        for end in 0..<4 { try engine.submit(prompt + [Int32(end)], maxTokens: 6) }
        engine.core.step()
        #expect(prompts(backend.calls) == [[0, 21], [20, 1], [20, 1], [20, 1]])
        // 20 tokens in five pages, and each sequence's own.
        #expect(engine.core.metrics.freePages == 60 - 5 - 4)
        #expect(engine.finish())
        for id in 0..<4 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(backend.violations == [] && engine.core.metrics.freePages == 60)
    }

    /// Two requests of 8 pages in 11: they run together where six pages are the same.
    @Test(arguments: [true, false]) func aSharedPageCountsOnce(shares: Bool) throws {
        let backend = HashBackend(slots: 2, pages: 11)
        let engine = SteppedEngine(
            backend, EngineOptions(reservation: .whole, prefixCaching: shares))
        let beginning = (0..<24).map { Int32($0) }
        try engine.submit(beginning + [30], maxTokens: 8)
        engine.core.step()
        try engine.submit(beginning + [31], maxTokens: 8)
        engine.core.step()
        #expect(engine.core.metrics.running == (shares ? 2 : 1))
        #expect(engine.core.metrics.freePages == (shares ? 1 : 3))
        #expect(engine.finish())
        #expect(engine.core.metrics.freePages == 11 && backend.violations == [])
        for id in 0..<2 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    /// Pages of what was used longest ago are given away first, the last ones before the first.
    @Test func theLeastRecentlyUsedGoes() throws {
        let backend = HashBackend(slots: 1, pages: 10)
        let engine = SteppedEngine(backend)
        func cached(_ prompt: [Int32]) throws -> Int? {
            let id = try engine.submit(prompt, maxTokens: 1)
            #expect(engine.finish())
            return engine.outcome(id)?.timings.cachedTokens
        }
        let (a, b) = ((0..<17).map { Int32($0) }, (20..<37).map { Int32($0) })
        #expect(try cached(a) == 0 && cached(b) == 0)
        #expect(engine.core.metrics.cachedPages == 8)
        #expect(try cached(a) == 16)
        // Six pages: two blank ones, and all four of b.
        #expect(try cached(Array(repeating: 40, count: 21)) == 0)
        // Five of six are known; b takes the blank one and those of a.
        #expect(try cached(b) == 0)
        #expect(try cached(Array(repeating: 40, count: 21)) == 20)
        #expect(backend.violations == [])
    }

    /// With the flag, a request's launches are the last ones of those that it has alone.
    @Test(arguments: [0, 3]) func deterministicReuseRepeatsNothingButWholeChunks(headPlaces: Int)
        throws
    {
        let backend = HashBackend(
            pages: 60, chunk: 8, draftTokens: [0, 2], headPlaces: headPlaces)
        backend.draft = ScriptedDraft.mostlyRight.propose
        let engine = SteppedEngine(
            backend, EngineOptions(deterministic: true, speculation: .fixed(2)))
        for length in [20, 17, 16, 20] {
            try engine.submit(Array(prompt.prefix(length)), maxTokens: 20)
            #expect(engine.finish())
        }
        // An answer's pages are not those of a prompt with its tokens.
        try engine.submit(prompt + engine.tokens(0) + [1], maxTokens: 4)
        #expect(engine.finish())
        let late = headPlaces > 0 ? [[8, 8], [16, 1]] : [[16, 1]]
        #expect(
            prompts(backend.calls) == [[0, 8], [8, 8], [16, 4]] + late + [[8, 8], [16, 4]]
                + [[16, 8], [24, 8], [32, 8], [40, 1]])
        for id in 0..<5 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(backend.violations == [])
    }

    /// Not asked for, not allowed by the backend, of another salt, or by chunks that are not whole pages.
    @Test func nothingIsShared() throws {
        for (backend, options, salt) in [
            (HashBackend(pages: 40), EngineOptions(prefixCaching: false), ""),
            (HashBackend(pages: 40, sharesPrefixes: false), EngineOptions(), ""),
            (HashBackend(pages: 40), EngineOptions(), "other"),
            (HashBackend(pages: 40, chunk: 6), EngineOptions(deterministic: true), ""),
        ] {
            let engine = SteppedEngine(backend, options)
            for salt in ["", salt] {
                engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: 5, sampling: try SamplingParameters(),
                        cacheSalt: salt))
                #expect(engine.finish())
            }
            #expect(engine.core.metrics.cachedTokens == 0)
            #expect(backend.opened.allSatisfy { $0.cached == 0 } && backend.violations == [])
        }
    }

    /// After a failure nobody uses what was computed before it.
    @Test(arguments: [1, 2], [false, true]) func failuresAreForgotten(
        queuedSteps: Int, atOnce: Bool
    ) throws {
        let backend = HashBackend(pages: 40, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        try engine.submit(prompt, maxTokens: 3)
        #expect(engine.finish() && engine.core.metrics.cachedPages > 0)
        backend.breakNextDecode(atOnce: atOnce)
        try engine.submit(prompt, maxTokens: 3)
        #expect(engine.finish() && engine.core.metrics.cachedPages == 0)
        try engine.submit(prompt, maxTokens: 3)
        #expect(engine.finish())
        #expect(engine.outcome(2)?.timings.cachedTokens == 0)
        #expect(engine.outcome(2)?.ids == engine.expected(2) && backend.violations == [])
        #expect(engine.core.metrics.freePages == 40)
    }

    /// Requests that lost their pages find those that nobody has taken since.
    @Test(arguments: [1, 2]) func preemptedRequestsFindTheirPages(queuedSteps: Int) throws {
        let backend = HashBackend(slots: 3, pages: 24, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        for start in 0..<3 {
            try engine.submit([Int32(start)] + prompt.dropFirst(), maxTokens: 25)
        }
        #expect(engine.finish(most: 2000))
        #expect(engine.core.metrics.preemptions > 0)
        #expect(backend.opened.contains { $0.tokens.count > 20 && $0.cached > 0 })
        for id in 0..<3 { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(engine.core.metrics.freePages == 24 && backend.violations == [])
    }
}
