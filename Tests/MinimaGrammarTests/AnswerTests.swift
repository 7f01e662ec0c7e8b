import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaGrammar

/// Answers written by chance under a constraint are what was asked for.
@Suite("Grammar: answers", .enabled(if: Grammars.isInstalled))
struct AnswerTests {
    private static let multiples: JSON = [
        "type": "integer", "multipleOf": 7, "minimum": -70, "maximum": 700,
    ]
    static let schemas: [JSON] = [
        [
            "type": "object", "title": "Person", "required": ["name", "age"],
            "properties": [
                "name": ["type": "string", "description": "who"],
                "age": ["type": "integer", "minimum": 0, "maximum": 130],
                "tags": ["type": "array", "items": ["type": "string"], "maxItems": 3],
            ], "additionalProperties": false,
        ],
        [
            "$defs": [
                "Node": [
                    "type": "object", "required": ["value"],
                    "properties": [
                        "value": ["type": "number"],
                        "next": ["anyOf": [["$ref": "#/$defs/Node"], ["type": "null"]]],
                    ],
                ]
            ], "$ref": "#/$defs/Node",
        ],
        ["enum": ["red", "green", 3, nil, ["a": [1, 2]]]],
        ["type": "string", "minLength": 2, "maxLength": 5],
        ["type": "string", "enum": ["a\"b", "c\\d", "日本"]],
        ["type": ["string", "null", "boolean"]],
        ["type": "array", "items": multiples, "minItems": 2],
        ["type": "object", "additionalProperties": ["type": "integer"]],
        [
            "oneOf": [
                [
                    "type": "object", "required": ["kind", "r"],
                    "properties": ["kind": ["const": "circle"], "r": ["type": "number"]],
                ],
                [
                    "type": "object", "required": ["kind"],
                    "properties": ["kind": ["const": "point"]],
                ],
            ]
        ],
        ["type": "object", "properties": ["": ["type": "null"], "ä \"": ["type": "boolean"]]],
    ]

    @Test(arguments: schemas.indices) func followTheirSchema(_ index: Int) throws {
        let schema = Self.schemas[index]
        let compiled = try TestVocabulary.compiler().compiled(.jsonSchema(schema))
        var numbers = SplitMix(UInt64(index))
        var complete = 0
        for _ in 0..<60 {
            guard
                let bytes = try TestVocabulary.answer(compiled.makeConstraint(), &numbers)
            else { continue }
            guard let value = try TestVocabulary.json(bytes) else { continue }
            complete += 1
            #expect(
                SchemaReader(root: schema).holds(value, schema),
                "\(value.text(indent: nil))")
        }
        #expect(complete >= 10)
    }

    /// Patterns and lengths let the library forget what JSON wants escaped.
    @Test(arguments: ["[^a]{0,20}", ".*", "[\\s\\S]+", "^[^x]+$", "\\w+@\\w+", "[ä-ü]{1,3}"])
    func withPatternsAreJSON(_ pattern: String) throws {
        let schema: JSON = [
            "type": "object", "required": ["a", "b"],
            "properties": [
                "a": ["type": "string", "pattern": .string(pattern)],
                "b": ["type": "string", "minLength": 1],
            ],
        ]
        try isJSON(.jsonSchema(schema))
        // Behind thoughts, and between marks.
        try isJSON(.after(begin: "", end: "</think>", .jsonSchema(schema)), "</think>")
        try isJSON(
            .structure([
                "type": "tag", "begin": "yes", "content": AnswerForm.jsonSchema(schema).format,
                "end": "no",
            ]), "yes", "no")
    }

    private func isJSON(
        _ form: AnswerForm, _ begin: String = "", _ end: String = ""
    ) throws {
        let compiled = try TestVocabulary.compiler().compiled(form)
        var numbers = SplitMix(5)
        var complete = 0
        for _ in 0..<60 {
            guard
                let bytes = try TestVocabulary.answer(compiled.makeConstraint(), &numbers)
            else { continue }
            let start = Array(begin.utf8)
            let places = bytes.indices.filter { bytes[$0...].starts(with: start) }
            let json = bytes[((places.first ?? -start.count) + start.count)...]
                .dropLast(end.utf8.count)
            guard let value = try TestVocabulary.json(Array(json)) else { continue }
            complete += 1
            #expect(value["a"]?.string != nil && value["b"]?.string?.isEmpty == false)
        }
        #expect(complete >= 5)
    }

    @Test func areObjects() throws {
        let compiled = try TestVocabulary.compiler().compiled(.jsonObject)
        var numbers = SplitMix(3)
        var members = 0
        for _ in 0..<60 {
            guard
                let bytes = try TestVocabulary.answer(compiled.makeConstraint(), &numbers)
            else { continue }
            guard let value = try TestVocabulary.json(bytes) else { continue }
            members += try #require(value.object).count
        }
        #expect(members > 10)
    }

    @Test func matchExpressionsChoicesAndGrammars() throws {
        let compiler = try TestVocabulary.compiler()
        let forms: [(AnswerForm, (Substring) -> Bool)] = [
            (.regex("[ab]{2,4}-(yes|no)?"), { $0.wholeMatch(of: /[ab]{2,4}-(yes|no)?/) != nil }),
            (.choice(["yes", "no", "a \"b\"\n"]), { ["yes", "no", "a \"b\"\n"].contains($0) }),
            (
                .grammar("root ::= pair (\",\" pair)*\npair ::= [a-c] \"=\" [0-9]+"),
                { $0.wholeMatch(of: /[a-c]=[0-9]+(,[a-c]=[0-9]+)*/) != nil }
            ),
            (
                .after(begin: "<think>", end: "</think>", .choice(["yes", "no"])),
                { $0.wholeMatch(of: /(<think>(?s).*<\/think>)?[ \n]*(yes|no)/) != nil }
            ),
            (
                .after(begin: "", end: "</think>", .jsonSchema(["const": 1])),
                { $0.wholeMatch(of: /(?s).*<\/think>[ \n]*1/) != nil }
            ),
        ]
        for (index, (form, holds)) in forms.enumerated() {
            let compiled = try compiler.compiled(form)
            var numbers = SplitMix(UInt64(index) + 11)
            var complete = 0
            for _ in 0..<60 {
                guard
                    let bytes = try TestVocabulary.answer(compiled.makeConstraint(), &numbers)
                else { continue }
                complete += 1
                let text = String(decoding: bytes, as: UTF8.self)
                #expect(holds(text[...]), "\(form): \(text)")
            }
            #expect(complete >= 3, "\(form)")
        }
    }

    /// Several answers to one form do not disturb each other; behind its end an answer has no token.
    @Test func areIndependent() throws {
        let compiled = try TestVocabulary.compiler().compiled(.regex("ab?"))
        let (first, second) = (try compiled.makeConstraint(), try compiled.makeConstraint())
        var mask = Array(repeating: UInt32(0), count: (TestVocabulary.tokens.count + 31) / 32)
        #expect(first.accept(97))
        #expect(!first.accept(97) && !first.accept(TestVocabulary.special) && !first.accept(-1))
        #expect(first.accept(98) && first.accept(TestVocabulary.stop))
        #expect(first.allowed(&mask) && mask.allSatisfy { $0 == 0 } && !first.accept(97))
        #expect(second.allowed(&mask) && second.accept(97) && second.accept(TestVocabulary.stop))
    }
}
