/// Runs requests on one model, many at a time, on a thread of its own.
///
/// Continuous batching: requests join and leave between steps. A step computes one token of every
/// running request, or several where proposals turn out right, and a part of the prompts that came
/// later. Admission goes by exact counts of pages, so memory cannot run out; see ``EngineOptions`` for
/// what can be chosen.
///
/// - Note: Yu et al. 2022, "Orca" (iteration-level scheduling); Kwon et al. 2023, "Efficient Memory
///   Management for Large Language Model Serving with PagedAttention"; Agrawal et al. 2024,
///   "Taming Throughput-Latency Tradeoff in LLM Inference with Sarathi-Serve" (chunked prefill).
public final class Engine: Sendable {
    /// What the backend can hold.
    public let capacity: DecodeCapacity
    /// Tokens of the longest sequence: the model's context, or all pages when those are fewer.
    public let context: Int

    private let options: EngineOptions
    private let inbox: EngineInbox
    private let thread: DedicatedThread

    /// Starts an engine.
    ///
    /// - Parameter backend: Makes the device's side; runs on the engine's thread, before this
    ///   returns.
    /// - Throws: What `backend` throws.
    public init(
        _ options: EngineOptions = EngineOptions(),
        backend: @escaping @Sendable () throws -> any DecodeBackend
    ) throws {
        let inbox = EngineInbox()
        let started = Monitor<Result<DecodeCapacity, any Error>?>(nil)
        let thread = DedicatedThread {
            let core: EngineCore
            do {
                core = EngineCore(try backend(), options)
            } catch {
                return started.withLock { $0 = .failure(error) }
            }
            started.withLock { $0 = .success(core.capacity) }
            inbox.serve(core)
        }
        guard let thread else { throw EngineError.noThread }
        self.options = options
        self.inbox = inbox
        self.thread = thread
        do {
            capacity = try started.wait { $0 }.get()
        } catch {
            thread.join()
            throw error
        }
        context = Self.context(capacity)
    }

    deinit {
        shutDown(.cancel)
    }

    static func context(_ capacity: DecodeCapacity) -> Int {
        // The last token of a sequence is never read, so it needs no page.
        min(capacity.context, capacity.pages * capacity.pageTokens + 1)
    }

    /// Hands a request in; returns at once.
    ///
    /// - Throws: `EngineError` for a request that can never run, and `.queueFull` or `.shutDown`
    ///   when this is not the moment.
    public func submit(_ request: GenerationRequest) throws(EngineError) -> GenerationHandle {
        try check(request)
        let channel = GenerationChannel()
        let limit = min(request.maxTokens, context - request.prompt.count)
        let id = try inbox.add(request, limit: limit, channel, maxWaiting: options.maxWaiting)
        return GenerationHandle(id: id, channel: channel) { [inbox] in inbox.cancel(id) }
    }

    private func check(_ request: GenerationRequest) throws(EngineError) {
        guard !request.prompt.isEmpty else { throw .emptyPrompt }
        let isScored = request.promptLogprobs != nil
        guard request.maxTokens > 0 || isScored && request.maxTokens == 0 else {
            throw .noNewTokens(asked: request.maxTokens)
        }
        guard request.prompt.count < context else {
            throw .contextExceeded(prompt: request.prompt.count, context: context)
        }
        for id in request.prompt where id < 0 || id >= capacity.vocabulary {
            throw .tokenOutOfRange(id: id, vocabulary: capacity.vocabulary)
        }
        if let count = request.promptLogprobs, !(0...SamplingParameters.mostLogprobs ~= count) {
            throw .badSampling(.badLogprobs(count))
        }
        do throws(SamplingError) {
            try request.sampling.check(vocabulary: capacity.vocabulary)
        } catch {
            throw .badSampling(error)
        }
    }

    /// What the engine did and does, as of its last step.
    public var metrics: EngineMetrics { inbox.metrics }

    /// Whether the engine's thread runs: not after ``shutDown(_:)``.
    public var isAlive: Bool { !thread.hasEnded }

    /// What becomes of requests when an engine shuts down.
    public enum Shutdown: Sendable {
        /// They run to their ends.
        case drain
        /// They are cancelled.
        case cancel
    }

    /// Refuses new requests, ends the others and waits until the thread is gone.
    ///
    /// Blocks its thread. May be called again, to cancel what an earlier call drains.
    public func shutDown(_ mode: Shutdown) {
        inbox.close(mode)
        thread.join()
    }
}

/// What the engine's thread receives and publishes.
final class EngineInbox: Sendable {
    /// A request that has come in.
    struct Arrival: Sendable {
        let id: UInt64
        let request: GenerationRequest
        /// New tokens at most, with the context in mind.
        let limit: Int
        let channel: GenerationChannel
        let submitted: ContinuousClock.Instant
    }

    private struct State {
        var nextID: UInt64 = 0
        var arrivals: [Arrival] = []
        var cancellations: [UInt64] = []
        var shutdown: Engine.Shutdown?
        /// Without `arrivals`.
        var waiting = 0
        var metrics = EngineMetrics()
    }

    private let state = Monitor(State())

    var metrics: EngineMetrics {
        state.withLock { state in
            var metrics = state.metrics
            metrics.waiting = state.waiting + state.arrivals.count
            return metrics
        }
    }

    func add(
        _ request: GenerationRequest, limit: Int, _ channel: GenerationChannel, maxWaiting: Int
    ) throws(EngineError) -> UInt64 {
        try state.withLock { state throws(EngineError) in
            guard state.shutdown == nil else { throw .shutDown }
            let waiting = state.waiting + state.arrivals.count
            guard waiting < maxWaiting else {
                throw .queueFull(waiting: waiting, limit: maxWaiting)
            }
            let id = state.nextID
            state.nextID += 1
            state.arrivals.append(
                Arrival(
                    id: id, request: request, limit: limit, channel: channel,
                    submitted: ContinuousClock.now))
            return id
        }
    }

    func cancel(_ id: UInt64) {
        state.withLock { $0.cancellations.append(id) }
    }

    func close(_ mode: Engine.Shutdown) {
        state.withLock { state in
            if state.shutdown != .cancel { state.shutdown = mode }
        }
    }

    /// The engine's thread: takes what comes in, steps, publishes, until shut down.
    func serve(_ core: EngineCore) {
        while true {
            let (arrivals, cancellations, shutdown) = state.wait { state in
                let isQuiet =
                    core.isIdle && state.arrivals.isEmpty && state.cancellations.isEmpty
                    && state.shutdown == nil
                guard !isQuiet else { return nil as ([Arrival], [UInt64], Engine.Shutdown?)? }
                let taken = (state.arrivals, state.cancellations, state.shutdown)
                state.waiting += state.arrivals.count
                (state.arrivals, state.cancellations) = ([], [])
                return taken
            }
            for arrival in arrivals { core.add(arrival) }
            for id in cancellations { core.cancel(id) }
            if shutdown == .cancel { core.cancelAll() }
            core.step()
            let metrics = core.metrics
            state.withLock { state in
                state.metrics = metrics
                state.waiting = metrics.waiting
            }
            if shutdown != nil && core.isIdle { return }
        }
    }
}
