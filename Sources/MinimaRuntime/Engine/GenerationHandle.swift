/// A request in the engine: its tokens as they come, and its end.
///
/// Tokens are kept until they are read, at most as many as the request asked for, so a slow reader
/// holds up nobody. Dropping the handle before the end cancels the request.
public final class GenerationHandle: AsyncSequence, Sendable {
    /// A new token.
    public typealias Element = GeneratedToken
    /// `FinishReason.failed`, thrown after the tokens that came before the failure.
    public typealias Failure = FinishReason

    /// Number of the request in this engine.
    public let id: UInt64

    private let channel: GenerationChannel
    private let onCancel: @Sendable () -> Void

    init(id: UInt64, channel: GenerationChannel, onCancel: @escaping @Sendable () -> Void) {
        self.id = id
        self.channel = channel
        self.onCancel = onCancel
    }

    deinit {
        cancel()
    }

    /// Ends the request within one step of the engine; afterwards, does nothing.
    public func cancel() {
        if channel.requestCancellation() { onCancel() }
    }

    /// Reads tokens from the first that nobody has read; cancelling the reading task cancels the
    /// request.
    public struct AsyncIterator: AsyncIteratorProtocol {
        /// Keeps the request alive while it is read.
        let handle: GenerationHandle

        /// The next token; `nil` at the end.
        ///
        /// - Throws: `FinishReason.failed`.
        public func next(isolation actor: isolated (any Actor)?) async throws(FinishReason)
            -> GeneratedToken?
        {
            let arrival = await withTaskCancellationHandler {
                await withCheckedContinuation { handle.channel.next($0) }
            } onCancel: { [handle] in
                handle.cancel()
            }
            return try arrival.get()
        }
    }

    /// An iterator over the tokens that nobody has read yet.
    public func makeAsyncIterator() -> AsyncIterator { AsyncIterator(handle: self) }

    /// All tokens so far, read or not.
    public var tokens: [GeneratedToken] { channel.progress.tokens }

    /// The prompt's tokens with their log-probabilities, as soon as it is computed; `nil` when the
    /// request does not ask for them or ends before.
    public var scoredPrompt: [SampledToken]? {
        get async {
            await withCheckedContinuation { channel.prompt($0) }
        }
    }

    /// The end of the request, with all its tokens, read or not.
    public var outcome: GenerationOutcome {
        get async {
            await withCheckedContinuation { channel.end($0) }
        }
    }

    /// Waits for the end without Swift's concurrency, for callers on a thread of their own.
    ///
    /// - Parameter onToken: Receives each token as it comes; an error cancels the request and is
    ///   thrown on.
    public func wait(onToken: (GeneratedToken) throws -> Void = { _ in }) throws
        -> GenerationOutcome
    {
        while let token = channel.waitForToken() {
            do {
                try onToken(token)
            } catch {
                cancel()
                throw error
            }
        }
        return channel.waitForEnd()
    }
}

/// What the engine writes and readers read.
final class GenerationChannel: Sendable {
    typealias Arrival = Result<GeneratedToken?, FinishReason>

    private struct State {
        var tokens: [GeneratedToken] = []
        var read = 0
        var isCancelled = false
        /// The prompt's scores, once all are there.
        var prompt: [SampledToken]?
        var outcome: GenerationOutcome?
        var readers: [CheckedContinuation<Arrival, Never>] = []
        var watchers: [CheckedContinuation<GenerationOutcome, Never>] = []
        var promptWatchers: [CheckedContinuation<[SampledToken]?, Never>] = []

        /// What a reader gets now; `nil` when it has to wait.
        mutating func take() -> Arrival? {
            if read < tokens.count {
                read += 1
                return .success(tokens[read - 1])
            }
            guard let outcome else { return nil }
            if case .failed = outcome.reason { return .failure(outcome.reason) }
            return .success(nil)
        }
    }

    private let state = Monitor(State())

    /// What there is now: all tokens, read or not, and the end.
    var progress: (tokens: [GeneratedToken], outcome: GenerationOutcome?) {
        state.withLock { ($0.tokens, $0.outcome) }
    }

    /// Remembers that the request is cancelled; false when it already was or has ended.
    func requestCancellation() -> Bool {
        state.withLock { state in
            guard !state.isCancelled, state.outcome == nil else { return false }
            state.isCancelled = true
            return true
        }
    }

    func send(_ token: GeneratedToken) {
        let reader = state.withLock { state -> (CheckedContinuation<Arrival, Never>, Arrival)? in
            state.tokens.append(token)
            guard !state.readers.isEmpty, let arrival = state.take() else { return nil }
            return (state.readers.removeFirst(), arrival)
        }
        if let (reader, arrival) = reader { reader.resume(returning: arrival) }
    }

    func send(prompt: [SampledToken]) {
        let watchers = state.withLock { state in
            state.prompt = prompt
            defer { state.promptWatchers = [] }
            return state.promptWatchers
        }
        for watcher in watchers { watcher.resume(returning: prompt) }
    }

    func finish(
        _ reason: FinishReason, ending: SampledToken?, promptTokens: Int,
        timings: GenerationTimings
    ) {
        let waking = state.withLock { state in
            let outcome = GenerationOutcome(
                tokens: state.tokens, prompt: state.prompt ?? [], ending: ending, reason: reason,
                promptTokens: promptTokens, timings: timings)
            state.outcome = outcome
            let readers = state.readers.map { reader in
                (reader, state.take() ?? .success(nil))
            }
            let (watchers, promptWatchers) = (state.watchers, state.promptWatchers)
            (state.readers, state.watchers, state.promptWatchers) = ([], [], [])
            return (
                readers: readers, watchers: watchers, promptWatchers: promptWatchers,
                outcome: outcome
            )
        }
        for (reader, arrival) in waking.readers { reader.resume(returning: arrival) }
        for watcher in waking.watchers { watcher.resume(returning: waking.outcome) }
        for watcher in waking.promptWatchers { watcher.resume(returning: nil) }
    }

    func next(_ reader: CheckedContinuation<Arrival, Never>) {
        let arrival = state.withLock { state -> Arrival? in
            // Readers before this one wait for tokens that have not come.
            if state.readers.isEmpty, let arrival = state.take() { return arrival }
            state.readers.append(reader)
            return nil
        }
        if let arrival { reader.resume(returning: arrival) }
    }

    func prompt(_ watcher: CheckedContinuation<[SampledToken]?, Never>) {
        let (prompt, waits) = state.withLock { state in
            let waits = state.prompt == nil && state.outcome == nil
            if waits { state.promptWatchers.append(watcher) }
            return (state.prompt, waits)
        }
        if !waits { watcher.resume(returning: prompt) }
    }

    func end(_ watcher: CheckedContinuation<GenerationOutcome, Never>) {
        let outcome = state.withLock { state -> GenerationOutcome? in
            if state.outcome == nil { state.watchers.append(watcher) }
            return state.outcome
        }
        if let outcome { watcher.resume(returning: outcome) }
    }

    /// The next token, waiting for it; `nil` at the end, whatever it was.
    func waitForToken() -> GeneratedToken? {
        let arrival = state.wait { $0.take() }
        guard case .success(let token) = arrival else { return nil }
        return token
    }

    func waitForEnd() -> GenerationOutcome {
        state.wait { $0.outcome }
    }
}
