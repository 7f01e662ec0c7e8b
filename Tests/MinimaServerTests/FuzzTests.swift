import Foundation
import MinimaCore
import MinimaRuntime
import Testing

@testable import MinimaServer

/// Requests that nobody should send: each gets a status of 400 or so, a reason, and none reaches the
/// engine.
@Suite("Server: malformed requests", .serialized)
struct FuzzTests {
    /// A way to be wrong, and what the message must name.
    private static let completions: [(body: String, names: String)] = [
        ("", "JSON"), ("{", "JSON"), ("[]", "an array"), ("null", "null"), ("\"x\"", "a string"),
        ("{\"prompt\":\"x\",\"prompt\":\"y\"}", "JSON"), ("{\"prompt\":\"\\ud800\"}", "JSON"),
        (String(repeating: "[", count: 5000), "JSON"), ("{}", "prompt"),
        ("{\"prompt\":5}", "prompt"),
        ("{\"prompt\":null}", "prompt"), ("{\"prompt\":[]}", "prompt"),
        ("{\"prompt\":[true]}", "prompt"), ("{\"prompt\":[1,\"x\"]}", "prompt"),
        ("{\"prompt\":[\"x\",1]}", "prompt"), ("{\"prompt\":[8192]}", "8191"),
        ("{\"prompt\":[-1]}", "-1"), ("{\"prompt\":[1.5]}", "prompt"),
        ("{\"prompt\":[99999999999999999999]}", "prompt"),
        ("{\"prompt\":\"x\",\"model\":\"gpt-4\"}", "gpt-4"),
        ("{\"prompt\":\"x\",\"model\":7}", "model"),
        ("{\"prompt\":\"x\",\"max_tokens\":-1}", "max_tokens"),
        ("{\"prompt\":\"x\",\"max_tokens\":1e300}", "max_tokens"),
        ("{\"prompt\":\"x\",\"max_tokens\":\"5\"}", "max_tokens"),
        ("{\"prompt\":\"x\",\"max_tokens\":9223372036854775807}", "1024"),
        ("{\"prompt\":\"x\",\"temperature\":-1}", "temperature"),
        ("{\"prompt\":\"x\",\"temperature\":1e999}", "JSON"),
        ("{\"prompt\":\"x\",\"temperature\":\"hot\"}", "temperature"),
        ("{\"prompt\":\"x\",\"top_p\":1.5}", "top_p"), ("{\"prompt\":\"x\",\"top_k\":-2}", "top_k"),
        ("{\"prompt\":\"x\",\"min_p\":2}", "min_p"), ("{\"prompt\":\"x\",\"n\":0}", "n is 0"),
        ("{\"prompt\":\"x\",\"n\":100000}", "n is 100000"),
        ("{\"prompt\":[\"x\",\"y\"],\"n\":1000}", "2000"),
        ("{\"prompt\":\"x\",\"presence_penalty\":3}", "presence_penalty"),
        ("{\"prompt\":\"x\",\"frequency_penalty\":-3}", "frequency_penalty"),
        ("{\"prompt\":\"x\",\"repetition_penalty\":0}", "repetition_penalty"),
        ("{\"prompt\":\"x\",\"logit_bias\":{\"x\":1}}", "logit_bias"),
        ("{\"prompt\":\"x\",\"logit_bias\":{\"9999\":1}}", "9999"),
        ("{\"prompt\":\"x\",\"logit_bias\":{\"5\":101}}", "logit_bias"),
        ("{\"prompt\":\"x\",\"logit_bias\":[1]}", "logit_bias"),
        ("{\"prompt\":\"x\",\"logprobs\":21}", "logprobs"),
        ("{\"prompt\":\"x\",\"logprobs\":true}", "logprobs"),
        ("{\"prompt\":\"x\",\"seed\":1.5}", "seed"), ("{\"prompt\":\"x\",\"stop\":\"\"}", "stop"),
        ("{\"prompt\":\"x\",\"stop\":[1]}", "stop"), ("{\"prompt\":\"x\",\"stop\":{}}", "stop"),
        ("{\"prompt\":\"x\",\"stop_token_ids\":[9000]}", "9000"),
        ("{\"prompt\":\"x\",\"stream\":\"yes\"}", "stream"),
        ("{\"prompt\":\"x\",\"stream_options\":{\"include_usage\":true}}", "stream_options"),
        ("{\"prompt\":\"x\",\"echo\":1}", "echo"), ("{\"prompt\":\"x\",\"best_of\":4}", "best_of"),
        ("{\"prompt\":\"x\",\"suffix\":\"y\"}", "suffix"),
        ("{\"prompt\":\"x\",\"temprature\":1}", "temprature"),
        ("{\"prompt\":\"x\",\"guided_json\":5}", "guided_json"),
        ("{\"prompt\":\"x\",\"min_tokens\":-1}", "min_tokens"),
        ("{\"prompt\":\"x\",\"max_tokens\":4,\"min_tokens\":5}", "min_tokens"),
        ("{\"prompt\":\"x\",\"min_tokens\":9223372036854775807}", "min_tokens"),
        ("{\"prompt\":\"x\",\"bad_words\":[\"\"]}", "bad_words"),
        ("{\"prompt\":\"x\",\"allowed_token_ids\":[]}", "allowed_token_ids"),
        ("{\"prompt\":\"x\",\"allowed_token_ids\":[9000]}", "9000"),
        ("{\"prompt\":\"x\",\"truncate_prompt_tokens\":0}", "truncate_prompt_tokens"),
        ("{\"prompt\":\"x\",\"include_stop_str_in_output\":1}", "include_stop_str_in_output"),
    ]

    private static let chats: [(body: String, names: String)] = [
        ("{}", "messages"), ("{\"messages\":[]}", "messages"), ("{\"messages\":\"x\"}", "messages"),
        ("{\"messages\":[1]}", "messages[0]"), ("{\"messages\":[{}]}", "role"),
        ("{\"messages\":[{\"role\":\"user\"}]}", "content"),
        ("{\"messages\":[{\"role\":\"robot\",\"content\":\"x\"}]}", "robot"),
        ("{\"messages\":[{\"role\":\"user\",\"content\":5}]}", "content"),
        (
            "{\"messages\":[{\"role\":\"user\",\"content\":[{\"type\":\"image_url\"}]}]}",
            "text only"
        ),
        (
            "{\"messages\":[{\"role\":\"assistant\",\"content\":\"\",\"tool_calls\":[{}]}]}",
            "tool_calls"
        ),
    ]

    private static let chatParameters: [(body: String, names: String)] = [
        ("\"max_tokens\":0", "max_tokens"),
        ("\"max_completion_tokens\":0", "max_completion_tokens"),
        ("\"top_logprobs\":2", "top_logprobs"), ("\"logprobs\":3", "logprobs"),
        ("\"logprobs\":true,\"top_logprobs\":21", "top_logprobs"),
        ("\"tools\":[{\"type\":\"function\"}]", "tools"),
        ("\"tool_choice\":\"required\"", "tool_choice"),
        ("\"response_format\":{\"type\":\"xml\"}", "response_format"),
        ("\"chat_template_kwargs\":{\"messages\":[]}", "chat_template_kwargs"),
        ("\"chat_template_kwargs\":5", "chat_template_kwargs"), ("\"prompt\":\"x\"", "prompt"),
        ("\"max_tokens\":5000", "5000"), ("\"min_tokens\":5000", "min_tokens"),
        ("\"echo\":true", "echo"), ("\"reasoning_effort\":3", "reasoning_effort"),
    ]

    @Test func eachSaysWhatIsWrong() async throws {
        let engine = try ScriptedBackend.engine("never")
        let chat = "{\"messages\":[{\"role\":\"user\",\"content\":\"x\"}],"
        let cases =
            Self.completions.map { ("/v1/completions", $0.body, $0.names) }
            + Self.chats.map { ("/v1/chat/completions", $0.body, $0.names) }
            + Self.chatParameters.map { ("/v1/chat/completions", "\(chat)\($0.body)}", $0.names) }
        try await TestServer.with(engine) { server in
            for (path, body, names) in cases {
                let response = try await server.send("POST", path, body)
                let shown = String(body.prefix(80))
                #expect([400, 404].contains(response.status), "\(shown)")
                let error = try #require(try response.json()["error"])
                let message = try #require(error["message"]?.string)
                #expect(message.contains(names), "\(shown): \(message)")
                #expect(error["type"] == "invalid_request_error")
                #expect(error.object?.keys.map(\.text) == ["message", "type", "param", "code"])
            }
            #expect(engine.metrics.promptTokens == 0 && engine.metrics.finished.isEmpty)
        }
    }

    @Test func promptsBeyondTheContext() async throws {
        let engine = try ScriptedBackend.engine("never")
        try await TestServer.with(engine) { server in
            let long = JSON.array(Array(repeating: 7, count: 2000))
            let words = JSON.string(String(repeating: "word ", count: 3000))
            let bodies: [(String, JSON)] = [
                ("/v1/completions", ["prompt": long]),
                ("/v1/completions", ["prompt": words]),
                ("/v1/chat/completions", ["messages": [["role": "user", "content": words]]]),
                (
                    "/v1/completions",
                    ["prompt": .array(Array(repeating: 7, count: 1000)), "max_tokens": 100]
                ),
            ]
            for (path, body) in bodies {
                let response = try await server.post(path, body)
                #expect(response.status == 400)
                let error = try #require(try response.json()["error"])
                #expect(error["code"] == "context_length_exceeded")
                let message = error["message"]?.string ?? ""
                let numbers = message.split { !$0.isNumber }.compactMap { Int($0) }
                #expect(numbers.first == 1024 && numbers.dropFirst().reduce(0, +) > 1024)
            }
            #expect(engine.metrics.promptTokens == 0)
        }
    }

    @Test func addressesMethodsAndTypes() async throws {
        let engine = try ScriptedBackend.engine("never")
        let options = ServerOptions(maxBodyBytes: 10_000)
        try await TestServer.with(engine, options) { server in
            let body = "{\"prompt\":\"x\"}"
            let cases: [(method: String, path: String, headers: [String: String], status: Int)] = [
                ("GET", "/page", [:], 404), ("POST", "/", [:], 405),
                ("POST", "/v1/completion", [:], 404),
                ("GET", "/v1/completions", [:], 405), ("DELETE", "/v1/models", [:], 405),
                ("POST", "/health", [:], 405), ("POST", "/v1/embeddings", [:], 404),
                ("POST", "/v1/completions", ["Content-Type": "text/plain"], 415),
                (
                    "POST", "/v1/completions",
                    ["Content-Type": "application/x-www-form-urlencoded"], 415
                ),
                (
                    "POST", "/v1/completions", ["Content-Type": "application/json; charset=utf-8"],
                    200
                ),
            ]
            for (method, path, headers, status) in cases {
                let response = try await server.send(method, path, body, headers: headers)
                #expect(response.status == status, "\(method) \(path) \(headers)")
                if status != 200 { #expect(try response.json()["error"]?["message"] != nil) }
            }
            let port = server.port
            // Announced, and sent without announcement.
            let big = wireRequest("POST", "/v1/completions", String(repeating: "x", count: 20_000))
            let chunk = "1000\r\n" + String(repeating: "x", count: 4096) + "\r\n"
            let chunked =
                "POST /v1/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                + "Transfer-Encoding: chunked\r\n\r\n" + chunk + chunk + chunk + "0\r\n\r\n"
            for request in [big, chunked] {
                let response = try await blocking {
                    let wire = try Wire(port: port)
                    wire.send(request)
                    return try wire.response()
                }
                #expect(response.status == 413 && response.body.contains("10000"))
            }
            let waiting = try await blocking {
                let wire = try Wire(port: port)
                wire.send(
                    wireRequest(
                        "POST", "/v1/completions", "",
                        headers: [
                            "Expect": "100-continue", "Content-Length": "14",
                            "Content-Type": "application/json",
                        ]))
                _ = wire.receive(until: "100 Continue\r\n\r\n")
                wire.send(body)
                return try wire.response()
            }
            #expect(waiting.status == 200)
        }
    }

    /// Bytes that are no HTTP, or little of it, and requests cut short, end the connection only.
    @Test func bytes() async throws {
        let engine = try ScriptedBackend.engine("never")
        let options = ServerOptions(idleTimeout: .seconds(3))
        try await TestServer.with(engine, options) { server in
            let port = server.port
            let good = Array(wireRequest("POST", "/v1/completions", "{\"prompt\":\"x\"}").utf8)
            for seed in 0..<150 {
                var random = Numbers(seed: UInt64(seed))
                let kind = seed % 5
                let bytes: [UInt8] =
                    switch kind {
                    case 0: (0..<200).map { _ in UInt8.random(in: 0...255, using: &random) }
                    case 1: Array(good.prefix(Int.random(in: 0..<good.count, using: &random)))
                    case 2:
                        Array("POST /v1/completions HTTP/1.1\r\nContent-Length: -5\r\n\r\n".utf8)
                    default:
                        good.map {
                            Int.random(in: 0..<20, using: &random) == 0
                                ? UInt8.random(in: 0...255, using: &random) : $0
                        }
                    }
                _ = try await blocking {
                    let wire = try Wire(port: port)
                    wire.send(bytes)
                    // Half are looked at; the others are left at once.
                    if kind == 2 { _ = wire.receiveAll() }
                    wire.closeNow()
                    return true
                }
            }
            let after = try await server.post("/v1/completions", ["prompt": "x"])
            #expect(after.status == 200)
            // A request that stops in the middle is not waited for.
            let stopped = try await blocking {
                let wire = try Wire(port: port)
                wire.send("POST /v1/completions HTTP/1.1\r\nContent-Le")
                return wire.receiveAll()
            }
            #expect(!stopped.contains("200 OK"))
            #expect(await server.becomesIdle())
        }
    }

    /// Bodies made at random of names that the server knows: whatever they are, a proper answer comes.
    @Test func randomBodies() async throws {
        let engine = try ScriptedBackend.engine("a few words")
        try await TestServer.with(engine) { server in
            let names = AnswerParameters.names.union(ToolParameters.names).union([
                "prompt", "messages", "echo", "top_logprobs", "max_completion_tokens",
            ]).sorted()
            var random = Numbers(seed: 11)
            var good = 0
            for round in 0..<400 {
                let isChat = round % 2 == 0
                var members: [JSON.Name: JSON] =
                    isChat
                    ? ["messages": [["role": "user", "content": "x"]]] : ["prompt": "x"]
                for _ in 0..<Int.random(in: 0...3, using: &random) {
                    let name = names.randomElement(using: &random) ?? "n"
                    members[JSON.Name(name)] = Self.value(&random, depth: 0)
                }
                let body = JSON.object(.init(uniqueKeysWithValues: members.map { ($0, $1) }))
                let path = isChat ? "/v1/chat/completions" : "/v1/completions"
                let response = try await server.post(path, body)
                let shown = body.text(indent: nil).prefix(200)
                // Constrained answers need xgrammar, which this server has not.
                #expect(
                    [200, 400, 404, 501].contains(response.status), "\(response.status) \(shown)")
                if response.status == 200 { good += 1 }
            }
            #expect(good > 50)
            #expect(await server.becomesIdle())
        }
    }

    private static func value(_ random: inout Numbers, depth: Int) -> JSON {
        switch Int.random(in: 0..<(depth > 2 ? 6 : 8), using: &random) {
        case 0: .null
        case 1: .bool(.random(using: &random))
        case 2: .integer(Int64.random(in: -3...9, using: &random))
        case 3: .number(Double.random(in: -3...3, using: &random))
        case 4: .string(["", "x", "none", "auto", "a few"].randomElement(using: &random) ?? "")
        case 5: .integer(Int64.random(in: .min ... .max, using: &random))
        case 6: .array((0..<2).map { _ in value(&random, depth: depth + 1) })
        default: ["5": value(&random, depth: depth + 1), "type": "text"]
        }
    }
}

/// SplitMix64 (Steele, Lea & Flood 2014).
struct Numbers: RandomNumberGenerator {
    private var state: UInt64

    init(seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9E37_79B9_7F4A_7C15
        var bits = (state ^ (state >> 30)) &* 0xBF58_476D_1CE4_E5B9
        bits = (bits ^ (bits >> 27)) &* 0x94D0_49BB_1331_11EB
        return bits ^ (bits >> 31)
    }
}
