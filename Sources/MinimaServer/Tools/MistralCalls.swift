import MinimaCore

/// `[TOOL_CALLS]` before an array of objects with `name` and `arguments`, or before each of several
/// `name[ARGS]{…}`, with or without `[ARGS]` and `[CALL_ID]…`: Mistral's models, older and newer.
struct MistralCalls: CallParser {
    static let name = "mistral"
    static let marks = ["[TOOL_CALLS]", "[ARGS]", "[CALL_ID]"]

    static func isTaught(by template: String) -> Bool { template.contains(marks[0]) }

    /// Mistral's templates refuse other identifiers.
    static func identifier() -> String { letters(9) }

    static func form(of tools: [Tool], isForced: Bool, isParallel: Bool) -> JSON? {
        let (before, after) = isForced ? ("", "}") : (marks[0] + " [", "}]")
        let tags = tools.map { tool in
            tag(
                "\(before){\"name\": \"\(tool.name)\", \"arguments\": ",
                tool.arguments(isForced: isForced), after)
        }
        guard isForced else { return text(tags, after: marks[0], isParallel: isParallel) }
        return [
            "type": "sequence",
            "elements": [
                ["type": "const_string", "value": .string(marks[0] + " [")],
                calls(tags, separator: ", ", isParallel: isParallel),
                ["type": "const_string", "value": "]"],
            ],
        ]
    }

    private enum State: Sendable {
        case content
        /// Behind the mark.
        case opened
        /// Where an array's next object is due, and where it has ended.
        case element, separator
        case object
        /// The name of a call without braces, and its arguments.
        case header, arguments
        /// Arguments that are no JSON.
        case broken
    }

    private let schemas: [String: JSON]
    private var state = State.content
    private var matcher = MarkerMatcher([marks[0]])
    private var object: CallObject
    private var extent = JSONExtent()
    /// What has come since the mark and is no call yet, the mark with it.
    private var raw: [UInt8] = []
    private var header: [UInt8] = []
    private var isArray = false

    /// Bytes before a call's arguments, at most.
    private static let longestHeader = 256

    init(_ schemas: [String: JSON]) {
        self.schemas = schemas
        object = CallObject(schemas)
    }

    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) {
        switch state {
        case .content:
            let (passed, found) = matcher.take(byte)
            writer.content(passed)
            if found != nil { (state, raw) = (.opened, Array(Self.marks[0].utf8)) }
        case .opened: opened(byte, &writer)
        case .element:
            if byte == UInt8(ascii: "{") {
                beginObject(byte, &writer)
            } else if byte.isSpace {
                raw.append(byte)
            } else {
                refuse([], byte, &writer)
            }
        case .separator:
            switch byte {
            case UInt8(ascii: ","): (state, raw) = (.element, [byte])
            case UInt8(ascii: "]"): state = .content
            case _ where byte.isSpace: break
            default:
                state = .content
                take(byte, &writer)
            }
        case .object:
            switch object.take(byte, &writer) {
            case .inside: return
            case .wrong: refuse(object.raw, byte, &writer)
            case .last: end(&writer)
            case .after:
                end(&writer)
                take(byte, &writer)
            }
        case .header: header(byte, &writer)
        case .arguments:
            writer.arguments([byte])
            switch extent.take(byte) {
            case .inside, .after: break
            case .last: end(&writer)
            case .wrong: state = .broken
            }
        case .broken: writer.arguments([byte])
        }
    }

    private mutating func opened(_ byte: UInt8, _ writer: inout MessageWriter) {
        isArray = byte == UInt8(ascii: "[")
        if byte == UInt8(ascii: "{") { return beginObject(byte, &writer) }
        if !byte.isSpace, !isArray {
            guard byte.isNameByte else { return refuse([], byte, &writer) }
            (state, header) = (.header, [])
            return header(byte, &writer)
        }
        raw.append(byte)
        if isArray { state = .element }
    }

    private mutating func beginObject(_ byte: UInt8, _ writer: inout MessageWriter) {
        (state, object) = (.object, CallObject(schemas))
        _ = object.take(byte, &writer)
    }

    private mutating func header(_ byte: UInt8, _ writer: inout MessageWriter) {
        guard byte == UInt8(ascii: "{") else {
            guard header.count < Self.longestHeader else { return refuse(header, byte, &writer) }
            return header.append(byte)
        }
        guard let name = Self.name(header), schemas[name] != nil else {
            return refuse(header, byte, &writer)
        }
        writer.beginCall(name)
        (state, isArray, extent) = (.arguments, false, JSONExtent())
        take(byte, &writer)
    }

    /// The name in `name`, `name[ARGS]` and `name[CALL_ID]id[ARGS]`.
    private static func name(_ header: [UInt8]) -> String? {
        let name = header.prefix { $0.isNameByte }
        let rest = String(decoding: header[name.count...].filter { !$0.isSpace }, as: UTF8.self)
        let isKnown =
            rest.isEmpty || rest == marks[1]
            || (rest.hasPrefix(marks[2]) && rest.hasSuffix(marks[1]))
        return isKnown ? String(decoding: name, as: UTF8.self) : nil
    }

    private mutating func refuse(
        _ more: [UInt8], _ byte: UInt8, _ writer: inout MessageWriter
    ) {
        writer.content(raw)
        writer.content(more)
        (state, raw) = (.content, [])
        take(byte, &writer)
    }

    private mutating func end(_ writer: inout MessageWriter) {
        writer.endCall()
        (state, raw) = (isArray ? .separator : .content, [])
    }

    mutating func finish(_ writer: inout MessageWriter) {
        switch state {
        case .content: writer.content(matcher.finish())
        case .opened, .element: writer.content(raw)
        case .header: writer.content(raw + header)
        case .object:
            if !object.isCall { writer.content(raw + object.raw) }
        case .separator, .arguments, .broken: break
        }
    }
}
