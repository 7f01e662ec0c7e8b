import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaGrammar

/// What cannot be followed is refused by name; what comes from clients ends no process.
@Suite("Grammar: refusals", .enabled(if: Grammars.isInstalled))
struct RefusalTests {
    private func reason(_ form: AnswerForm) throws -> String? {
        let compiler = try TestVocabulary.compiler()
        do throws(GrammarError) {
            _ = try compiler.compiled(form)
            return nil
        } catch {
            guard case .refused(let reason) = error else { throw error }
            return reason
        }
    }

    static let schemas: [(JSON, String)] = [
        (["type": "string", "minLenght": 1], "minLenght"),
        (["not": [:]], "\"not\""),
        (["type": "array", "uniqueItems": true], "uniqueItems"),
        (["allOf": [["type": "string"], ["minLength": 3]]], "allOf"),
        (["type": "object", "properties": ["a": ["if": true]]], "#/properties/a"),
        (["anyOf": [["type": "string"]], "minLength": 3], "minLength beside anyOf"),
        (["type": "number", "multipleOf": 0.5], "multipleOf"),
        (
            ["type": "integer", "multipleOf": 3, "minimum": .integer(.min), "maximum": 0],
            "more than 9000 apart"
        ),
        (["type": "string", "format": "phone"], "format"),
        (["type": "string", "pattern": "a(?=b)"], "looks ahead"),
        (["type": "object", "required": ["x"]], "requires"),
        (["minimum": 3], "minimum without a type"),
        (["$ref": "https://example.com/a.json"], "$ref"),
        (["$ref": "#/$defs/none"], "nowhere"),
        (["$ref": "#"], "no text at all"),
        (["type": "strin"], "type"),
        (3, "schema is expected"),
        (["enum": []], "enum"),
        (["type": "integer", "enum": ["a"]], "type"),
        (["type": "string", "pattern": "(a{1,5}){2,9}"], "repetition itself"),
        (["type": "string", "pattern": "[ab]{1,100000}"], "1000 steps"),
        (["type": "array", "items": [["type": "string"]]], "schema is expected"),
    ]

    @Test(arguments: schemas.indices) func nameWhatASchemaHas(_ index: Int) throws {
        let (schema, part) = Self.schemas[index]
        let reason = try reason(.jsonSchema(schema))
        #expect(reason?.contains(part) == true, "\(reason ?? "followed")")
    }

    @Test func nameWhatOthersHave() throws {
        for (form, part) in [
            (AnswerForm.regex("(a"), "parenthesis"), (.regex("a(?=b)"), "Lookahead"),
            (.regex("(\\w+\\s?){1,20}"), "repetition itself"),
            (.regex("(?:\\w+){1,20}"), "repetition itself"), (.choice([]), "empty"),
            (.choice([""]), "empty"), (.grammar("root ::= x"), "\"x\" is not defined"),
            (.grammar("a ::= \"b\""), "root"), (.grammar("root ::= root"), "no text"),
            (.regex(String(repeating: "(", count: 5000)), "64 groups"),
            (.structure(["type": "nothing"]), "nothing"),
            (.structure(["type": "json_schema", "json_schema": ["not": [:]]]), "\"not\""),
        ] {
            let reason = try reason(form)
            #expect(reason?.contains(part) == true, "\(form): \(reason ?? "followed")")
            #expect(reason?.contains(".cc:") == false)
        }
    }

    /// Random and twisted forms give a constraint or an error, and what they let through is JSON.
    @Test func survivesNonsense() throws {
        let compiler = try TestVocabulary.compiler()
        var numbers = SplitMix(77)
        var (followed, refused) = (0, 0)
        for round in 0..<300 {
            let form: AnswerForm =
                switch round % 3 {
                case 0: .jsonSchema(Nonsense.schema(&numbers, depth: 0))
                case 1: .regex(Nonsense.text("ab(|)[]^-{12,}*+?.\\dw$\"ä\u{0}", &numbers))
                default:
                    .grammar("root ::= " + Nonsense.text("ab \"\"(|)[]{12,}*+?root\n::=", &numbers))
                }
            do throws(GrammarError) {
                let compiled = try compiler.compiled(form)
                followed += 1
                guard case .jsonSchema = form else { continue }
                let constraint = try compiled.makeConstraint()
                guard let bytes = try? TestVocabulary.answer(constraint, &numbers, most: 60)
                else { continue }
                #expect(throws: Never.self) { try TestVocabulary.json(bytes) }
            } catch {
                guard case .refused = error else { throw error }
                refused += 1
            }
        }
        #expect(followed > 30 && refused > 30)
    }
}

/// Forms that nobody would write.
private enum Nonsense {
    static func text(_ alphabet: String, _ numbers: inout SplitMix) -> String {
        let scalars = Array(alphabet.unicodeScalars)
        var text = String.UnicodeScalarView()
        for _ in 0..<Int.random(in: 0..<14, using: &numbers) {
            text.append(scalars[Int.random(in: 0..<scalars.count, using: &numbers)])
        }
        return String(text)
    }

    static func schema(_ numbers: inout SplitMix, depth: Int) -> JSON {
        let leaves: [JSON] = [
            true, false, nil, 3, "x", [:], ["type": "string"], ["type": "integer", "minimum": -5],
            ["type": "string", "maxLength": 4], ["const": ["a": 1]], ["enum": ["a", 2]],
            ["type": "number", "minimum": 0.5, "maximum": 1.25],
            ["type": "string", "minLength": -1],
            ["$ref": "#"], ["$ref": "#/properties/a"], ["type": "string", "format": "date"],
            ["type": "integer", "minimum": 5, "maximum": 1], ["type": ["null", "array"]],
        ]
        guard depth < 4, Int.random(in: 0..<3, using: &numbers) > 0 else {
            return leaves[Int.random(in: 0..<leaves.count, using: &numbers)]
        }
        let (one, two) = (schema(&numbers, depth: depth + 1), schema(&numbers, depth: depth + 1))
        switch Int.random(in: 0..<6, using: &numbers) {
        case 0: return ["type": "object", "properties": ["a": one, "b": two], "required": ["a"]]
        case 1: return ["type": "array", "items": one, "minItems": 1, "maxItems": 3]
        case 2: return ["anyOf": [one, two]]
        case 3: return ["type": "array", "prefixItems": [one], "items": two]
        case 4: return ["type": "object", "additionalProperties": one, "minProperties": 1]
        default: return ["oneOf": [one, two], "description": "either"]
        }
    }
}
