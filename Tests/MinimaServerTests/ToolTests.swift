import Foundation
import MinimaCore
import MinimaRuntime
import MinimaTemplate
import MinimaTestSupport
import MinimaTokenizer
import Testing

@testable import MinimaServer

/// A model whose template knows tools, and an engine that writes what a test wants.
enum ToolScript {
    /// A template of the template tests.
    static func chat(
        _ name: String, parser: String? = nil
    ) throws -> ServedModel.Chat {
        let folder = "\(packageFolder())/Tests/Goldens/template/templates"
        let source = try String(contentsOfFile: "\(folder)/\(name).jinja", encoding: .utf8)
        var chat = ServedModel.Chat(
            template: try ChatTemplate(source: source),
            variables: ["bos_token": "", "eos_token": "<|im_end|>"])
        if let parser { chat.toolParser = ToolParser.all.first { $0.name == parser } }
        return chat
    }

    static func model(_ chat: ServedModel.Chat) throws -> ServedModel {
        var model = try exampleServed()
        model.chat = chat
        return model
    }

    /// An engine that writes the answer to a prompt.
    static func engine(
        _ answer: @escaping @Sendable (_ prompt: String) -> String
    ) throws -> Engine {
        let tokenizer = try Tokenizer(directory: exampleModel)
        return try Engine(EngineOptions()) {
            ScriptedBackend { start, count in
                let prompt = start.tokens.prefix(start.promptCount)
                let text = answer(tokenizer.decode(prompt, skipSpecialTokens: false))
                let ids = try tokenizer.encode(text, addSpecialTokens: false)
                return count < ids.count ? ids[count] : 0
            }
        }
    }

    static let tools: JSON = [
        [
            "type": "function",
            "function": [
                "name": "get_weather", "description": "The weather at a place", "strict": true,
                "parameters": [
                    "type": "object", "properties": ["place": ["type": "string"]],
                    "required": ["place"], "additionalProperties": false,
                ],
            ],
        ], ["type": "function", "function": ["name": "now"]],
    ]

    static let question: JSON = ["role": "user", "content": "And the weather?"]
}

/// Calls of functions over HTTP.
@Suite("Server: tools", .serialized)
struct ToolTests {
    private static let answer =
        "<think>\nUlm and the time.\n</think>\n\nLet me see.\n<tool_call>\n"
        + "{\"name\": \"get_weather\", \"arguments\": {\"place\":  \"Ülm\"}}\n</tool_call>\n"
        + "<tool_call>\n{\"name\": \"now\", \"arguments\": {}}\n</tool_call>"

    private func choice(_ body: JSON) throws -> JSON { try #require(body["choices"]?.array?[0]) }

    /// The message that a stream's deltas add up to, and its reason to end.
    private func sum(_ events: [JSON]) throws -> (message: AnswerMessage, reason: String?) {
        var message = AnswerMessage()
        var reason: String?
        for event in events {
            guard let choice = event["choices"]?.array?.first else { continue }
            #expect(reason == nil, "nothing comes after the reason")
            let delta = try #require(choice["delta"])
            if let text = delta["reasoning_content"]?.string { message.add(.reasoning(text)) }
            if let text = delta["content"]?.string { message.add(.content(text)) }
            for call in delta["tool_calls"]?.array ?? [] {
                let index = try #require(call["index"]?.int)
                if let id = call["id"]?.string {
                    #expect(index == message.calls.count && call["type"] == "function")
                    let name = try #require(call["function"]?["name"]?.string)
                    message.add(.call(index: index, id: id, name: name))
                }
                let arguments = try #require(call["function"]?["arguments"]?.string)
                message.add(.arguments(index: index, arguments))
            }
            reason = choice["finish_reason"]?.string
        }
        return (message, reason)
    }

    @Test func callsAreTold() async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        try await TestServer.with(ToolScript.engine { _ in Self.answer }, model: model) { server in
            var body: [String: JSON] = [
                "messages": [ToolScript.question], "tools": ToolScript.tools,
            ]
            func json() -> JSON {
                .object(.init(uniqueKeysWithValues: body.map { (JSON.Name($0), $1) }))
            }
            let whole = try choice(try await server.post("/v1/chat/completions", json()).json())
            #expect(whole["finish_reason"] == "tool_calls")
            let message = try #require(whole["message"])
            #expect(message["content"] == "Let me see.")
            #expect(message["reasoning_content"] == "Ulm and the time.")
            let calls = try #require(message["tool_calls"]?.array)
            #expect(calls.map { $0["function"]?["name"] } == ["get_weather", "now"])
            #expect(calls[0]["function"]?["arguments"] == "{\"place\":  \"Ülm\"}")
            #expect(calls.allSatisfy { $0["type"] == "function" && $0["id"]?.string != nil })
            body["stream"] = true
            let events = try await server.post("/v1/chat/completions", json()).events()
            #expect(events.first?["choices"]?.array?[0]["delta"]?["content"] == .null)
            var (sum, reason) = try sum(events)
            #expect(reason == "tool_calls")
            for (index, call) in calls.enumerated() {
                sum.calls[index].id = call["id"]?.string ?? ""
            }
            #expect(sum.json(withReasoning: true) == message)
            // Pieces of arguments as they come, not in one.
            #expect(
                events.count { $0["choices"]?.array?[0]["delta"]?["tool_calls"] != nil } > 4)
            body["parallel_tool_calls"] = false
            body["stream"] = false
            let single = try choice(try await server.post("/v1/chat/completions", json()).json())
            #expect(single["message"]?["tool_calls"]?.array?.count == 1)
            #expect(single["finish_reason"] == "tool_calls")
            #expect(await server.becomesIdle())
        }
    }

    /// Without tools, or told to make no call, the model is told of none, and what it writes is text.
    @Test func noneAreOffered() async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        let engine = try ToolScript.engine { prompt in
            prompt.contains("get_weather") ? "with tools" : "<tool_call>{\"name\": \"now\"}"
        }
        try await TestServer.with(engine, model: model) { server in
            for more: [JSON.Name: JSON] in [
                [:], ["tools": []], ["tools": ToolScript.tools, "tool_choice": "none"],
            ] {
                var body: JSON = ["messages": [ToolScript.question]]
                if case .object(var members) = body {
                    members.merge(more) { $1 }
                    body = .object(members)
                }
                let answer = try choice(try await server.post("/v1/chat/completions", body).json())
                #expect(answer["message"]?["content"] == "<tool_call>{\"name\": \"now\"}")
                #expect(answer["message"]?["tool_calls"] == nil)
                #expect(answer["finish_reason"] == "stop")
            }
        }
    }

    /// Thoughts, with tools or without, and a template that is told to leave them out.
    @Test func thoughtsAreApart() async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        let engine = try ToolScript.engine { prompt in
            prompt.hasSuffix("<think>\n\n</think>\n\n")
                ? "Yes.\n" : "<think>\nHm?\n</think>\n\nYes.\n"
        }
        try await TestServer.with(engine, model: model) { server in
            for thinks in [true, false] {
                for streams in [true, false] {
                    let response = try await server.post(
                        "/v1/chat/completions",
                        [
                            "messages": [ToolScript.question], "stream": .bool(streams),
                            "chat_template_kwargs": ["enable_thinking": .bool(thinks)],
                        ])
                    var message = AnswerMessage()
                    if streams {
                        message = try sum(try response.events()).message
                    } else {
                        let found = try choice(try response.json())["message"]
                        message.content = found?["content"]?.string ?? ""
                        message.reasoning = found?["reasoning_content"]?.string ?? ""
                        #expect(found?.object?.keys.contains("reasoning_content") == true)
                    }
                    #expect(message.content == "Yes.\n")
                    #expect(message.reasoning == (thinks ? "Hm?" : ""))
                }
            }
        }
    }

    /// A length limit in the middle of a call: what there is of it, and the reason is the length.
    @Test(arguments: [false, true]) func cutShort(streams: Bool) async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        let text =
            "<tool_call>{\"name\": \"get_weather\", \"arguments\": {\"place\": \"Ulm in Germany\"}}"
        let tokenizer = try Tokenizer(directory: exampleModel)
        let count = try tokenizer.encode(text, addSpecialTokens: false).count
        try await TestServer.with(ToolScript.engine { _ in text }, model: model) { server in
            for limit in stride(from: 1, to: count, by: 3) {
                let response = try await server.post(
                    "/v1/chat/completions",
                    [
                        "messages": [ToolScript.question], "tools": ToolScript.tools,
                        "max_tokens": .integer(Int64(limit)), "stream": .bool(streams),
                    ])
                let told: String
                if streams {
                    let (message, reason) = try sum(try response.events())
                    told = message.content + (message.calls.first?.arguments ?? "")
                    #expect(reason == "length")
                } else {
                    let answer = try choice(try response.json())
                    let message = try #require(answer["message"])
                    told =
                        (message["content"]?.string ?? "")
                        + (message["tool_calls"]?.array?[0]["function"]?["arguments"]?.string ?? "")
                    #expect(answer["finish_reason"] == "length")
                }
                #expect(!told.isEmpty && text.contains(told), "\(limit): \(told)")
            }
        }
    }

    /// Log-probabilities have all tokens, those of calls too.
    @Test func logprobsHaveAllTokens() async throws {
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        try await TestServer.with(ToolScript.engine { _ in Self.answer }, model: model) { server in
            for streams in [false, true] {
                let response = try await server.post(
                    "/v1/chat/completions",
                    [
                        "messages": [ToolScript.question], "tools": ToolScript.tools,
                        "logprobs": true, "stream": .bool(streams),
                    ])
                let events = streams ? try response.events() : [try response.json()]
                let texts = events.flatMap {
                    $0["choices"]?.array?[0]["logprobs"]?["content"]?.array ?? []
                }.compactMap { $0["bytes"]?.array }
                let bytes = texts.joined().compactMap(\.int).map(UInt8.init)
                let whole = String(decoding: bytes, as: UTF8.self)
                #expect(whole.hasSuffix("\"arguments\": {}}\n</tool_call>"), "\(whole)")
            }
        }
    }

    /// Marks that are special tokens are seen by the parsers and by nobody else.
    @Test func specialMarks() throws {
        let model = try exampleServed()
        let ids = try model.tokenizer.encode("<|im_start|>a<|im_end|>b", addSpecialTokens: false)
        let mark = try #require(model.tokenizer.id(for: "<|im_start|>"))
        var stream = model.tokenizer.makeStream(keeping: [mark])
        #expect(ids.map { stream.append($0) }.joined() + stream.finish() == "<|im_start|>ab")
        var plain = model.tokenizer.makeStream()
        #expect(ids.map { plain.append($0) }.joined() + plain.finish() == "ab")
    }

    // MARK: Conversations

    /// What models are told: tools without what is meant for the server, arguments as objects, results.
    @Test func templatesGetAllOfIt() throws {
        let messages: JSON = [
            ToolScript.question,
            [
                "role": "assistant", "content": nil, "reasoning_content": "Look.",
                "tool_calls": [
                    [
                        "id": "abcdefghi", "type": "function",
                        "function": ["name": "get_weather", "arguments": "{\"place\":\"Ulm\"}"],
                    ],
                    ["id": "b23456789", "function": ["name": "now", "arguments": ""]],
                ],
            ],
            ["role": "tool", "tool_call_id": "b23456789", "content": "12:00"],
            [
                "role": "tool", "tool_call_id": "abcdefghi",
                "content": [["type": "text", "text": "rain"]],
            ],
        ]
        func prompt(_ name: String, _ parser: String?) throws -> String {
            let fields = try RequestFields(["messages": messages, "tools": ToolScript.tools])
            return try ChatRequest.prompt(
                fields, ToolParameters(fields),
                ToolScript.model(ToolScript.chat(name, parser: parser))
            ).text
        }
        #expect(
            try prompt("chatml-tools", nil) == """
                <|im_start|>system
                These tools are at hand:
                <tools>
                {"type": "function", "function": {"name": "get_weather", "description": "The weather \
                at a place", "parameters": {"type": "object", "properties": {"place": {"type": \
                "string"}}, "required": ["place"], "additionalProperties": false}}}
                {"type": "function", "function": {"name": "now", "parameters": {"type": "object", \
                "properties": {}}}}
                </tools>
                Call one as <tool_call>{"name": …, "arguments": {…}}</tool_call>.<|im_end|>
                <|im_start|>user
                And the weather?<|im_end|>
                <|im_start|>assistant
                <think>
                Look.
                </think>

                <tool_call>
                {"name": "get_weather", "arguments": {"place": "Ulm"}}
                </tool_call>
                <tool_call>
                {"name": "now", "arguments": {}}
                </tool_call><|im_end|>
                <|im_start|>user
                <tool_response>
                12:00
                </tool_response>
                <tool_response>
                rain
                </tool_response><|im_end|>
                <|im_start|>assistant

                """)
        #expect(
            try prompt("brackets-ids", "mistral").contains(
                #"[CALLS][{"name": "get_weather", "arguments": {"place": "Ulm"}, "id": "abcdefghi"}"#
            ))
        #expect(throws: APIError.self) { try prompt("headers-dated", "llama3_json") }
    }

    /// Each way to be wrong gets a 400 that names the place, and nothing reaches the engine.
    @Test func whatIsRefused() async throws {
        let function = #"{"type":"function","function":{"name":"f"}}"#
        func call(_ id: String, _ arguments: String) -> String {
            #"{"role":"assistant","tool_calls":[{"id":\#(id),"type":"function","#
                + #""function":{"name":"f","arguments":\#(arguments)}}]}"#
        }
        let user = #"{"role":"user","content":"x"}"#
        let tool = #"{"role":"tool","tool_call_id":"a","content":"x"}"#
        let parameters = [
            (#""tools":{}"#, "tools is an object"), (#""tools":[5]"#, "tools[0]"),
            (#""tools":[{"type":"custom","custom":{"name":"f"}}]"#, "tools[0]"),
            (#""tools":[{"type":"function"}]"#, "tools[0]"),
            (#""tools":[{"type":"function","function":{}}]"#, "tools[0].function.name"),
            (
                #""tools":[{"type":"function","function":{"name":"a b"}}]"#,
                "tools[0].function.name"
            ),
            (
                #""tools":[{"type":"function","function":{"name":"\#(String(repeating: "a", count: 65))"}}]"#,
                "1 to 64"
            ),
            (#""tools":[\#(function),\#(function)]"#, "twice"),
            (
                #""tools":[{"type":"function","function":{"name":"f","parameters":[]}}]"#,
                "parameters"
            ),
            (
                #""tools":[{"type":"function","function":{"name":"f","parameters":{"type":"array"}}}]"#,
                "must be \"object\""
            ),
            (
                #""tools":[{"type":"function","function":{"name":"f","strict":1}}]"#,
                "strict"
            ),
            (
                #""tools":[{"type":"function","function":{"name":"f","description":1}}]"#,
                "description"
            ),
            (
                #""tools":[\#(Array(repeating: function, count: 129).joined(separator: ","))]"#,
                "129"
            ),
            (
                #""tools":[{"type":"function","function":{"name":"f","description":"\#(String(repeating: "a", count: 1 << 20))"}}]"#,
                "bytes"
            ),
            (#""tool_choice":"required""#, "no tools"),
            (#""tools":[\#(function)],"tool_choice":"maybe""#, "tool_choice"),
            (
                #""tools":[\#(function)],"tool_choice":{"type":"function","function":{"name":"g"}}"#,
                "\"g\""
            ),
            (#""tools":[\#(function)],"parallel_tool_calls":1"#, "parallel_tool_calls"),
            (#""functions":[{"name":"f"}]"#, "older form of tools"),
            (#""function_call":"auto""#, "older form of tool_choice"),
        ]
        let conversations = [
            ("\(user),\(tool)", "messages[1].tool_call_id"),
            ("\(user),\(call("\"b\"", "\"{}\"")),\(tool)", "messages[2].tool_call_id"),
            (
                #"{"role":"tool","content":"x"}"#, "messages[0].tool_call_id"
            ),
            (call("5", "\"{}\""), "messages[0].tool_calls[0].id"),
            (call("\"\"", "\"{}\""), "messages[0].tool_calls[0].id"),
            (call("\"a\"", "\"{\""), "messages[0].tool_calls[0].function.arguments"),
            (call("\"a\"", "\"[]\""), "messages[0].tool_calls[0].function.arguments"),
            (call("\"a\"", "5"), "messages[0].tool_calls[0].function.arguments"),
            (#"{"role":"assistant","tool_calls":[{}]}"#, "messages[0].tool_calls[0]"),
            (#"{"role":"assistant","tool_calls":{}}"#, "messages[0].tool_calls"),
            (#"{"role":"assistant","tool_calls":[]}"#, "messages[0].content"),
            (#"{"role":"user","content":"x","tool_calls":[{}]}"#, "role assistant"),
            (#"{"role":"user","content":"x","tool_call_id":"a"}"#, "the role tool"),
            (#"{"role":"assistant","content":"x","function_call":{}}"#, "function_call"),
            (#"{"role":"assistant","content":"x","reasoning_content":5}"#, "reasoning_content"),
        ]
        let engine = try ScriptedBackend.engine("never")
        let model = try ToolScript.model(ToolScript.chat("chatml-tools"))
        try await TestServer.with(engine, model: model) { server in
            let bodies =
                parameters.map { (#"{"messages":[\#(user)],\#($0)}"#, $1) }
                + conversations.map { (#"{"messages":[\#($0)]}"#, $1) }
            for (body, names) in bodies {
                let response = try await server.send("POST", "/v1/chat/completions", body)
                #expect(response.status == 400, "\(body.prefix(200))")
                let message = try response.json()["error"]?["message"]?.string ?? ""
                #expect(message.contains(names), "\(body.prefix(200)): \(message)")
            }
            #expect(engine.metrics.promptTokens == 0)
        }
        // A template without tools, and one whose calls nobody could read.
        let plain = try ScriptedBackend.engine("never")
        let asks: JSON = ["messages": [ToolScript.question], "tools": ToolScript.tools]
        try await TestServer.with(plain) { server in
            let response = try await server.post("/v1/chat/completions", asks)
            #expect(
                response.status == 400 && response.body.contains("chat template knows no tools"))
        }
        let unread = try ToolScript.model(ToolScript.chat("harmony-types"))
        try await TestServer.with(ScriptedBackend.engine("never"), model: unread) { server in
            let response = try await server.post("/v1/chat/completions", asks)
            #expect(response.status == 400 && response.body.contains("--tool-parser"))
        }
    }
}
