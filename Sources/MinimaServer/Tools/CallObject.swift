import MinimaCore

/// Reads a call that is written as an object with `name` and `arguments` (or `parameters`), byte by
/// byte.
struct CallObject: Sendable {
    /// What a byte is to the call.
    enum Place: Sendable {
        case inside
        /// Its last byte.
        case last
        /// The call ended with the byte before, without its brace.
        case after
        /// This is no call; ``raw`` has the bytes before this one.
        case wrong
    }

    private enum State: Sendable {
        case start, key, keyText, colon, value, name, arguments, skipped, next
        /// The arguments are no JSON: where they end is not to be told.
        case broken
    }

    /// Bytes of what is not a call yet.
    private(set) var raw: [UInt8] = []
    private var state = State.start
    private let schemas: [String: JSON]
    private var extent = JSONExtent()
    /// A string or a value that is held until it is complete.
    private var held: [UInt8] = []
    private var key = ""
    private var name: String?
    /// Arguments that came before the name, or as a text.
    private var early: [UInt8]?
    private var hasBegun = false
    private var isDirect = false

    init(_ schemas: [String: JSON]) {
        self.schemas = schemas
    }

    /// Whether the call's arguments are no JSON, so that its end is not to be found.
    var isBroken: Bool { state == .broken }
    /// Whether this is a call.
    var isCall: Bool { hasBegun }

    mutating func take(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        let place = step(byte, &writer)
        if !hasBegun, place == .inside { raw.append(byte) }
        return place
    }

    private mutating func step(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        switch state {
        case .start, .key, .colon, .next:
            return byte.isSpace ? .inside : punctuation(byte, &writer)
        case .value: return byte.isSpace ? .inside : begin(byte, &writer)
        case .keyText, .name, .skipped: return value(byte, &writer)
        case .arguments: return arguments(byte, &writer)
        case .broken:
            writer.arguments([byte])
            return .inside
        }
    }

    private mutating func punctuation(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        switch (state, byte) {
        case (.start, UInt8(ascii: "{")): state = .key
        case (.key, UInt8(ascii: "\"")):
            (state, held, extent) = (.keyText, [byte], JSONExtent())
            _ = extent.take(byte)
        case (.colon, UInt8(ascii: ":")): state = .value
        case (.next, UInt8(ascii: ",")): state = .key
        case (.next, UInt8(ascii: "}")): return end(&writer)
        case (.key, UInt8(ascii: "}")) where hasBegun: return .last
        default: return hasBegun ? .after : .wrong
        }
        return .inside
    }

    /// The first byte of a member's value.
    private mutating func begin(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        (held, extent) = ([], JSONExtent())
        switch key {
        case "name" where !hasBegun: state = .name
        case "arguments" where !hasBegun, "parameters" where !hasBegun:
            state = .arguments
            isDirect = byte == UInt8(ascii: "{") && name != nil
            if isDirect, let name { beginCall(name, &writer) }
            return arguments(byte, &writer)
        default: state = .skipped
        }
        return value(byte, &writer)
    }

    /// A byte of a name or of a value that is not looked at.
    private mutating func value(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        let place = extent.take(byte)
        switch place {
        case .inside, .last: held.append(byte)
        case .after: break
        case .wrong: return hasBegun ? .after : .wrong
        }
        guard place != .inside else { return .inside }
        switch state {
        case .keyText:
            guard let text = Self.text(held) else { return hasBegun ? .after : .wrong }
            // Another name is that of something that is no call, and tells it early.
            guard hasBegun || Self.keys.contains(text) else { return .wrong }
            (key, state) = (text, .colon)
        case .name:
            guard let text = Self.text(held), schemas[text] != nil else { return .wrong }
            (name, state) = (text, .next)
            if let early {
                beginCall(text, &writer)
                writer.arguments(early)
            }
        default: state = .next
        }
        return place == .after ? step(byte, &writer) : .inside
    }

    private mutating func arguments(_ byte: UInt8, _ writer: inout MessageWriter) -> Place {
        let place = extent.take(byte)
        if isDirect {
            if place == .wrong { state = .broken }
            if place == .last { state = .next }
            writer.arguments([byte])
            return .inside
        }
        switch place {
        case .inside, .last: held.append(byte)
        case .after: break
        case .wrong: return .wrong
        }
        guard place != .inside else { return .inside }
        guard let complete = Self.object(held) else { return .wrong }
        state = .next
        if let name {
            beginCall(name, &writer)
            writer.arguments(complete)
        } else {
            early = complete
        }
        return place == .after ? step(byte, &writer) : .inside
    }

    private mutating func beginCall(_ name: String, _ writer: inout MessageWriter) {
        writer.beginCall(name)
        hasBegun = true
        raw = []
    }

    private mutating func end(_ writer: inout MessageWriter) -> Place {
        if !hasBegun {
            // A function without parameters may be called without arguments.
            guard let name else { return .wrong }
            beginCall(name, &writer)
            writer.arguments(Array("{}".utf8))
        }
        return .last
    }

    private static let keys: Set<String> = ["name", "arguments", "parameters", "id", "type"]

    private static func text(_ bytes: [UInt8]) -> String? {
        (try? JSON(parsing: bytes))?.string
    }

    /// The text of arguments: an object, its text in a string, or null for none.
    private static func object(_ bytes: [UInt8]) -> [UInt8]? {
        if bytes.first == UInt8(ascii: "{") { return bytes }
        guard let value = try? JSON(parsing: bytes) else { return nil }
        if value.isNull { return Array("{}".utf8) }
        guard let text = value.string, let inner = try? JSON(parsing: text), inner.object != nil
        else { return nil }
        return Array(text.utf8)
    }
}
