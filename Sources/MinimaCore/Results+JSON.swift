import FoundationEssentials

extension StageResult {
    /// This result as JSON text: sorted snake-case keys and its `kind`.
    ///
    /// Numbers that JSON lacks are the strings `NaN`, `Infinity` and `-Infinity`: a diverged
    /// perplexity is a finding, too.
    public func json() throws -> String {
        try encoded([.prettyPrinted, .sortedKeys, .withoutEscapingSlashes])
    }

    /// The same without line breaks: one of several results in a file of JSON lines.
    public func jsonLine() throws -> String {
        try encoded([.sortedKeys, .withoutEscapingSlashes])
    }

    private func encoded(_ format: JSONEncoder.OutputFormatting) throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
        encoder.outputFormatting = format
        return String(decoding: try encoder.encode(Tagged(result: self)), as: UTF8.self)
    }

    /// Reads what ``json()`` wrote; keys of later versions are ignored.
    ///
    /// - Throws: `JSONError` or `ResultError`.
    public init(json text: String) throws {
        let kind = try JSON(parsing: text)["kind"]?.string
        guard kind == Self.kind else {
            throw ResultError.wrongKind(found: kind, expected: Self.kind)
        }
        let decoder = JSONDecoder()
        decoder.keyDecodingStrategy = .convertFromSnakeCase
        decoder.nonConformingFloatDecodingStrategy = .convertFromString(
            positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
        do {
            self = try decoder.decode(Self.self, from: Data(text.utf8))
        } catch let error as DecodingError {
            throw ResultError(error)
        }
    }
}

extension StageResult {
    /// Reads what ``json()`` wrote or a person edited: a key that this version does not know is an
    /// error, so that a misspelt one is not taken for one that is absent.
    ///
    /// - Throws: `JSONError` or `ResultError`.
    public init(edited text: String) throws {
        try self.init(json: text)
        let known = try JSON(parsing: json())
        if let key = try JSON(parsing: text).firstKey(notIn: known, path: "") {
            throw ResultError.unknown(key: key)
        }
    }
}

extension JSON {
    /// The path of the first key that `known`, of the same structure, does not have.
    ///
    /// A key of `known` may be absent here, and so may what `known` leaves out as empty.
    fileprivate func firstKey(notIn known: JSON, path: String) -> String? {
        if let members = object {
            for (name, value) in members where !value.isEmpty {
                let place = path.isEmpty ? name.text : "\(path).\(name.text)"
                guard let other = known.object?[name] else { return place }
                if let key = value.firstKey(notIn: other, path: place) { return key }
            }
        }
        if let list = array, let other = known.array, list.count == other.count {
            for (index, (value, known)) in zip(list, other).enumerated() {
                if let key = value.firstKey(notIn: known, path: "\(path)[\(index)]") { return key }
            }
        }
        return nil
    }

    private var isEmpty: Bool {
        if case .null = self { return true }
        return array?.isEmpty == true || object?.isEmpty == true
    }
}

/// A result whose encoding carries its `kind`.
private struct Tagged<Result: StageResult>: Encodable {
    let result: Result

    enum CodingKeys: CodingKey {
        case kind
    }

    func encode(to encoder: any Encoder) throws {
        var container = encoder.container(keyedBy: CodingKeys.self)
        try container.encode(Result.kind, forKey: .kind)
        try result.encode(to: encoder)
    }
}

/// Why a stored result cannot be read.
public enum ResultError: Error, Hashable, CustomStringConvertible {
    case wrongKind(found: String?, expected: String)
    case missing(key: String)
    case unknown(key: String)
    /// `key` is empty where the decoder does not say which number is out of range.
    case badValue(key: String)

    /// What was found and what was expected.
    public var description: String {
        switch self {
        case .wrongKind(let found, let expected):
            "this is \(found.map { "a result of kind \"\($0)\"" } ?? "no result of Minima"), "
                + "expected \"\(expected)\""
        case .missing(let key):
            "\"\(key)\" is missing; write the result again with this version of Minima"
        case .unknown(let key):
            "unknown key \"\(key)\"; check its spelling"
        case .badValue(let key):
            "\(key.isEmpty ? "a member" : "\"\(key)\"") holds a value of another kind or out of "
                + "range; write the result again with this version of Minima"
        }
    }

    fileprivate init(_ error: DecodingError) {
        switch error {
        case .keyNotFound(let key, let context):
            self = .missing(key: Self.stored(context.codingPath + [key]))
        case .valueNotFound(_, let context), .typeMismatch(_, let context),
            .dataCorrupted(let context):
            self = .badValue(key: Self.stored(context.codingPath))
        @unknown default:
            self = .badValue(key: "?")
        }
    }

    /// A path of keys as the file spells them: `modules[3].weight_error`.
    private static func stored(_ path: [any CodingKey]) -> String {
        var text = ""
        for key in path {
            if let index = key.intValue {
                text += "[\(index)]"
                continue
            }
            if !text.isEmpty { text += "." }
            for letter in key.stringValue {
                text += letter.isUppercase ? "_\(letter.lowercased())" : String(letter)
            }
        }
        return text
    }
}
