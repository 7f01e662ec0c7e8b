import MinimaCore
import MinimaRuntime
import Testing

@testable import MinimaServer

/// Answers of the example model over HTTP.
@Suite("Server: endpoints", .serialized)
struct EndpointTests {
    private func choice(_ body: JSON, _ index: Int = 0) throws -> JSON {
        try #require(body["choices"]?.array?[index])
    }

    @Test func modelsAndTokens() async throws {
        try await TestServer.with(exampleEngine()) { server in
            let models = try await server.get("/v1/models").json()
            #expect(models["data"]?.array?.count == 1)
            #expect(models["data"]?.array?[0]["id"] == "tiny")
            #expect(try await server.get("/v1/models/tiny%2Fmodel").status == 200)
            let missing = try await server.get("/v1/models/other")
            #expect(missing.status == 404)
            #expect(try missing.json()["error"]?["code"] == "model_not_found")

            let text = "Once upon a time, naïve 日本 🙂"
            let tokens = try await server.post("/tokenize", ["prompt": .string(text)]).json()
            #expect(tokens["count"]?.int == tokens["tokens"]?.array?.count)
            let back = try await server.post(
                "/detokenize", ["tokens": tokens["tokens"] ?? .null])
            #expect(try back.json()["prompt"] == .string(text))
            let chat = try await server.post(
                "/tokenize", ["messages": [["role": "user", "content": "Hi"]]]
            ).json()
            let ids = try #require(chat["tokens"]?.array)
            let spelt = try await server.post("/detokenize", ["tokens": .array(ids)]).json()
            #expect(
                spelt["prompt"] == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n")

            let info = try await server.get("/tokenizer_info").json()
            #expect(info["eos_token"] == "<|endoftext|>" && info["bos_token"] == .null)
            #expect(info["chat_template"]?.string?.contains("<|im_start|>") == true)

            let embeddings = try await server.post("/v1/embeddings", ["input": "x"])
            #expect(embeddings.status == 404)
            #expect(
                try embeddings.json()["error"]?["message"]?.string?.contains("no embeddings")
                    == true)
        }
    }

    /// What a client gets is what the engine gives for the same request.
    @Test func completionsAreTheEngines() async throws {
        let engine = try exampleEngine()
        let model = try exampleServed()
        let text = "Once upon a time"
        let prompt = try model.tokenizer.encode(text)
        try await TestServer.with(engine, model: model) { server in
            for (temperature, seed) in [(0.0, 0), (0.8, 7), (0.8, -3)] {
                let sampling = try SamplingParameters(
                    temperature: temperature, topP: 0.9, topK: 50,
                    seed: UInt64(bitPattern: Int64(seed)))
                let expected = try await engine.submit(
                    GenerationRequest(
                        prompt: prompt, maxTokens: 24, sampling: sampling, stop: model.stop)
                ).outcome
                let body: JSON = [
                    "model": "tiny", "prompt": .string(text), "max_tokens": 24,
                    "temperature": .number(temperature), "top_p": 0.9, "top_k": 50,
                    "seed": .integer(Int64(seed)),
                ]
                let answer = try await server.post("/v1/completions", body).json()
                #expect(try choice(answer)["text"] == .string(model.tokenizer.decode(expected.ids)))
                #expect(try choice(answer)["finish_reason"] == .string(expected.reason.name))
                #expect(answer["usage"]?["prompt_tokens"]?.int == prompt.count)
                #expect(answer["usage"]?["completion_tokens"]?.int == expected.ids.count)

                var ids = body
                if case .object(var members) = ids {
                    members["prompt"] = .array(prompt.map { .integer(Int64($0)) })
                    ids = .object(members)
                }
                let same = try await server.post("/v1/completions", ids).json()
                #expect(try choice(same)["text"] == choice(answer)["text"])
            }
            #expect(await server.becomesIdle())
        }
    }

    @Test func severalPromptsAndAnswers() async throws {
        try await TestServer.with(exampleEngine()) { server in
            let body: JSON = [
                "prompt": ["The cat", "A dog"], "n": 3, "max_tokens": 8, "seed": 1,
                "temperature": 1,
            ]
            let answer = try await server.post("/v1/completions", body).json()
            let choices = try #require(answer["choices"]?.array)
            #expect(choices.compactMap { $0["index"]?.int } == Array(0..<6))
            #expect(Set(choices.compactMap { $0["text"]?.string }).count > 3)
            let alone = try await server.post(
                "/v1/completions",
                ["prompt": "A dog", "max_tokens": 8, "seed": 1, "temperature": 1]
            ).json()
            #expect(try choice(alone)["text"] == choices[3]["text"])
        }
    }

    @Test func streamsAreTheWholeAnswerInPieces() async throws {
        try await TestServer.with(exampleEngine()) { server in
            for (path, prompt) in [
                ("/v1/completions", ("prompt", JSON.string("Once upon a time"))),
                (
                    "/v1/chat/completions",
                    ("messages", [["role": "user", "content": "Tell me a story"]])
                ),
            ] {
                var body: [String: JSON] = [
                    prompt.0: prompt.1, "max_tokens": 20, "seed": 5, "temperature": 0.7, "n": 2,
                ]
                func json(_ body: [String: JSON]) -> JSON {
                    .object(.init(uniqueKeysWithValues: body.map { (JSON.Name($0), $1) }))
                }
                let whole = try await server.post(path, json(body)).json()
                body["stream"] = true
                body["stream_options"] = ["include_usage": true]
                let stream = try await server.post(path, json(body))
                #expect(stream.headers["content-type"] == "text/event-stream; charset=utf-8")
                #expect(stream.body.hasSuffix("data: [DONE]\n\n"))
                var texts = ["", ""]
                var reasons: [String?] = [nil, nil]
                let events = try stream.events()
                for event in events.dropLast() {
                    #expect(event["usage"] == .null)
                    let choice = try choice(event)
                    let index = try #require(choice["index"]?.int)
                    #expect(reasons[index] == nil)
                    texts[index] +=
                        choice["text"]?.string ?? choice["delta"]?["content"]?.string ?? ""
                    reasons[index] = choice["finish_reason"]?.string
                }
                for index in 0..<2 {
                    let expected = try choice(whole, index)
                    let text = expected["text"] ?? expected["message"]?["content"]
                    #expect(text == .string(texts[index]))
                    #expect(expected["finish_reason"] == reasons[index].map { .string($0) })
                }
                #expect(events.last?["usage"] == whole["usage"])
                #expect(events.last?["choices"] == .array([]))
            }
        }
    }

    @Test func chatsGoThroughTheTemplate() async throws {
        try await TestServer.with(exampleEngine()) { server in
            let messages: JSON = [
                ["role": "developer", "content": "Be brief."],
                [
                    "role": "user",
                    "content": [
                        ["type": "text", "text": "Hi"], ["type": "text", "text": "there"],
                    ],
                ],
            ]
            let chat = try await server.post(
                "/v1/chat/completions",
                ["messages": messages, "max_completion_tokens": 12, "temperature": 0]
            ).json()
            let text = """
                <|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi\nthere<|im_end|>\n\
                <|im_start|>assistant\n
                """
            let plain = try await server.post(
                "/v1/completions",
                [
                    "prompt": .string(text), "max_tokens": 12, "temperature": 0,
                    "add_special_tokens": false,
                ]
            ).json()
            #expect(try choice(chat)["message"]?["content"] == choice(plain)["text"])
            #expect(try choice(chat)["message"]?["role"] == "assistant")
            #expect(chat["usage"] == plain["usage"])
            #expect(chat["object"] == "chat.completion")
        }
    }

    @Test func biasPenaltiesAndFilters() async throws {
        try await TestServer.with(exampleEngine()) { server in
            let always = try await server.post(
                "/v1/completions",
                [
                    "prompt": "The", "max_tokens": 5, "temperature": 0, "logit_bias": ["100": 100],
                    "logprobs": 0,
                ]
            ).json()
            let tokens = try choice(always)["logprobs"]?["tokens"]?.array
            #expect(Set(tokens ?? []).count == 1 && tokens?.count == 5)
            let penalised = try await server.post(
                "/v1/completions",
                [
                    "prompt": "The", "max_tokens": 12, "temperature": 0, "frequency_penalty": 2,
                    "presence_penalty": 2, "repetition_penalty": 100, "logprobs": 0,
                ]
            ).json()
            let others = try choice(penalised)["logprobs"]?["tokens"]?.array ?? []
            #expect(Set(others).count == others.count)
            let greedy = try await server.post(
                "/v1/completions", ["prompt": "The", "max_tokens": 8, "temperature": 0]
            ).json()
            let filters: [(String, JSON)] = [("top_k", 1), ("min_p", 1), ("top_p", 0)]
            for (name, value) in filters {
                let body: JSON = .object([
                    "prompt": "The", "max_tokens": 8, "temperature": 1, JSON.Name(name): value,
                ])
                let answer = try await server.post("/v1/completions", body).json()
                #expect(try choice(answer)["text"] == choice(greedy)["text"], "\(name)")
            }
        }
    }
}
