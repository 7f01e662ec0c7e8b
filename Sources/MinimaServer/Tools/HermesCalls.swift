import MinimaCore

/// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`, any number of them: Hermes, Qwen 2.5 and 3.
struct HermesCalls: CallParser {
    static let name = "hermes"
    static let marks = ["<tool_call>", "</tool_call>"]

    static func isTaught(by template: String) -> Bool {
        // GLM writes other things between the same marks.
        template.contains("<tool_call>") && template.contains("arguments")
            && !template.contains("<arg_key>")
    }

    static func form(of tools: [Tool], isForced: Bool, isParallel: Bool) -> JSON? {
        let tags = tools.map { tool in
            tag(
                "\(marks[0])\n{\"name\": \"\(tool.name)\", \"arguments\": ",
                tool.arguments(isForced: isForced), "}\n\(marks[1])")
        }
        return isForced
            ? calls(tags, separator: "\n", isParallel: isParallel)
            : text(tags, after: marks[0], isParallel: isParallel)
    }

    private enum State: Sendable {
        case content, object
    }

    private let schemas: [String: JSON]
    private var state = State.content
    private var matcher = MarkerMatcher(marks)
    private var object: CallObject
    /// Whether a call has ended whose mark has not come.
    private var expectsEnd = false

    init(_ schemas: [String: JSON]) {
        self.schemas = schemas
        object = CallObject(schemas)
    }

    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) {
        switch state {
        case .content: content(byte, &writer)
        case .object where object.isBroken:
            let (passed, found) = matcher.take(byte)
            writer.arguments(passed)
            guard let found else { return }
            writer.endCall()
            state = .content
            if found == 0 { open() }
        case .object:
            switch object.take(byte, &writer) {
            case .inside: return
            case .wrong:
                writer.content(Self.marks[0].utf8)
                writer.content(object.raw)
                state = .content
                content(byte, &writer)
            case .last: end(&writer)
            case .after:
                end(&writer)
                content(byte, &writer)
            }
        }
    }

    private mutating func content(_ byte: UInt8, _ writer: inout MessageWriter) {
        let (passed, found) = matcher.take(byte)
        // Models close a brace too many now and then.
        for byte in passed where !(expectsEnd && (byte.isSpace || byte == UInt8(ascii: "}"))) {
            expectsEnd = false
            writer.content([byte])
        }
        switch found {
        case 0: open()
        case 1:
            if !expectsEnd { writer.content(Self.marks[1].utf8) }
            expectsEnd = false
        default: break
        }
    }

    private mutating func open() {
        state = .object
        object = CallObject(schemas)
        expectsEnd = false
    }

    private mutating func end(_ writer: inout MessageWriter) {
        writer.endCall()
        state = .content
        expectsEnd = true
    }

    mutating func finish(_ writer: inout MessageWriter) {
        let rest = matcher.finish()
        switch state {
        case .content: writer.content(rest)
        case .object where object.isCall: writer.arguments(rest)
        case .object:
            writer.content(Self.marks[0].utf8)
            writer.content(object.raw)
        }
    }
}
