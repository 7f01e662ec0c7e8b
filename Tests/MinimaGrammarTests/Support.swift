import MinimaCore
import MinimaRuntime

@testable import MinimaGrammar

/// A vocabulary of all bytes, some longer tokens with borders in odd places, a special token and a
/// stop token.
enum TestVocabulary {
    static let stop: Int32 = 256
    static let special: Int32 = 257
    static let texts = [
        "{\"", "\": ", "\", \"", "\"}", "},", "[]", "tr", "ue", "null", "12", ".5", "e+", "\\u00",
        "\\\"", "ab", "name", "\n  ", "ä", "日本", "</think>", "<think>", "yes", "no", "maybe",
    ]
    static let tokens: [[UInt8]] =
        (0...255).map { [UInt8($0)] } + [[], []] + texts.map { Array($0.utf8) }

    static func compiler(_ limits: GrammarLimits = GrammarLimits()) throws -> GrammarCompiler {
        try GrammarCompiler(
            Grammars.library.get(), GrammarVocabulary(tokens: tokens, stop: [stop]),
            limits: limits)
    }

    /// Writes an answer of tokens chosen by chance among those allowed.
    ///
    /// - Returns: `nil` when it did not end within `most` tokens.
    static func answer(
        _ constraint: any TokenConstraint, _ numbers: inout SplitMix, most: Int = 400
    ) throws -> [UInt8]? {
        let closing = Set(Array("\"]}0".utf8).map { Int($0) } + [Int(stop)])
        var bytes: [UInt8] = []
        var mask = Array(repeating: UInt32(0), count: (tokens.count + 31) / 32)
        for _ in 0..<most {
            let excludes = constraint.allowed(&mask)
            let allowed = tokens.indices.filter {
                !excludes || mask[$0 / 32] >> UInt32($0 % 32) & 1 == 1
            }
            guard !allowed.isEmpty else { throw DeadEnd(after: bytes) }
            let ends = allowed.filter(closing.contains)
            let pool = ends.isEmpty || Int.random(in: 0..<3, using: &numbers) > 0 ? allowed : ends
            let token = pool.randomElement(using: &numbers) ?? Int(stop)
            guard constraint.accept(Int32(token)) else { throw DeadEnd(after: bytes) }
            if token == Int(stop) { return bytes }
            bytes += tokens[token]
        }
        return nil
    }

    /// An answer as a client reads it; `nil` for what no grammar rules out: numbers that JSON has and
    /// `Double` has not, names that come twice, and bytes (made by chance) that are not UTF-8, of which
    /// every answer makes U+FFFD.
    static func json(_ bytes: [UInt8]) throws(JSONError) -> JSON? {
        let text = String(decoding: bytes, as: UTF8.self)
        do throws(JSONError) {
            let value = try JSON(parsing: text)
            return text.unicodeScalars.contains("\u{FFFD}") ? Optional.none : value
        } catch {
            let reason = error.reason
            guard reason.contains("out of range") || reason.contains("appears twice") else {
                throw error
            }
            return Optional.none
        }
    }

    struct DeadEnd: Error, CustomStringConvertible {
        var after: [UInt8]
        var description: String { "no token after: \(String(decoding: after, as: UTF8.self))" }
    }
}

/// Checks a value against the keywords that the tests use; its own reading of JSON Schema.
struct SchemaReader {
    let root: JSON

    func holds(_ value: JSON, _ schema: JSON) -> Bool {
        if let flag = schema.bool { return flag }
        if let path = schema["$ref"]?.string {
            var target = root
            for part in path.dropFirst(2).split(separator: "/") {
                target = target[String(part)] ?? false
            }
            return holds(value, target)
        }
        if let constant = schema["const"] { return value == constant }
        if let values = schema["enum"]?.array { return values.contains(value) }
        if let branches = (schema["anyOf"] ?? schema["oneOf"])?.array {
            return branches.contains { holds(value, $0) }
        }
        if let branch = schema["allOf"]?.array?.first { return holds(value, branch) }
        let types = schema["type"].map { ($0.array ?? [$0]).compactMap(\.string) }
        return types?.contains { has(value, type: $0) && keeps(value, schema) } ?? true
    }

    private func has(_ value: JSON, type: String) -> Bool {
        switch type {
        case "null": value.isNull
        case "boolean": value.bool != nil
        case "integer": value.int != nil
        case "number": value.double != nil
        case "string": value.string != nil
        case "array": value.array != nil
        default: value.object != nil
        }
    }

    private func keeps(_ value: JSON, _ schema: JSON) -> Bool {
        if let number = value.double {
            if let low = schema["minimum"]?.double, number < low { return false }
            if let high = schema["maximum"]?.double, number > high { return false }
            if let step = schema["multipleOf"]?.int { return Int(number) % step == 0 }
        }
        if let text = value.string {
            let count = text.unicodeScalars.count
            if let low = schema["minLength"]?.int, count < low { return false }
            if let high = schema["maxLength"]?.int, count > high { return false }
        }
        if let items = value.array {
            if let low = schema["minItems"]?.int, items.count < low { return false }
            if let high = schema["maxItems"]?.int, items.count > high { return false }
            return items.allSatisfy { holds($0, schema["items"] ?? true) }
        }
        if let members = value.object {
            let known = schema["properties"]?.object ?? [:]
            let required = (schema["required"]?.array ?? []).compactMap(\.string)
            guard required.allSatisfy({ value[$0] != nil }) else { return false }
            return members.allSatisfy { name, member in
                holds(member, known[name] ?? schema["additionalProperties"] ?? false)
            }
        }
        return true
    }
}
