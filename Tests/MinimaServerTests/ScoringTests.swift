import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTensor
import Testing

@testable import MinimaServer

/// Log-probabilities of prompts and answers.
@Suite("Server: log-probabilities", .serialized)
struct ScoringTests {
    /// Log-probabilities of `tokens` in one pass of the model, and each place's likeliest.
    private func reference(_ tokens: [Int32]) throws -> (own: [Float], best: [Float]) {
        let model = try Checkpoint(path: exampleModel).loadModel(device: .cpu, dtype: .float32)
        let ids = try Tensor(tokens.map { Int64($0) }, shape: [1, tokens.count])
        let all = try model.logits(model.run(ids)).select(0, 0).logSoftmax()
        let next = try Tensor(
            tokens.dropFirst().map { Int64($0) } + [0], shape: [tokens.count, 1])
        return (try all.gather(1, next).values(), try all.topK(1).values.values())
    }

    /// What lm-evaluation-harness's `local-completions` asks, and what it makes of the answer.
    @Test func evaluationHarness() async throws {
        let model = try exampleServed()
        let texts = ["Once upon a time there was a little girl", "The naïve 日本 dog. "]
        let prompts = try texts.map { try model.tokenizer.encode($0) }
        try await TestServer.with(exampleEngine()) { server in
            let body: JSON = [
                "model": "tiny", "temperature": 0, "max_tokens": 1, "logprobs": 1, "seed": 1234,
                "echo": true,
                "prompt": .array(prompts.map { .array($0.map { .integer(Int64($0)) }) }),
            ]
            let answer = try await server.post("/v1/completions", body).json()
            for (index, prompt) in prompts.enumerated() {
                let choice = try #require(answer["choices"]?.array?[index])
                let found = try #require(choice["logprobs"])
                let own = try #require(found["token_logprobs"]?.array)
                let top = try #require(found["top_logprobs"]?.array)
                #expect(own.count == prompt.count + 1 && top.count == own.count)
                #expect(own[0] == .null && top[0] == .null)
                let expected = try reference(prompt)
                // float32 sums of 192 products through 6 layers, relative to logits of about 10.
                let tolerance = Double(192 * DType.float32.epsilon * 10)
                for place in 1..<prompt.count {
                    let value = try #require(own[place].double)
                    let best = try #require(top[place].object?.values.compactMap(\.double).max())
                    #expect(abs(value - Double(expected.own[place - 1])) <= tolerance)
                    #expect(abs(best - Double(expected.best[place - 1])) <= tolerance)
                    // The harness compares numbers: a greedy token's must be the very largest.
                    #expect(
                        (value == best) == (expected.own[place - 1] == expected.best[place - 1]))
                }
                #expect(choice["text"]?.string?.hasPrefix(texts[index]) == true)
                let offsets = try #require(found["text_offset"]?.array).compactMap(\.int)
                #expect(offsets.count == own.count && offsets == offsets.sorted())
                #expect(offsets.last == texts[index].unicodeScalars.count)
            }
            #expect(await server.becomesIdle())
        }
    }

    @Test func echoAloneAndWithoutNewTokens() async throws {
        try await TestServer.with(exampleEngine()) { server in
            let echo = try await server.post(
                "/v1/completions",
                ["prompt": "The cat", "echo": true, "max_tokens": 0, "logprobs": 2]
            ).json()
            let choice = try #require(echo["choices"]?.array?[0])
            #expect(choice["text"] == "The cat" && choice["finish_reason"] == "length")
            #expect(echo["usage"]?["completion_tokens"] == 0)
            #expect(choice["logprobs"]?["tokens"] == ["The", " cat"])
            let stream = try await server.post(
                "/v1/completions",
                [
                    "prompt": "The cat", "echo": true, "max_tokens": 3, "stream": true,
                    "temperature": 0,
                ]
            ).events()
            let text = stream.compactMap { $0["choices"]?.array?[0]["text"]?.string }.joined()
            let whole = try await server.post(
                "/v1/completions", ["prompt": "The cat", "max_tokens": 3, "temperature": 0]
            ).json()
            #expect(
                text == "The cat" + (whole["choices"]?.array?[0]["text"]?.string ?? "none"))
            let many = try await server.post(
                "/v1/completions",
                [
                    "prompt": .array(
                        Array(repeating: .string("a b c d e f g h i j k l m n o p"), count: 1024)),
                    "echo": true, "logprobs": 20, "max_tokens": 1,
                ])
            let most = ServerOptions().maxPromptLogprobs
            #expect(many.status == 400 && many.body.contains("at most \(most)"))
        }
    }

    /// Clients count tokens from the end: an end token has its entry, though not its text.
    @Test func endTokensHaveLogProbabilities() async throws {
        let model = try exampleServed()
        let prompt = try model.tokenizer.encode("The cat")
        let end = try #require(model.tokenizer.specialTokens.end)
        let id = try #require(end.id)
        let expected = try reference(prompt + [id]).own[prompt.count - 1]
        try await TestServer.with(exampleEngine()) { server in
            for (echo, stream) in [(true, false), (false, false), (false, true)] {
                let body: JSON = [
                    "prompt": "The cat", "echo": .bool(echo), "stream": .bool(stream),
                    "logprobs": 1, "max_tokens": 4, "logit_bias": ["\(id)": 100],
                ]
                let answer = try await server.post("/v1/completions", body)
                let objects = stream ? try answer.events() : [try answer.json()]
                let choices = objects.compactMap { $0["choices"]?.array?.first }
                #expect(choices.last?["finish_reason"] == "stop")
                let text = choices.compactMap { $0["text"]?.string }.joined()
                #expect(text == (echo ? "The cat" : ""))
                let tokens = choices.flatMap { $0["logprobs"]?["tokens"]?.array ?? [] }
                #expect(tokens == (echo ? ["The", " cat"] : []) + [.string(end.text)])
                let last = choices.flatMap { $0["logprobs"]?["token_logprobs"]?.array ?? [] }.last
                let value = try #require(last?.double)
                // As in the test above.
                let tolerance = Double(192 * DType.float32.epsilon * 10)
                #expect(abs(value - Double(expected)) <= tolerance)
            }
        }
    }

    /// Tokens that are no UTF-8 by themselves have bytes all the same.
    @Test func bytesOfTokens() throws {
        let tokenizer = try exampleServed().tokenizer
        let json = AnswerJSON(texts: TokenTexts(tokenizer: tokenizer))
        let ids = try tokenizer.encode("日本 🙂", addSpecialTokens: false)
        let entries = json.chat(
            ids.map { ScoredToken(id: $0, logprob: -1, alternatives: [], offset: 0) })
        let tokens = try #require(entries["content"]?.array)
        let bytes = tokens.flatMap { $0["bytes"]?.array ?? [] }.compactMap(\.int)
        #expect(bytes == "日本 🙂".utf8.map { Int($0) })
        #expect(tokens.contains { $0["token"]?.string?.contains("\u{FFFD}") == true })
    }

    @Test func chatLogprobs() async throws {
        try await TestServer.with(exampleEngine()) { server in
            var body: [JSON.Name: JSON] = [
                "messages": [["role": "user", "content": "Tell me a story"]],
                "max_tokens": 6, "temperature": 0, "logprobs": true, "top_logprobs": 3,
            ]
            func json() -> JSON { .object(.init(uniqueKeysWithValues: body.map { ($0, $1) })) }
            let whole = try await server.post("/v1/chat/completions", json()).json()
            let content = try #require(whole["choices"]?.array?[0]["logprobs"]?["content"]?.array)
            #expect(content.count == whole["usage"]?["completion_tokens"]?.int)
            var text = ""
            for token in content {
                text += token["token"]?.string ?? ""
                let top = try #require(token["top_logprobs"]?.array)
                #expect(top.count == 3 && top[0]["token"] == token["token"])
                #expect(top[0]["logprob"] == token["logprob"])
            }
            #expect(whole["choices"]?.array?[0]["message"]?["content"] == .string(text))
            body["stream"] = true
            let stream = try await server.post("/v1/chat/completions", json()).events()
            let streamed = stream.flatMap {
                $0["choices"]?.array?[0]["logprobs"]?["content"]?.array ?? []
            }
            #expect(streamed == content)
        }
    }
}
