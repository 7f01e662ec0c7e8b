import MinimaCore

/// The text of a parameter on its way to JSON.
struct ParameterText: Sendable {
    private let types: Set<String>
    /// Texts of which the value is one; white space around them is none of it.
    private let choices: [String]
    /// What is held until it is complete.
    private var held: [UInt8] = []
    private var isOpen = false
    private var hasBegun = false

    init(_ schema: JSON? = nil) {
        types = schema.map { Self.types($0) } ?? []
        choices = ((schema?["enum"]?.array ?? []) + [schema?["const"]].compactMap(\.self))
            .compactMap(\.string)
    }

    /// Whether the text can be nothing else, so that it need not be complete to be passed on.
    private var isText: Bool { choices.isEmpty && (types.isEmpty || types == ["string"]) }

    private static func types(_ schema: JSON) -> Set<String> {
        var types = Set((schema["type"]?.array ?? []).compactMap(\.string))
        if let type = schema["type"]?.string { types.insert(type) }
        for name in ["anyOf", "oneOf"] {
            for branch in schema[name]?.array ?? [] { types.formUnion(Self.types(branch)) }
        }
        guard types.isEmpty else { return types }
        let values = (schema["enum"]?.array ?? []) + [schema["const"]].compactMap(\.self)
        return Set(values.map(Self.type))
    }

    private static func type(_ value: JSON) -> String {
        switch value {
        case .null: "null"
        case .bool: "boolean"
        case .integer: "integer"
        case .number: "number"
        case .string: "string"
        case .array: "array"
        case .object: "object"
        }
    }

    /// Takes a byte. A line's end at the beginning, and one at the end, are not part of the value.
    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) {
        let isFirst = !hasBegun
        hasBegun = true
        if isFirst, byte == UInt8(ascii: "\n") { return }
        guard isText else { return held.append(byte) }
        open(&writer)
        Self.write(held, &writer)
        held = []
        if byte == UInt8(ascii: "\n") {
            held = [byte]
        } else {
            Self.write([byte], &writer)
        }
    }

    /// The value is complete.
    mutating func finish(_ writer: inout MessageWriter) {
        if isText {
            open(&writer)
            return writer.arguments("\"".utf8)
        }
        if held.last == UInt8(ascii: "\n") { held.removeLast() }
        var core = held[...]
        while core.first?.isSpace == true { core.removeFirst() }
        while core.last?.isSpace == true { core.removeLast() }
        let isChoice = choices.contains { $0.utf8.elementsEqual(core) }
        if isChoice, !choices.contains(where: { $0.utf8.elementsEqual(held) }) {
            held = Array(core)
        }
        let text = String(decoding: held, as: UTF8.self)
        // As Python spells them.
        let words = ["True": "true", "False": "false", "None": "null"]
        let word = types.contains("string") ? text : words[text] ?? text
        if let value = try? JSON(parsing: word), fits(value) {
            writer.arguments(word.utf8)
        } else {
            writer.arguments("\"".utf8)
            Self.write(held, &writer)
            writer.arguments("\"".utf8)
        }
    }

    /// The answer ends in the middle of the value.
    mutating func breakOff(_ writer: inout MessageWriter) {
        if isText {
            Self.write(held, &writer)
        } else {
            writer.arguments(held)
        }
    }

    /// Whether JSON is meant, where a text is possible too.
    private func fits(_ value: JSON) -> Bool {
        guard types.contains("string") else { return true }
        guard value.string == nil else { return false }
        let type = Self.type(value)
        return types.contains(type) || (type == "integer" && types.contains("number"))
    }

    private mutating func open(_ writer: inout MessageWriter) {
        if !isOpen { writer.arguments("\"".utf8) }
        isOpen = true
    }

    /// Writes bytes as they stand in a JSON string.
    private static func write(_ bytes: [UInt8], _ writer: inout MessageWriter) {
        for byte in bytes {
            switch byte {
            case UInt8(ascii: "\""), UInt8(ascii: "\\"):
                writer.arguments([UInt8(ascii: "\\"), byte])
            case ..<0x20:
                writer.arguments(
                    JSON.string(String(Unicode.Scalar(byte))).text(indent: nil).utf8.dropFirst()
                        .dropLast())
            default: writer.arguments([byte])
            }
        }
    }
}
