import FoundationEssentials

extension StageResult {
    /// This result as JSON text: sorted snake-case keys and its `kind`.
    ///
    /// Numbers that JSON lacks are the strings `NaN`, `Infinity` and `-Infinity`: a diverged
    /// perplexity is a finding, too.
    public func json() throws -> String {
        let encoder = JSONEncoder()
        encoder.keyEncodingStrategy = .convertToSnakeCase
        encoder.nonConformingFloatEncodingStrategy = .convertToString(
            positiveInfinity: "Infinity", negativeInfinity: "-Infinity", nan: "NaN")
        encoder.outputFormatting = [.prettyPrinted, .sortedKeys, .withoutEscapingSlashes]
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
