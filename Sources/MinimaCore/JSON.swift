import OrderedCollections

/// A JSON document (RFC 8259), with object members kept in file order.
///
/// Foundation's decoder neither keeps member order nor reports duplicate names, and Minima needs
/// both: configurations are written back as they were read, and a duplicate tensor name in a
/// safetensors header is a malformed file.
public enum JSON: Sendable, Hashable {
    case null
    case bool(Bool)
    /// A number without fraction or exponent that fits 64 bits.
    case integer(Int64)
    /// Any other number.
    case number(Double)
    case string(String)
    case array([JSON])
    case object(OrderedDictionary<Name, JSON>)
}

extension JSON {
    /// A member's name, equal to another only when their UTF-8 bytes are.
    ///
    /// `String` compares by canonical equivalence, under which distinct tokens of a vocabulary
    /// ("Å" as one scalar or as two) would be duplicates.
    public struct Name: Sendable, Hashable, Comparable, ExpressibleByStringLiteral,
        CustomStringConvertible
    {
        /// The name itself.
        public let text: String

        /// A name from its text.
        public init(_ text: String) {
            self.text = text
        }

        /// A name from a literal.
        public init(stringLiteral value: String) {
            self.init(value)
        }

        /// The name itself.
        public var description: String { text }

        /// Equality of UTF-8 bytes.
        public static func == (left: Name, right: Name) -> Bool {
            left.text.utf8.elementsEqual(right.text.utf8)
        }

        /// Order of UTF-8 bytes.
        public static func < (left: Name, right: Name) -> Bool {
            left.text.utf8.lexicographicallyPrecedes(right.text.utf8)
        }

        /// Hashes the UTF-8 bytes.
        public func hash(into hasher: inout Hasher) {
            var text = text
            text.withUTF8 { hasher.combine(bytes: UnsafeRawBufferPointer($0)) }
        }
    }
}

/// Why a text is not JSON, and where.
public struct JSONError: Error, Hashable, CustomStringConvertible {
    /// What was found and what was expected.
    public let reason: String
    /// 1-based line of the offending byte.
    public let line: Int
    /// 1-based column, in bytes.
    public let column: Int

    /// The reason with its place, ready to follow a file name.
    public var description: String { "not valid JSON at line \(line), column \(column): \(reason)" }
}

extension JSON {
    /// Members of an object, or `nil` for any other value.
    public var object: OrderedDictionary<Name, JSON>? {
        if case .object(let members) = self { members } else { nil }
    }

    /// Elements of an array, or `nil` for any other value.
    public var array: [JSON]? {
        if case .array(let elements) = self { elements } else { nil }
    }

    /// A string's text, or `nil` for any other value.
    public var string: String? {
        if case .string(let text) = self { text } else { nil }
    }

    /// A boolean, or `nil` for any other value.
    public var bool: Bool? {
        if case .bool(let flag) = self { flag } else { nil }
    }

    /// A whole number that fits `Int` (`3` and `3.0`), or `nil`.
    public var int: Int? {
        switch self {
        case .integer(let value): Int(exactly: value)
        case .number(let value): Int(exactly: value)
        default: nil
        }
    }

    /// Any number, or `nil` for other values.
    public var double: Double? {
        switch self {
        case .integer(let value): Double(value)
        case .number(let value): value
        default: nil
        }
    }

    /// Whether this is `null`.
    public var isNull: Bool { self == .null }

    /// The member called `name`; `nil` when absent or when this is no object.
    public subscript(name: String) -> JSON? { object?[Name(name)] }

    /// The kind of this value in words, for messages.
    public var kind: String {
        switch self {
        case .null: "null"
        case .bool: "a boolean"
        case .integer: "an integer"
        case .number: "a number"
        case .string: "a string"
        case .array: "an array"
        case .object: "an object"
        }
    }
}

extension JSON: ExpressibleByStringLiteral, ExpressibleByIntegerLiteral, ExpressibleByFloatLiteral,
    ExpressibleByBooleanLiteral, ExpressibleByArrayLiteral, ExpressibleByDictionaryLiteral,
    ExpressibleByNilLiteral
{
    /// A string.
    public init(stringLiteral value: String) { self = .string(value) }

    /// An integer.
    public init(integerLiteral value: Int64) { self = .integer(value) }

    /// A number.
    public init(floatLiteral value: Double) { self = .number(value) }

    /// A boolean.
    public init(booleanLiteral value: Bool) { self = .bool(value) }

    /// An array.
    public init(arrayLiteral elements: JSON...) { self = .array(elements) }

    /// Null.
    public init(nilLiteral: ()) { self = .null }

    /// An object; a repeated name keeps the last value.
    public init(dictionaryLiteral elements: (String, JSON)...) {
        self = .object(
            OrderedDictionary(elements.map { (Name($0), $1) }) { _, last in last })
    }
}
