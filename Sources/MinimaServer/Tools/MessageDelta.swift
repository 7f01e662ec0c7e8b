import MinimaCore

/// What a piece of an answer adds to its message.
enum MessageDelta: Sendable, Hashable {
    case reasoning(String)
    case content(String)
    /// Begins a call.
    case call(index: Int, id: String, name: String)
    /// More of a call's arguments, as the model wrote them.
    case arguments(index: Int, String)

    /// The `delta` of a chunk.
    var json: JSON {
        switch self {
        case .reasoning(let text): ["reasoning_content": .string(text)]
        case .content(let text): ["content": .string(text)]
        case .call(let index, let id, let name):
            [
                "tool_calls": [
                    [
                        "index": .integer(Int64(index)), "id": .string(id), "type": "function",
                        "function": ["name": .string(name), "arguments": ""],
                    ]
                ]
            ]
        case .arguments(let index, let text):
            [
                "tool_calls": [
                    ["index": .integer(Int64(index)), "function": ["arguments": .string(text)]]
                ]
            ]
        }
    }
}

/// A message: the sum of its deltas.
struct AnswerMessage: Sendable, Hashable {
    /// A call of a function.
    struct Call: Sendable, Hashable {
        var id: String
        var name: String
        var arguments = ""
    }

    var reasoning = ""
    var content = ""
    var calls: [Call] = []

    mutating func add(_ delta: MessageDelta) {
        switch delta {
        case .reasoning(let text): reasoning += text
        case .content(let text): content += text
        case .call(_, let id, let name): calls.append(Call(id: id, name: name))
        case .arguments(let index, let text): calls[index].arguments += text
        }
    }

    /// The `message` of a choice.
    ///
    /// - Parameter withReasoning: Whether it has a member for the reasoning, of which there may be
    ///   none.
    func json(withReasoning: Bool) -> JSON {
        let isSilent = content.isEmpty && !(calls.isEmpty && reasoning.isEmpty)
        var message: JSON = [
            "role": "assistant", "content": isSilent ? .null : .string(content), "refusal": nil,
        ]
        guard case .object(var members) = message else { return message }
        if withReasoning {
            members["reasoning_content"] = reasoning.isEmpty ? .null : .string(reasoning)
        }
        if !calls.isEmpty {
            members["tool_calls"] = .array(
                calls.map { call in
                    [
                        "id": .string(call.id), "type": "function",
                        "function": [
                            "name": .string(call.name), "arguments": .string(call.arguments),
                        ],
                    ]
                })
        }
        message = .object(members)
        return message
    }
}

/// Collects what parsers of an answer make of its bytes.
///
/// White space next to calls is no content unless it stands between content.
struct MessageWriter: Sendable {
    private enum Kind: Hashable {
        case reasoning, content, arguments
    }

    private var deltas: [MessageDelta] = []
    private var kind = Kind.content
    private var text: [UInt8] = []
    /// White space of the content that waits for what follows.
    private var space: [UInt8] = []
    private var hasContent = false
    /// Calls that have begun, and those that have ended.
    private(set) var begun = 0
    private(set) var ended = 0
    /// Whose identifiers calls get; `nil`: no call begins.
    private let parser: (any CallParser.Type)?

    init(_ parser: (any CallParser.Type)?) {
        self.parser = parser
    }

    mutating func reasoning(_ bytes: some Sequence<UInt8>) { put(bytes, as: .reasoning) }

    /// Content that no call follows.
    mutating func text(_ bytes: some Sequence<UInt8>) { put(bytes, as: .content) }

    mutating func content(_ bytes: some Sequence<UInt8>) {
        for byte in bytes {
            space.append(byte)
            guard !byte.isSpace else { continue }
            put(begun == 0 || hasContent ? space : [byte], as: .content)
            (space, hasContent) = ([], true)
        }
    }

    mutating func beginCall(_ name: String) {
        flush()
        deltas.append(.call(index: begun, id: parser?.identifier() ?? "", name: name))
        begun += 1
    }

    /// More arguments of the call that began last.
    mutating func arguments(_ bytes: some Sequence<UInt8>) { put(bytes, as: .arguments) }

    mutating func endCall() { ended += 1 }

    /// The answer is over.
    mutating func finish() {
        if begun == 0 { put(space, as: .content) }
        space = []
    }

    /// What has come since the last time.
    mutating func take() -> [MessageDelta] {
        flush()
        defer { deltas = [] }
        return deltas
    }

    private mutating func put(_ bytes: some Sequence<UInt8>, as kind: Kind) {
        if kind != self.kind { flush() }
        self.kind = kind
        text.append(contentsOf: bytes)
    }

    private mutating func flush() {
        guard !text.isEmpty else { return }
        let text = String(decoding: text, as: UTF8.self)
        self.text = []
        switch kind {
        case .reasoning: deltas.append(.reasoning(text))
        case .content: deltas.append(.content(text))
        case .arguments: deltas.append(.arguments(index: begun - 1, text))
        }
    }
}
