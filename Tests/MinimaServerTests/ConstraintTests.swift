import MinimaCore
import MinimaGrammar
import MinimaTensor
import MinimaTestSupport
import MinimaTokenizer
import Testing

@testable import MinimaServer

/// Where torch is, if xgrammar lies beside it, where `make setup` puts it.
let grammarPackages: [String]? = {
    guard let folder = try? Torch.packageFolder() else { return nil }
    return (try? GrammarLibrary(folders: [folder])).map { _ in [folder] }
}()

/// Answers of the example model, a teller of stories, that must be something else.
@Suite("Server: constrained answers", .serialized, .enabled(if: grammarPackages != nil))
struct ConstraintTests {
    private static let schema: JSON = [
        "type": "object", "required": ["name", "age", "likes"], "additionalProperties": false,
        "properties": [
            "name": ["type": "string", "maxLength": 12],
            "age": ["type": "integer", "minimum": 1, "maximum": 99],
            "likes": [
                "type": "array", "items": ["enum": ["cats", "dogs"]], "minItems": 1, "maxItems": 2,
            ],
        ],
    ]

    private func isPerson(_ text: String) throws -> Bool {
        let value = try JSON(parsing: text)
        let names = value.object?.keys.map(\.text)
        let likes = value["likes"]?.array ?? []
        return names == ["name", "age", "likes"]
            && (value["name"]?.string?.unicodeScalars.count ?? 99) <= 12
            && (1...99).contains(value["age"]?.int ?? 0) && (1...2).contains(likes.count)
            && likes.allSatisfy { $0 == "cats" || $0 == "dogs" }
    }

    private func with(_ body: (TestServer) async throws -> Void) async throws {
        try await TestServer.with(
            exampleEngine(), ServerOptions(packageFolders: grammarPackages ?? []), body)
    }

    private func chat(_ more: JSON) -> JSON {
        var members = more.object ?? [:]
        members["messages"] = [["role": "user", "content": "Who?"]]
        members["max_tokens"] = members["max_tokens"] ?? 320
        return .object(members)
    }

    private var format: JSON {
        ["type": "json_schema", "json_schema": ["name": "person", "schema": Self.schema]]
    }

    @Test func followTheirSchema() async throws {
        try await with { server in
            for (temperature, count) in [(0.0, 1), (1.0, 3)] {
                let answer = try await server.post(
                    "/v1/chat/completions",
                    chat([
                        "response_format": format, "temperature": .number(temperature),
                        "seed": 1, "n": .integer(Int64(count)), "logprobs": true,
                        "top_logprobs": 2,
                    ])
                ).json()
                let choices = try #require(answer["choices"]?.array)
                #expect(choices.count == count)
                for choice in choices {
                    let text = try #require(choice["message"]?["content"]?.string)
                    #expect(try isPerson(text), "\(text)")
                    #expect(choice["finish_reason"] == "stop")
                    #expect((choice["logprobs"]?["content"]?.array?.count ?? 0) > 10)
                }
            }
            let stream = try await server.post(
                "/v1/chat/completions",
                chat(["response_format": format, "stream": true, "temperature": 1, "seed": 4]))
            let text = try stream.events().compactMap {
                $0["choices"]?.array?.first?["delta"]?["content"]?.string
            }.joined()
            #expect(try isPerson(text), "\(text)")
            #expect(await server.becomesIdle())
        }
    }

    /// vLLM's members on both endpoints; a stop text ends a constrained answer early as any other.
    @Test func haveTheFormsOfOtherServers() async throws {
        try await with { server in
            func text(_ more: JSON) async throws -> String {
                var members = more.object ?? [:]
                members["prompt"] = "Once"
                members["max_tokens"] = 320
                members["temperature"] = 0
                let reply = try await server.post("/v1/completions", .object(members))
                #expect(reply.status == 200, "\(reply.body)")
                return try #require(reply.json()["choices"]?.array?.first?["text"]?.string)
            }
            let cases: [(JSON, (String) -> Bool)] = [
                (
                    ["structured_outputs": ["choice": ["yes", "no"]]],
                    { ["yes", "no"].contains($0) }
                ),
                (["guided_choice": ["red", "blue"]], { ["red", "blue"].contains($0) }),
                (["structured_outputs": ["regex": "[0-9]{3}-[a-f]{2}"]], { $0.count == 6 }),
                (["guided_regex": "x+y"], { $0.hasPrefix("x") && $0.hasSuffix("y") }),
                (
                    ["guided_grammar": "root ::= \"a\" (\"b\" | \"c\")"],
                    { $0 == "ab" || $0 == "ac" }
                ),
                (
                    ["guided_json": .string(Self.schema.text(indent: nil))],
                    { (try? isPerson($0)) == true }
                ),
                (["guided_choice": ["one two"], "stop": "two"], { $0 == "one " }),
            ]
            for (more, holds) in cases {
                let text = try await text(more)
                #expect(holds(text), "\(more.text(indent: nil)): \(text)")
            }
        }
    }

    @Test func areRefusedByName() async throws {
        try await with { server in
            let cases: [(JSON, String, String)] = [
                (["guided_regex": "(a"], "guided_regex", "parenthesis"),
                (["response_format": ["type": "xml"]], "response_format.type", "type"),
                (
                    ["response_format": ["type": "json_schema"]], "response_format.json_schema",
                    "json_schema"
                ),
                (
                    [
                        "response_format": [
                            "type": "json_schema",
                            "json_schema": ["name": "x", "schema": ["not": [:]]],
                        ]
                    ], "response_format", "\"not\""
                ),
                (["guided_json": "{"], "guided_json", "not valid JSON"),
                (["guided_choice": "yes"], "guided_choice", "array of strings"),
                (["guided_choice": ["a"], "guided_regex": "b"], "guided_choice", "both"),
                (["structured_outputs": ["lark": "x"]], "lark", "lark"),
                (["guided_choice": ["a"], "ignore_eos": true], "ignore_eos", "ignore_eos"),
            ]
            for (more, parameter, part) in cases {
                let reply = try await server.post("/v1/chat/completions", chat(more))
                let error = try reply.json()["error"]
                #expect(reply.status == 400)
                #expect(error?["param"] == .string(parameter), "\(reply.body)")
                #expect(error?["message"]?.string?.contains(part) == true, "\(reply.body)")
            }
        }
    }

    /// Thoughts come first where the template leaves room for them, and are no part of the content.
    @Test func comeBehindThoughts() throws {
        var model = try exampleServed()
        let marks = try #require(ReasoningParser.all.first)
        model.chat?.reasoningParser = marks
        let form = AnswerForm.choice(["a"])
        #expect(
            model.behindThoughts(form, after: "assistant\n")
                == .after(begin: "<think>", end: "</think>", form))
        #expect(
            model.behindThoughts(form, after: "assistant\n<think>\n")
                == .after(begin: "", end: "</think>", form))
        #expect(model.behindThoughts(form, after: "<think>\n\n</think>\n\n") == form)
        model.chat?.reasoningParser = nil
        #expect(model.behindThoughts(form, after: "assistant\n") == form)
    }
}

@Suite("Server: without xgrammar")
struct MissingGrammarTests {
    @Test func constrainedAnswersSayWhatIsMissing() async throws {
        try await TestServer.with(ScriptedBackend.engine("Hi")) { server in
            let reply = try await server.post(
                "/v1/completions", ["prompt": "x", "guided_choice": ["a"]])
            #expect(reply.status == 501)
            let error = try reply.json()["error"]
            #expect(error?["code"] == "constraints_unavailable")
            #expect(error?["param"] == "guided_choice")
            let plain = try await server.post("/v1/completions", ["prompt": "x"])
            #expect(plain.status == 200)
        }
    }
}
