import MinimaCore

/// Makes a message of an answer's text as it comes: thoughts, content and calls of functions.
///
/// The text is looked at byte by byte, so the sum of the deltas does not depend on how the text is
/// cut; an answer that is not streamed is that sum.
struct MessageParser: Sendable {
    private var reasoning: ReasoningSplitter?
    private var calls: (any CallParser)?
    private var writer: MessageWriter
    private let isParallel: Bool

    /// - Parameters:
    ///   - reasoning: `nil`: thoughts are content.
    ///   - calls: `nil`: calls are content.
    ///   - isParallel: Whether there may be more than one call.
    init(reasoning: ReasoningSplitter?, calls: (any CallParser)?, isParallel: Bool) {
        self.reasoning = reasoning
        self.calls = calls
        self.isParallel = isParallel
        writer = MessageWriter(calls.map { type(of: $0) })
    }

    /// Whether the message holds a call.
    var hasCalls: Bool { writer.begun > 0 }
    /// Whether the message is complete whatever follows.
    var isComplete: Bool { !isParallel && writer.ended > 0 }

    /// Takes a piece of the answer.
    mutating func append(_ text: String) -> [MessageDelta] {
        // Most of most answers is nothing but content.
        if calls == nil, reasoning?.isOver ?? true { return text.isEmpty ? [] : [.content(text)] }
        for byte in text.utf8 {
            guard !isComplete else { break }
            pass(reasoning?.take(byte) ?? (.content, [byte]))
        }
        return writer.take()
    }

    /// What was held back, at the answer's end.
    mutating func finish() -> [MessageDelta] {
        if !isComplete {
            if let rest = reasoning?.finish() { pass(rest) }
            calls?.finish(&writer)
        }
        writer.finish()
        return writer.take()
    }

    private mutating func pass(_ part: ReasoningSplitter.Part) {
        switch part.kind {
        case .reasoning: writer.reasoning(part.bytes)
        case .content where calls == nil: writer.text(part.bytes)
        case .content:
            for byte in part.bytes where !isComplete { calls?.take(byte, &writer) }
        }
    }
}
