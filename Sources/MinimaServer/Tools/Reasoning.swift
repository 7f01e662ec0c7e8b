import MinimaTemplate

/// The marks around what a model thinks before it answers.
public struct ReasoningParser: Sendable, Hashable {
    /// What the command line calls it.
    public let name: String
    let open: String
    let close: String

    /// All pairs of marks; the first one counts that a template contains.
    public static let all: [ReasoningParser] = [
        ReasoningParser(name: "think", open: "<think>", close: "</think>"),
        ReasoningParser(name: "mistral", open: "[THINK]", close: "[/THINK]"),
    ]

    /// The marks that a chat template contains; `nil`: none that are known.
    public static func detect(in template: ChatTemplate) -> ReasoningParser? {
        all.first { template.source.contains($0.close) }
    }

    /// Whether a prompt leaves the model in the middle of its thoughts.
    func isOpen(after prompt: String) -> Bool {
        var end = prompt.utf8[...]
        while let byte = end.last, byte.isSpace { end = end.dropLast() }
        return end.suffix(open.utf8.count).elementsEqual(open.utf8)
    }
}

/// Tells thoughts from the answer, byte by byte.
///
/// Thoughts come first or not at all: a mark in the middle of an answer is content. White space at
/// the marks belongs to neither.
struct ReasoningSplitter: Sendable {
    private enum State: Sendable {
        case start, thinking, behind, content
    }

    /// What bytes are.
    enum Kind: Sendable {
        case reasoning, content
    }

    /// Bytes of one kind.
    typealias Part = (kind: Kind, bytes: [UInt8])

    private var state: State
    /// Whether all that follows is content.
    var isOver: Bool { state == .content }
    private var opening: MarkerMatcher
    private var closing: MarkerMatcher
    /// White space that waits for what follows.
    private var space: [UInt8] = []
    private var hasThought = false

    /// - Parameter isOpen: Whether the prompt has opened the thoughts.
    init(_ parser: ReasoningParser, isOpen: Bool) {
        state = isOpen ? .thinking : .start
        opening = MarkerMatcher([parser.open])
        closing = MarkerMatcher([parser.close])
    }

    /// Takes a byte.
    ///
    /// - Returns: What it shows to be thoughts or content.
    mutating func take(_ byte: UInt8) -> Part {
        switch state {
        case .content: return (.content, [byte])
        case .behind:
            guard !byte.isSpace else { return (.content, []) }
            state = .content
            return (.content, [byte])
        case .start:
            let (passed, found) = opening.take(byte)
            space += passed
            if found != nil { (state, space) = (.thinking, []) }
            guard !passed.allSatisfy(\.isSpace) else { return (.content, []) }
            state = .content
            return (.content, space + opening.finish())
        case .thinking:
            let (passed, found) = closing.take(byte)
            if found != nil { state = .behind }
            return (.reasoning, thoughts(passed))
        }
    }

    private mutating func thoughts(_ bytes: [UInt8]) -> [UInt8] {
        var result: [UInt8] = []
        for byte in bytes {
            if !byte.isSpace {
                result += space + [byte]
                (space, hasThought) = ([], true)
            } else if hasThought {
                space.append(byte)
            }
        }
        return result
    }

    /// What was held back, at the answer's end.
    mutating func finish() -> Part {
        switch state {
        case .start: (.content, space + opening.finish())
        case .thinking: (.reasoning, thoughts(closing.finish()) + space)
        case .behind, .content: (.content, [])
        }
    }
}
