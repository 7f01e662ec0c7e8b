import MinimaRuntime

/// Reads one answer from the engine as text.
struct AnswerReader: Sendable {
    /// The answer's place among those of the request.
    let index: Int
    private let handle: GenerationHandle
    private var text: AnswerText
    /// Makes a chat's message of the text.
    private var message: MessageParser?
    private var timing = AnswerTiming()

    init(
        index: Int, handle: GenerationHandle, text: AnswerText, message: MessageParser? = nil
    ) {
        self.index = index
        self.handle = handle
        self.text = text
        self.message = message
    }

    /// What is told of an answer.
    enum Event: Sendable {
        case piece(AnswerPiece)
        /// The last event.
        case end(AnswerEnd)
    }

    /// What comes next; a text that ends the answer also ends the engine's work for it.
    mutating func next() async -> Event {
        do throws(FinishReason) {
            let tokens = handle.makeAsyncIterator()
            if !hasStopped, let token = try await tokens.next(isolation: nil) {
                timing.add(token.seconds)
                let piece = parsed(text.append(token.token))
                if hasStopped { handle.cancel() }
                return .piece(piece)
            }
        } catch {
            return .end(await end(parsed(text.finish(), isLast: true), error))
        }
        let wasStopped = hasStopped
        let ending = wasStopped ? nil : await handle.outcome.ending
        let piece = parsed(text.finish(ending), isLast: true)
        return .end(await end(piece, hasStopped ? .stop : nil))
    }

    /// Whether the answer is over by what its text is.
    private var hasStopped: Bool { text.hasStopped || message?.isComplete == true }

    /// A piece of text as what a chat's message has of it.
    private mutating func parsed(_ piece: AnswerPiece, isLast: Bool = false) -> AnswerPiece {
        guard var deltas = message?.append(piece.text) else { return piece }
        if isLast { deltas += message?.finish() ?? [] }
        return AnswerPiece(tokens: piece.tokens, deltas: deltas)
    }

    /// - Parameter reason: `nil`: the engine's.
    private func end(_ piece: AnswerPiece, _ reason: FinishReason?) async -> AnswerEnd {
        let outcome = await handle.outcome
        return AnswerEnd(
            piece: piece, reason: reason ?? outcome.reason, timing: timing,
            cachedTokens: outcome.timings.cachedTokens, hasCalls: message?.hasCalls ?? false)
    }

    /// Reads several answers at one time.
    ///
    /// - Parameter receive: Takes an answer's index and what is told of it, one after the other; an
    ///   error ends all answers and is thrown on.
    static func read(
        _ readers: [AnswerReader], _ receive: (Int, Event) async throws -> Void
    ) async throws {
        if readers.count == 1 {
            var reader = readers[0]
            while true {
                let event = await reader.next()
                try await receive(reader.index, event)
                if case .end = event { return }
            }
        }
        let (events, source) = AsyncStream<(Int, Event)>.makeStream()
        try await withThrowingTaskGroup(of: Void.self) { group in
            for reader in readers {
                group.addTask {
                    var reader = reader
                    while true {
                        let event = await reader.next()
                        source.yield((reader.index, event))
                        if case .end = event { return }
                    }
                }
            }
            var open = readers.count
            var iterator = events.makeAsyncIterator()
            while open > 0, let (index, event) = await iterator.next() {
                if case .end = event { open -= 1 }
                try await receive(index, event)
            }
        }
    }
}

/// How an answer ended.
struct AnswerEnd: Sendable {
    /// What was held back.
    var piece: AnswerPiece
    var reason: FinishReason
    var timing: AnswerTiming
    /// Tokens of its prompt that were not computed for it.
    var cachedTokens: Int
    /// Whether the answer calls functions.
    var hasCalls: Bool

    /// OpenAI's name of the reason; an answer that was cut short counts as such, calls or not.
    var reasonName: String { hasCalls && reason == .stop ? "tool_calls" : reason.name }
}

/// When an answer's tokens came, in seconds from its submission.
struct AnswerTiming: Sendable, Hashable {
    /// Tokens.
    private(set) var tokens = 0
    /// When the first one came; `nil` without one.
    private(set) var first: Double?
    private var last = 0.0

    mutating func add(_ seconds: Double) {
        tokens += 1
        if first == nil { first = seconds }
        last = seconds
    }

    /// Mean from one token to the next; `nil` below two.
    var perToken: Double? {
        guard let first, tokens > 1 else { return nil }
        return (last - first) / Double(tokens - 1)
    }
}
