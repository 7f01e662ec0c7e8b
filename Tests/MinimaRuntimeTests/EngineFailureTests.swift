import Glibc
import MinimaCore
import Testing

@testable import MinimaRuntime

@Suite("Engine: failures and ends")
struct EngineFailureTests {
    private let failed = FinishReason.failed(.stepFailed("Broken()"))

    /// A step that throws ends its own requests; one that waits then runs, and pages come back.
    @Test(arguments: [1, 2], [true, false]) func aDecodeThatThrows(
        queuedSteps: Int, atOnce: Bool
    ) throws {
        let backend = HashBackend(slots: 2, pages: 40, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        for start in 0..<3 { try engine.submit([Int32(start)], maxTokens: 20) }
        for _ in 0..<5 { engine.core.step() }
        backend.breakNextDecode(atOnce: atOnce)
        #expect(engine.finish())
        for id in 0..<2 {
            let outcome = try #require(engine.outcome(id))
            #expect(outcome.reason == failed)
            #expect(engine.expected(id).starts(with: outcome.ids) && outcome.ids.count >= 3)
        }
        #expect(engine.outcome(2)?.ids == engine.expected(2))
        let metrics = engine.core.metrics
        #expect(metrics.failures == 1 && metrics.consecutiveFailures == 0)
        #expect(metrics.freePages == 40 && metrics.finished["failed"] == 2)
    }

    @Test(arguments: [true, false]) func aPromptThatThrowsFailsAlone(atOnce: Bool) throws {
        let backend = HashBackend(slots: 3, pages: 60)
        let engine = SteppedEngine(backend)
        let breaks: (HashBackend.Call) -> Bool = {
            if case .prefill(_, _, 13) = $0 { true } else { false }
        }
        if atOnce { backend.queueFailure = breaks } else { backend.resultFailure = breaks }
        try engine.submit([1, 2], maxTokens: 20)
        try engine.submit(Array(repeating: 4, count: 13), maxTokens: 20)
        try engine.submit([3, 2], maxTokens: 20)
        #expect(engine.finish())
        #expect(engine.outcome(1)?.reason == failed && engine.outcome(1)?.ids == [])
        for id in [0, 2] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
        #expect(engine.core.metrics.freePages == 60)
    }

    @Test(arguments: [1, 2]) func outputThatIsNotFiniteFailsAlone(queuedSteps: Int) throws {
        let backend = HashBackend(slots: 3, pages: 60, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        backend.notFinite = [11: 5]
        for start in [10, 11, 12] { try engine.submit([Int32(start), 0], maxTokens: 9) }
        #expect(engine.finish())
        #expect(engine.outcome(1)?.reason == .failed(.notFinite(position: 5)))
        #expect(engine.outcome(1)?.ids == Array(engine.expected(1).prefix(3)))
        for id in [0, 2] { #expect(engine.outcome(id)?.ids == engine.expected(id)) }
    }

    @Test func aDeviceThatIsLostShows() throws {
        let backend = HashBackend(slots: 2, pages: 40)
        backend.queueFailure = { _ in true }
        let engine = SteppedEngine(backend)
        for start in 0..<6 { try engine.submit([Int32(start)], maxTokens: 5) }
        #expect(engine.finish())
        #expect((0..<6).allSatisfy { engine.outcome($0)?.reason == failed })
        #expect(engine.core.metrics.consecutiveFailures == 6)
    }

    /// Waiting, at the prompt, decoding, with results queued: cancelled at once, pages back.
    @Test(arguments: [1, 2]) func cancellationFreesPagesInEveryState(queuedSteps: Int) throws {
        for steps in 0..<8 {
            let backend = HashBackend(
                slots: 1, pages: 40, chunk: 4, queuedSteps: queuedSteps)
            let engine = SteppedEngine(backend)
            try engine.submit(Array(repeating: 2, count: 14), maxTokens: 30)
            try engine.submit([3], maxTokens: 4)
            for _ in 0..<steps { engine.core.step() }
            engine.core.cancel(0)
            #expect(engine.outcome(0)?.reason == .cancelled)
            #expect(engine.expected(0).starts(with: engine.tokens(0)))
            engine.core.step()
            // The other's prompt and the page for what follows.
            #expect(engine.core.metrics.freePages >= 38)
            #expect(engine.finish())
            #expect(engine.outcome(1)?.ids == engine.expected(1))
            #expect(engine.core.metrics.freePages == 40 && backend.violations == [])
        }
    }

    /// With a step queued ahead, the token after an end token is computed and dropped.
    @Test func stopTokensAreFoundOneStepLate() throws {
        let free = HashBackend.reference(
            try GenerationRequest(prompt: [9], maxTokens: 20, sampling: SamplingParameters()),
            limit: 20)
        let end = free[6]
        let first = try #require(free.firstIndex(of: end))
        var decodes: [Int] = []
        for queuedSteps in [1, 2] {
            let backend = HashBackend(pages: 40, queuedSteps: queuedSteps)
            let engine = SteppedEngine(backend)
            try engine.submit([9], maxTokens: 20, stop: [end])
            #expect(engine.finish())
            #expect(engine.outcome(0)?.ids == Array(free[..<first]))
            #expect(engine.outcome(0)?.reason == .stop)
            decodes.append(backend.calls.count - 1)
        }
        #expect(decodes == [first, first + 1])
    }

    /// The limit is known beforehand: nothing is computed past it.
    @Test(arguments: [1, 2, 3]) func limitsAreKnownInTime(queuedSteps: Int) throws {
        let backend = HashBackend(pages: 40, queuedSteps: queuedSteps)
        let engine = SteppedEngine(backend)
        try engine.submit([9], maxTokens: 20)
        #expect(engine.finish())
        #expect(engine.outcome(0)?.ids.count == 20 && backend.calls.count == 20)
    }
}

@Suite("Engine: thread and handles")
struct EngineHandleTests {
    private func engine(
        _ options: EngineOptions = EngineOptions(), slots: Int = 4, pages: Int = 100,
        prepare: @escaping @Sendable (HashBackend) -> Void = { _ in }
    ) throws -> Engine {
        try Engine(options) {
            let backend = HashBackend(slots: slots, pages: pages, queuedSteps: 2)
            prepare(backend)
            return backend
        }
    }

    private func request(_ prompt: [Int32], _ maxTokens: Int) throws -> GenerationRequest {
        try GenerationRequest(prompt: prompt, maxTokens: maxTokens, sampling: SamplingParameters())
    }

    @Test func tokensComeAsTheyAreMade() async throws {
        let engine = try engine()
        let request = try request([1, 2], 30)
        let expected = HashBackend.reference(request, limit: 30)
        let handle = try engine.submit(request)
        var read: [Int32] = []
        for try await token in handle { read.append(token.id) }
        #expect(read == expected)
        let outcome = await handle.outcome
        #expect(outcome.ids == expected && outcome.promptTokens == 2)
        let times = outcome.tokens.map(\.seconds)
        #expect(times == times.sorted())
        #expect(outcome.timings.firstToken == times[0])
        let timings = outcome.timings
        // Three differences of two clock readings, each rounded once.
        let parts = timings.queue + (timings.prefill ?? -1)
        let first = timings.firstToken ?? -2
        #expect(abs(parts - first) <= 4 * first.ulp)
        #expect(timings.total >= times[29])
        // Blocking readers see the same.
        let second = try engine.submit(request)
        var seen: [Int32] = []
        #expect(try second.wait { seen.append($0.id) }.ids == seen && seen == expected)
    }

    @Test func manyTasksAtOnce() async throws {
        let engine = try engine()
        try await withThrowingTaskGroup(of: Bool.self) { group in
            for start in 0..<40 {
                let request = try request([Int32(start), 7], 12 + start % 5)
                group.addTask {
                    var read: [Int32] = []
                    for try await token in try engine.submit(request) { read.append(token.id) }
                    return read == HashBackend.reference(request, limit: request.maxTokens)
                }
            }
            for try await isRight in group { #expect(isRight) }
        }
        engine.shutDown(.drain)
        #expect(engine.metrics.finished == ["length": 40])
        #expect(engine.metrics.freePages == 100 && engine.metrics.generatedTokens == 40 * 14)
    }

    @Test func requestsThatCannotRunAreRefused() throws {
        let engine = try engine(pages: 10)
        #expect(engine.context == 41)
        #expect(throws: EngineError.emptyPrompt) { try engine.submit(request([], 1)) }
        #expect(throws: EngineError.noNewTokens(asked: 0)) { try engine.submit(request([1], 0)) }
        #expect(throws: EngineError.contextExceeded(prompt: 41, context: 41)) {
            try engine.submit(request(Array(repeating: 1, count: 41), 1))
        }
        for id in [-1, 50, Int32.max] {
            #expect(throws: EngineError.tokenOutOfRange(id: id, vocabulary: 50)) {
                try engine.submit(request([1, id], 1))
            }
        }
        var biased = try request([1], 1)
        biased.sampling.logitBias = [50: 1]
        #expect(throws: EngineError.badSampling(.badBiasToken(50, vocabulary: 50))) {
            try engine.submit(biased)
        }
        #expect("\(EngineError.contextExceeded(prompt: 41, context: 40))".contains("41"))
        #expect(engine.metrics.finished == [:])
    }

    /// A device that stands still until told: requests pile up, the queue is bounded, and all end.
    @Test func theQueueIsBounded() throws {
        let gate = Monitor(false)
        let engine = try engine(EngineOptions(maxWaiting: 3), slots: 1) { backend in
            backend.queueFailure = { _ in
                _ = gate.wait { $0 ? true : nil }
                return false
            }
        }
        let first = try engine.submit(request([1], 2))
        // Until the step that admits it ends, it counts as waiting.
        var handles = [first]
        handles += try (2..<4).map { try engine.submit(request([$0], 2)) }
        for _ in 0..<3 {
            #expect(throws: EngineError.queueFull(waiting: 3, limit: 3)) {
                try engine.submit(request([4], 2))
            }
        }
        gate.withLock { $0 = true }
        for handle in handles { #expect(try handle.wait().reason == .length) }
    }

    /// Lets a device compute a number of calls, then stand still.
    private final class Gate: Sendable {
        private let allowed = Monitor(0)

        func allow(_ calls: Int) { allowed.withLock { $0 = calls } }
        func open() { allow(.max) }
        func pass() { allowed.wait { $0 > 0 ? $0 -= 1 : nil } }
    }

    @Test func cancelling() async throws {
        let gate = Gate()
        let engine = try engine { backend in
            backend.queueFailure = { _ in
                gate.pass()
                return false
            }
        }
        gate.allow(20)
        let handle = try engine.submit(request([1], 900))
        var count = 0
        for try await _ in handle {
            count += 1
            if count == 3 {
                handle.cancel()
                gate.open()
            }
        }
        #expect(await handle.outcome.reason == .cancelled)
        struct Enough: Error {}
        gate.allow(20)
        let blocking = try engine.submit(request([2], 900))
        #expect(throws: Enough.self) { _ = try blocking.wait { _ in throw Enough() } }
        gate.open()
        #expect(await blocking.outcome.reason == .cancelled)
        // A task that is cancelled while it reads.
        gate.allow(20)
        let third = try engine.submit(request([3], 900))
        let task = Task { for try await _ in third {} }
        task.cancel()
        // The task takes its time to notice; meanwhile a few of the 399 tokens are computed.
        while engine.metrics.finished.values.reduce(0, +) < 3 {
            gate.allow(1)
            try await Task.sleep(for: .milliseconds(1))
        }
        gate.open()
        try await task.value
        #expect(await third.outcome.reason == .cancelled)
        // A handle that nobody keeps.
        gate.allow(20)
        _ = try engine.submit(request([4], 900))
        gate.open()
        engine.shutDown(.drain)
        #expect(engine.metrics.finished == ["cancelled": 4])
        #expect(engine.metrics.freePages == 100 && engine.metrics.running == 0)
    }

    /// Five milliseconds per call: two seconds for what the tests cancel at once.
    @Sendable private func slow(_ backend: HashBackend) {
        backend.queueFailure = { _ in
            usleep(5000)
            return false
        }
    }

    @Test func failuresAreThrownAfterTheTokens() async throws {
        let engine = try engine { $0.notFinite = [6: 4] }
        let request = try request([6, 5], 9)
        var read: [Int32] = []
        let handle = try engine.submit(request)
        await #expect(throws: FinishReason.failed(.notFinite(position: 4))) {
            for try await token in handle { read.append(token.id) }
        }
        #expect(read == HashBackend.reference(request, limit: 2))
        #expect(try handle.wait().reason == .failed(.notFinite(position: 4)))
    }

    @Test func shuttingDown() throws {
        let drained = try engine()
        let handles = try (0..<6).map { try drained.submit(request([$0], 20)) }
        drained.shutDown(.drain)
        for handle in handles { #expect(try handle.wait().reason == .length) }
        #expect(throws: EngineError.shutDown) { try drained.submit(request([1], 1)) }
        let stopped = try engine(prepare: slow)
        let long = try stopped.submit(request([1], 900))
        stopped.shutDown(.cancel)
        #expect(try long.wait().reason == .cancelled)
        #expect(stopped.metrics.freePages == 100)
    }

    /// Dropping the engine ends what it runs.
    @Test func droppingTheEngine() throws {
        var dropped: Engine? = try engine(prepare: slow)
        let handle = try dropped?.submit(request([1], 900))
        dropped = nil
        #expect(try handle?.wait().reason == .cancelled)
    }

    @Test func aBackendThatCannotBeMade() {
        struct NoDevice: Error {}
        #expect(throws: NoDevice.self) { _ = try Engine { throw NoDevice() } }
    }
}
