import MinimaCore

/// A request while the engine has it.
final class EngineSequence {
    let id: UInt64
    let request: GenerationRequest
    /// New tokens at most.
    let limit: Int
    /// Tokens chosen so far, as far as the host knows.
    private(set) var generated: [Int32] = []
    /// The end token, once it has come.
    private var ending: SampledToken?
    /// The prompt's tokens with log-probabilities as far as they are known, if they are wanted.
    private(set) var scores: [SampledToken] = []
    /// Tokens of the prompt whose log-probabilities are known or queued.
    private var scored = 0
    /// Where the request runs; `nil` while it waits.
    var slot: Int?
    var lease: PageLease?
    /// Tokens whose keys and values are computed or queued; of steps with drafts that nobody has
    /// read, one each.
    private(set) var cached = 0
    /// How many more those steps may have made.
    private(set) var uncertain = 0
    /// Tokens to compute before the first decode step.
    var target = 0
    /// Tokens queued whose values the host does not know yet, at least.
    private var inFlight = 0
    /// How often a later request was admitted before this one.
    var overtaken = 0
    /// Tokens of prompts that the engine had read when this one was admitted, and those that it had to
    /// compute itself: prompts are read in the order of this.
    var due = 0
    /// Pages at the beginning that others may find, or that were found…
    private(set) var knownPages = 0
    /// …and what stands above the next one; `nil`: it cannot be found.
    private(set) var node: Int?
    /// Whether the backend has the sequence in its slot.
    private(set) var isOpen = false
    private(set) var hasEnded = false

    private var constraint: ConstraintState?
    private let channel: GenerationChannel
    private let submitted: ContinuousClock.Instant
    private var timings = GenerationTimings()
    private var hasStarted = false
    private var firstToken = 0.0
    private var lastToken = 0.0

    init(_ arrival: EngineInbox.Arrival, vocabulary: Int) {
        id = arrival.id
        request = arrival.request
        limit = arrival.limit
        constraint = arrival.request.constraint.map {
            ConstraintState($0, vocabulary: vocabulary)
        }
        channel = arrival.channel
        submitted = arrival.submitted
        if request.promptLogprobs != nil {
            // Nothing comes before the first.
            scores = request.prompt.prefix(1).map { SampledToken(id: $0) }
            if !isScoring { channel.send(prompt: scores) }
        }
    }

    /// Prompt and generated tokens.
    var tokens: [Int32] { request.prompt + generated }
    /// A part of them.
    func tokens(_ range: Range<Int>) -> [Int32] {
        let count = request.prompt.count
        let prompt = request.prompt[min(range.lowerBound, count)..<min(range.upperBound, count)]
        return Array(prompt)
            + generated[max(range.lowerBound - count, 0)..<max(range.upperBound - count, 0)]
    }
    /// Whether known pages may stand for what it would compute: not where the prompt's own
    /// log-probabilities are told, which need all of its tokens computed.
    var readsKnownPages: Bool { request.promptLogprobs == nil }
    /// How many those are.
    var length: Int { request.prompt.count + generated.count }
    /// Whether the prompt is computed and there are tokens left to ask for.
    var canDecode: Bool {
        cached >= target && generated.count + inFlight < limit && !needsResult
    }
    /// Whether it ran before and lost its pages.
    var wasPreempted: Bool { timings.preemptions > 0 }
    /// Whether a constraint says which tokens may come.
    var isConstrained: Bool { constraint != nil }
    /// Whether the next step waits for a token that the host does not know.
    var needsResult: Bool { isConstrained && inFlight > 0 }
    /// Most tokens whose keys and values are ever needed: the last new one is never read.
    var longest: Int { request.prompt.count + max(limit, 1) - 1 }
    /// Whether log-probabilities of the prompt are still to come.
    var isScoring: Bool { request.promptLogprobs != nil && scores.count < request.prompt.count }
    /// Whether there is nothing left to compute for a request without new tokens.
    var isComplete: Bool { limit == 0 && cached >= target && !isScoring }
    /// Tokens whose keys and values are computed or queued, at most.
    var most: Int { cached + uncertain }

    private var elapsed: Double { (ContinuousClock.now - submitted).totalSeconds }

    /// Begins to run in `slot`.
    func start(in slot: Int, _ lease: consuming PageLease) {
        self.slot = slot
        self.lease = consume lease
        (cached, uncertain, inFlight) = (0, 0, 0)
        target = length
        scored = scores.count
        if !hasStarted { timings.queue = elapsed }
        hasStarted = true
    }

    /// `count` pages at the beginning are known; the next one stands below `node`.
    func know(_ count: Int, _ node: Int?) {
        knownPages = count
        self.node = node
    }

    /// The backend knows the sequence, and that `cached` tokens need not be computed.
    func open(cached: Int) {
        isOpen = true
        self.cached = cached
        if timings.preemptions == 0 { timings.cachedTokens = cached }
    }

    /// Stops running; what was computed is lost.
    func suspend() {
        slot = nil
        lease = nil
        isOpen = false
        (knownPages, node) = (0, nil)
        (cached, uncertain, inFlight, target) = (0, 0, 0, 0)
        timings.preemptions += 1
    }

    /// Whether the part of the prompt up to `end` is followed by a new token.
    func samples(after end: Int) -> Bool { end == target && limit > 0 }

    /// What is to be told of the prompt's likelihood with the part up to `end`; a request that comes
    /// back keeps what is known.
    func scoring(to end: Int) -> PromptScoring? {
        guard let alternatives = request.promptLogprobs else { return nil }
        // Each token shows behind the one before it.
        let first = max(scored, cached + 1)
        let last = min(end, request.prompt.count - 1)
        guard first <= last else { return nil }
        return PromptScoring(
            rows: first - 1 - cached..<last - cached, tokens: request.prompt[first...last],
            alternatives: alternatives)
    }

    /// Which tokens may come next; `nil`: any.
    ///
    /// - Throws: `EngineError.nothingAllowed`.
    func mask() throws(EngineError) -> [UInt32]? { try constraint?.mask(after: length) }

    /// Part of the prompt up to `end` is queued.
    func queuePrompt(to end: Int) {
        if let scoring = scoring(to: end) { scored = scoring.tokens.endIndex }
        cached = end
        if samples(after: end) { inFlight += 1 }
    }

    /// Takes scores of the prompt that have arrived, in order.
    ///
    /// - Returns: Why the request ends with them; `nil` while it goes on.
    func receive(scores new: [SampledToken]) -> FinishReason? {
        if let place = new.firstIndex(where: { $0.id < 0 }) {
            return .failed(.notFinite(position: scores.count + place))
        }
        scores += new
        if !isScoring { channel.send(prompt: scores) }
        return isComplete ? .length : nil
    }

    /// A decode step is queued.
    func queueStep(draftTokens: Int) {
        cached += 1
        inFlight += 1
        uncertain += draftTokens
    }

    /// The oldest result that is queued has come: what it made is certain now.
    func settle(draftTokens: Int, tokens: Int) {
        inFlight -= 1
        uncertain -= draftTokens
        cached += tokens - 1
    }

    /// Takes a token that has arrived.
    ///
    /// - Returns: Why the request ends with it; `nil` while it goes on.
    func receive(_ token: SampledToken) -> FinishReason? {
        if token.id < 0 {
            return .failed(.notFinite(position: length))
        }
        if request.stop.contains(token.id) {
            ending = token
            return .stop
        }
        do throws(EngineError) {
            try constraint?.accept(token.id, after: length)
        } catch {
            return .failed(error)
        }
        lastToken = elapsed
        if generated.isEmpty { firstToken = lastToken }
        generated.append(token.id)
        channel.send(GeneratedToken(token: token, seconds: lastToken))
        return generated.count == limit ? .length : nil
    }

    /// Ends the request: gives the pages back and tells whoever waits.
    func end(_ reason: FinishReason) {
        hasEnded = true
        slot = nil
        lease = nil
        timings.total = elapsed
        if !hasStarted { timings.queue = timings.total }
        if !generated.isEmpty {
            timings.firstToken = firstToken
            timings.prefill = firstToken - timings.queue
        }
        if generated.count > 1 {
            timings.perToken = (lastToken - firstToken) / Double(generated.count - 1)
        }
        channel.finish(
            reason, ending: ending, promptTokens: request.prompt.count, timings: timings)
    }
}
