/// How the engine schedules.
public struct EngineOptions: Sendable, Hashable {
    /// When a request's pages are taken.
    public enum Reservation: String, Sendable, CaseIterable {
        /// All it can need, at its start: nothing is ever preempted.
        case whole
        /// As it grows. When pages run out, the newest running request loses its pages and later
        /// computes its tokens' keys and values again.
        case growing
    }

    /// Requests that run at one time, at most; `nil`: as many as the backend has slots.
    public var maxRunning: Int?
    /// Requests that may wait; one more is refused.
    public var maxWaiting: Int
    /// Tokens computed per step: one and its proposals for each running request, the rest for
    /// prompts; `nil`: the backend's prefill chunk.
    public var stepTokens: Int?
    /// Most tokens of a prompt computed at once; `nil`: the backend's.
    public var prefillChunk: Int?
    /// Wanted time of a step while requests decode, in seconds: prompts are cut smaller to keep it,
    /// where the backend knows its times. `nil`: no limit.
    public var stepSeconds: Double?
    /// When pages are taken.
    public var reservation: Reservation
    /// How often later requests that fit may overtake one that waits for pages before nothing
    /// overtakes it any more.
    public var overtakes: Int
    /// Whether results at temperature 0 are the same whatever else runs: one bucket, chunks at fixed
    /// places, whole reservation, no number of proposals that depends on times.
    public var deterministic: Bool
    /// Whether steps propose tokens, where the backend can; which tokens come out does not change.
    public var speculation: Speculation
    /// Whether a sequence takes the keys and values of its beginning from pages that an earlier one has
    /// filled, where the backend allows it. With ``deterministic`` only what prompts' chunks have
    /// written and would write again.
    public var prefixCaching: Bool

    /// Options; the defaults take the backend's limits.
    public init(
        maxRunning: Int? = nil, maxWaiting: Int = 1024, stepTokens: Int? = nil,
        prefillChunk: Int? = nil, stepSeconds: Double? = nil,
        reservation: Reservation = .growing, overtakes: Int = 8, deterministic: Bool = false,
        speculation: Speculation = .automatic, prefixCaching: Bool = true
    ) {
        self.maxRunning = maxRunning
        self.maxWaiting = maxWaiting
        self.stepTokens = stepTokens
        self.prefillChunk = prefillChunk
        self.stepSeconds = stepSeconds
        self.reservation = reservation
        self.overtakes = overtakes
        self.deterministic = deterministic
        self.speculation = speculation
        self.prefixCaching = prefixCaching
    }
}

/// Why the engine refuses or fails a request.
public enum EngineError: Error, Hashable, CustomStringConvertible {
    case emptyPrompt
    case tokenOutOfRange(id: Int32, vocabulary: Int)
    case noNewTokens(asked: Int)
    case badSampling(SamplingError)
    case contextExceeded(prompt: Int, context: Int)
    case queueFull(waiting: Int, limit: Int)
    case shutDown
    case noThread
    case notFinite(position: Int)
    case nothingAllowed(position: Int)
    case tokenNotAllowed(id: Int32, position: Int)
    case stepFailed(String)

    /// Whether keys and values may be wrong: not where a constraint ends a request.
    var doubtsPages: Bool {
        switch self {
        case .nothingAllowed, .tokenNotAllowed: false
        default: true
        }
    }

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .emptyPrompt:
            "the prompt has no tokens; give at least one, such as the document's first token"
        case .tokenOutOfRange(let id, let vocabulary):
            """
            the token id \(id) is outside the model's vocabulary of \(vocabulary); the tokenizer \
            belongs to another model
            """
        case .noNewTokens(let asked):
            "\(asked) new tokens were asked for; ask for at least one, or for the prompt's scores"
        case .badSampling(let error): error.description
        case .contextExceeded(let prompt, let context):
            """
            the prompt has \(prompt) tokens and the context is \(context), which leaves no room for a \
            new one; shorten the prompt
            """
        case .queueFull(let waiting, let limit):
            "\(waiting) requests wait already, of at most \(limit); try again later"
        case .shutDown: "the engine has shut down; start another"
        case .noThread: "the system gave the engine no thread; its limit is reached"
        case .notFinite(let position):
            """
            the model's output after \(position) tokens is not finite: its weights are damaged or its \
            type is too narrow for it
            """
        case .nothingAllowed(let position):
            """
            the request's constraint excludes every token after \(position): no token of the model's \
            vocabulary continues what it asks for; loosen it
            """
        case .tokenNotAllowed(let id, let position):
            """
            the request's constraint refused the token \(id) after \(position) tokens, which its own \
            mask had allowed: it contradicts itself
            """
        case .stepFailed(let reason): "the engine's step failed: \(reason)"
        }
    }
}

/// What the engine is doing; a consistent picture after some step.
public struct EngineMetrics: Sendable, Hashable {
    /// Requests with a slot.
    public var running = 0
    /// Requests without one, preempted ones included.
    public var waiting = 0
    /// Pages that nobody holds.
    public var freePages = 0
    /// Those of ``freePages`` that hold known tokens, for sequences that begin with them.
    public var cachedPages = 0
    /// All pages.
    public var totalPages = 0
    /// Steps so far.
    public var steps = 0
    /// Tokens of prompts computed so far; those computed again after a preemption count again.
    public var promptTokens = 0
    /// Tokens that were not computed as their keys and values were there, so far.
    public var cachedTokens = 0
    /// Tokens generated so far.
    public var generatedTokens = 0
    /// Tokens generated per second, averaged over about five seconds before the last step.
    public var tokensPerSecond = 0.0
    /// What drafts have done so far.
    public var speculation = SpeculationMetrics()
    /// Running requests that lost their pages so far.
    public var preemptions = 0
    /// Requests that ended so far, by ``FinishReason/name``.
    public var finished: [String: Int] = [:]
    /// Calls to the backend that threw, so far.
    public var failures = 0
    /// Calls to the backend that threw since one last worked; a device that is lost shows here.
    public var consecutiveFailures = 0
    /// When the last step ended; with requests running, an old date means a hanging device.
    public var lastStep: ContinuousClock.Instant?
}
