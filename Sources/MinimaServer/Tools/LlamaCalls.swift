import MinimaCore

/// `{"name": …, "parameters": {…}}` as the whole answer, or behind `<|python_tag|>`; several with `;`
/// between them: Llama 3.1 and later.
struct LlamaCalls: CallParser {
    static let name = "llama3_json"
    static let marks = ["<|python_tag|>"]

    static func isTaught(by template: String) -> Bool {
        template.contains("<|python_tag|>")
            || template.contains("{\"name\": function name, \"parameters\":")
    }

    static func form(of tools: [Tool], isForced: Bool, isParallel: Bool) -> JSON? {
        // Without a mark a call is not told from a text before it is written.
        guard isForced else { return nil }
        let tags = tools.map { tool in
            tag(
                "{\"name\": \"\(tool.name)\", \"parameters\": ",
                tool.arguments(isForced: true), "}")
        }
        return calls(tags, separator: "; ", isParallel: isParallel)
    }

    private enum State: Sendable {
        /// Where a call may begin without a mark.
        case open
        case content, marked, object
    }

    private let schemas: [String: JSON]
    private var state = State.open
    private var matcher = MarkerMatcher(marks)
    private var object: CallObject
    /// What stands before a call and belongs to it.
    private var prefix: [UInt8] = []
    private var hasCalled = false

    init(_ schemas: [String: JSON]) {
        self.schemas = schemas
        object = CallObject(schemas)
    }

    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) {
        switch state {
        case .open: open(byte, &writer)
        case .content:
            let (passed, found) = matcher.take(byte)
            writer.content(passed)
            if found != nil { (state, prefix) = (.marked, Array(Self.marks[0].utf8)) }
        case .marked:
            if byte.isSpace {
                prefix.append(byte)
            } else {
                begin(byte, &writer)
            }
        case .object:
            switch object.take(byte, &writer) {
            case .inside: return
            case .wrong: content(object.raw, byte, &writer)
            case .last: end(&writer)
            case .after:
                end(&writer)
                open(byte, &writer)
            }
        }
    }

    private mutating func open(_ byte: UInt8, _ writer: inout MessageWriter) {
        if byte.isSpace {
            prefix.append(byte)
        } else if hasCalled, byte == UInt8(ascii: ";"), prefix.allSatisfy(\.isSpace) {
            prefix.append(byte)
        } else {
            begin(byte, &writer)
        }
    }

    /// The first byte of a call, or else of content.
    private mutating func begin(_ byte: UInt8, _ writer: inout MessageWriter) {
        guard byte == UInt8(ascii: "{") else { return content([], byte, &writer) }
        (state, object) = (.object, CallObject(schemas))
        _ = object.take(byte, &writer)
    }

    private mutating func content(
        _ raw: [UInt8], _ byte: UInt8, _ writer: inout MessageWriter
    ) {
        writer.content(prefix)
        writer.content(raw)
        (state, prefix) = (.content, [])
        take(byte, &writer)
    }

    private mutating func end(_ writer: inout MessageWriter) {
        writer.endCall()
        (state, prefix, hasCalled) = (.open, [], true)
    }

    mutating func finish(_ writer: inout MessageWriter) {
        switch state {
        case .open:
            // What would stand between two calls stands behind the last.
            if !hasCalled { writer.content(prefix) }
        case .content: writer.content(matcher.finish())
        case .marked: writer.content(prefix)
        case .object:
            if !object.isCall { writer.content(prefix + object.raw) }
        }
    }
}
