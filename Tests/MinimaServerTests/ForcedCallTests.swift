import MinimaCore
import Testing

@testable import MinimaServer

/// Calls that a request forces, or whose arguments must follow a schema, of a model that would never
/// make them.
@Suite("Server: forced calls", .serialized, .enabled(if: grammarPackages != nil))
struct ForcedCallTests {
    private static let tools: JSON = [
        [
            "type": "function",
            "function": [
                "name": "get_weather", "strict": true,
                "parameters": [
                    "type": "object",
                    "properties": [
                        "place": ["enum": ["Ulm", "Köln \"Süd\""]],
                        "days": ["type": "integer", "minimum": 1, "maximum": 9],
                    ],
                    "required": ["place", "days"], "additionalProperties": false,
                ],
            ],
        ], ["type": "function", "function": ["name": "now"]],
    ]

    private static func check(_ call: JSON) throws {
        let text = try #require(call["function"]?["arguments"]?.string)
        let arguments = try #require(try JSON(parsing: text).object, "\(text)")
        switch call["function"]?["name"] {
        case "now": #expect(arguments.isEmpty)
        case "get_weather":
            #expect(Set(arguments.keys.map(\.text)) == ["place", "days"])
            #expect(["Ulm", "Köln \"Süd\""].contains(arguments["place"]))
            #expect((1...9).contains(arguments["days"]?.int ?? 0))
        default: Issue.record("\(call) calls no function")
        }
    }

    @Test(arguments: ToolParser.all.map(\.name)) func everyForm(name: String) async throws {
        var chat = try ToolScript.chat("chatml-tools", parser: name)
        chat.reasoningParser = nil
        let model = try ToolScript.model(chat)
        let options = ServerOptions(packageFolders: grammarPackages ?? [])
        let engine = try exampleEngine()
        try await TestServer.with(engine, options, model: model) { server in
            let choices: [JSON] = [
                "required", ["type": "function", "function": ["name": "get_weather"]],
                ["type": "function", "function": ["name": "now"]],
            ]
            for (place, choice) in choices.enumerated() {
                let response = try await server.post(
                    "/v1/chat/completions",
                    [
                        "messages": [ToolScript.question], "tools": Self.tools,
                        "tool_choice": choice, "seed": .integer(Int64(place)),
                        "parallel_tool_calls": false, "max_tokens": 400, "temperature": 0.5,
                    ])
                #expect(response.status == 200, "\(response.body)")
                let answer = try #require(try response.json()["choices"]?.array?[0])
                #expect(answer["finish_reason"] == "tool_calls", "\(response.body)")
                #expect(answer["message"]?["content"] == .null)
                let calls = try #require(answer["message"]?["tool_calls"]?.array)
                #expect(calls.count == 1)
                for call in calls { try Self.check(call) }
                let named = [nil, "get_weather", "now"][place]
                if let named { #expect(calls[0]["function"]?["name"] == .string(named)) }
            }
            #expect(await server.becomesIdle())
        }
    }

    /// Thoughts come before a forced call; content of a form goes with no forced call.
    @Test func withThoughtsAndForms() async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        let options = ServerOptions(packageFolders: grammarPackages ?? [])
        let engine = try exampleEngine()
        try await TestServer.with(engine, options, model: model) { server in
            var body: JSON = [
                "messages": [ToolScript.question], "tools": Self.tools, "tool_choice": "required",
                "parallel_tool_calls": false, "max_tokens": 400, "temperature": 0,
                "chat_template_kwargs": ["enable_thinking": false],
            ]
            let forced = try await server.post("/v1/chat/completions", body).json()
            let message = forced["choices"]?.array?[0]["message"]
            #expect(message?["tool_calls"]?.array?.count == 1 && message?["content"] == .null)
            guard case .object(var members) = body else { return }
            members["response_format"] = ["type": "json_object"]
            body = .object(members)
            let both = try await server.post("/v1/chat/completions", body)
            #expect(both.status == 400 && both.body.contains("tool_choice"))
            // A strict function leaves the model free to answer in words.
            members["response_format"] = nil
            members["tool_choice"] = "auto"
            members["max_tokens"] = 8
            body = .object(members)
            let free = try await server.post("/v1/chat/completions", body).json()
            let text = free["choices"]?.array?[0]["message"]?["content"]?.string ?? ""
            #expect(!text.isEmpty && !text.contains("{\"name\""))
            // With a form the answer is content of it, or a call.
            members["response_format"] = [
                "type": "json_schema",
                "json_schema": ["name": "yes", "schema": ["enum": ["yes", "no"]]],
            ]
            members["max_tokens"] = 400
            body = .object(members)
            let either = try await server.post("/v1/chat/completions", body).json()
            let answer = try #require(either["choices"]?.array?[0]["message"])
            if let calls = answer["tool_calls"]?.array {
                for call in calls { try Self.check(call) }
            } else {
                #expect(["\"yes\"", "\"no\""].contains(answer["content"]))
            }
            #expect(await server.becomesIdle())
        }
    }
}
