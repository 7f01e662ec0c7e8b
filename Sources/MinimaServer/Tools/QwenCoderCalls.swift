import MinimaCore

/// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter>…</function></tool_call>`: Qwen3-Coder.
///
/// Values become JSON by the function's schema: a text where it says string or nothing, otherwise what
/// was written, if it is JSON.
struct QwenCoderCalls: CallParser {
    static let name = "qwen3_coder"
    static let marks = [
        "<tool_call>", "</tool_call>", "<function=", "</function>", "<parameter=", "</parameter>",
    ]

    static func isTaught(by template: String) -> Bool { template.contains("<function=") }

    static func form(of tools: [Tool], isForced: Bool, isParallel: Bool) -> JSON? {
        let tags = tools.map { tool in
            tag(
                "\(marks[0])\n\(marks[2])\(tool.name)>\n",
                tool.arguments(isForced: isForced, style: "qwen_xml"),
                "\n\(marks[3])\n\(marks[1])")
        }
        return isForced
            ? calls(tags, separator: "\n", isParallel: isParallel)
            : text(tags, after: marks[0], isParallel: isParallel)
    }

    private enum State: Sendable {
        case content
        /// Between `<tool_call>` and `<function=`.
        case opened
        case name
        /// Between parameters.
        case body
        case key, value
    }

    private let schemas: [String: JSON]
    private var state = State.content
    private var matcher = MarkerMatcher(marks)
    /// What has come since the first mark and is no call yet, the mark with it.
    private var raw: [UInt8] = []
    private var label: [UInt8] = []
    private var function = ""
    private var parameters = 0
    private var value = ParameterText()
    private var expectsEnd = false

    private static let longestLabel = 256

    init(_ schemas: [String: JSON]) {
        self.schemas = schemas
    }

    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) {
        let (passed, found) = matcher.take(byte)
        for byte in passed { plain(byte, &writer) }
        if let found { mark(found, &writer) }
    }

    /// A byte of no mark.
    private mutating func plain(_ byte: UInt8, _ writer: inout MessageWriter) {
        switch state {
        case .content:
            if expectsEnd, byte.isSpace { return }
            expectsEnd = false
            writer.content([byte])
        case .opened:
            raw.append(byte)
            if !byte.isSpace { refuse(&writer) }
        case .name:
            if byte == UInt8(ascii: ">") { return beginCall(&writer) }
            raw.append(byte)
            label.append(byte)
            if !byte.isNameByte || label.count > 64 { refuse(&writer) }
        case .body: break
        case .key:
            guard byte == UInt8(ascii: ">") || label.count == Self.longestLabel else {
                return label.append(byte)
            }
            let key = String(decoding: label, as: UTF8.self)
            writer.arguments((parameters == 0 ? "" : ", ").utf8)
            writer.arguments((JSON.string(key).text(indent: nil) + ": ").utf8)
            parameters += 1
            value = ParameterText(schemas[function]?["properties"]?[key])
            state = .value
        case .value: value.take(byte, &writer)
        }
    }

    private mutating func mark(_ number: Int, _ writer: inout MessageWriter) {
        let text = Self.marks[number]
        switch (state, number) {
        case (.content, 0): (state, raw, expectsEnd) = (.opened, Array(text.utf8), false)
        case (.content, 1) where expectsEnd: expectsEnd = false
        // Models forget the mark before it.
        case (.content, 2): (state, raw, label, expectsEnd) = (.name, Array(text.utf8), [], false)
        case (.opened, 2):
            (state, label) = (.name, [])
            raw += text.utf8
        case (.content, _): for byte in text.utf8 { plain(byte, &writer) }
        case (.opened, _), (.name, _):
            refuse(&writer)
            mark(number, &writer)
        case (.body, 4): (state, label) = (.key, [])
        case (.body, 5): break
        case (.body, _):
            end(&writer)
            // Without an end of its own, a call ends with the mark of another, or of all.
            if number != 3 { mark(number, &writer) }
        case (.key, _): for byte in text.utf8 { plain(byte, &writer) }
        case (.value, 5):
            value.finish(&writer)
            state = .body
        case (.value, _): for byte in text.utf8 { plain(byte, &writer) }
        }
    }

    private mutating func beginCall(_ writer: inout MessageWriter) {
        function = String(decoding: label, as: UTF8.self)
        guard schemas[function] != nil else {
            raw.append(UInt8(ascii: ">"))
            return refuse(&writer)
        }
        writer.beginCall(function)
        writer.arguments("{".utf8)
        (state, parameters) = (.body, 0)
    }

    private mutating func refuse(_ writer: inout MessageWriter) {
        writer.content(raw)
        (state, raw) = (.content, [])
    }

    private mutating func end(_ writer: inout MessageWriter) {
        writer.arguments("}".utf8)
        writer.endCall()
        (state, expectsEnd) = (.content, true)
    }

    mutating func finish(_ writer: inout MessageWriter) {
        for byte in matcher.finish() { plain(byte, &writer) }
        switch state {
        case .content, .body, .key: break
        case .opened, .name: writer.content(raw)
        case .value: value.breakOff(&writer)
        }
    }
}
