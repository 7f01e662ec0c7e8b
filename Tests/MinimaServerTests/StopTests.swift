import MinimaCore
import MinimaRuntime
import Testing

@testable import MinimaServer

/// Texts that end answers.
@Suite("Server: stop texts")
struct StopTests {
    /// What should come out: everything before the text that is complete first behind `begin` bytes.
    private func reference(
        _ text: String, _ stops: [String], from begin: Int
    ) -> (text: String, stop: String)? {
        let bytes = Array(text.utf8)
        let wanted = stops.map { Array($0.utf8) }
        for end in begin...bytes.count where end > begin {
            let complete = wanted.filter { bytes[..<end].reversed().starts(with: $0.reversed()) }
            guard let longest = complete.map(\.count).max() else { continue }
            return (
                String(decoding: bytes[..<(end - longest)], as: UTF8.self),
                String(decoding: bytes[(end - longest)..<end], as: UTF8.self)
            )
        }
        return nil
    }

    /// Wherever the text is cut, what comes out is the same and never the beginning of a stop, also where
    /// the first pieces cannot end it.
    @Test func anyCutsGiveTheSame() {
        var random = SystemRandomNumberGenerator()
        let letters = Array("aab\n日é")
        for _ in 0..<3000 {
            let text = String(
                (0..<Int.random(in: 0...14, using: &random)).map { _ in
                    letters.randomElement(using: &random) ?? "a"
                })
            let stops = (0..<Int.random(in: 0...3, using: &random)).map { _ in
                String(
                    (0..<Int.random(in: 1...4, using: &random)).map { _ in
                        letters.randomElement(using: &random) ?? "a"
                    })
            }
            let includes = Bool.random(using: &random)
            var matcher = StopMatcher(stops, includesFound: includes)
            var found = ""
            var (silent, begin) = (Int.random(in: -2...3, using: &random), 0)
            var rest = text.unicodeScalars[...]
            while !rest.isEmpty {
                let piece = rest.prefix(Int.random(in: 1...4, using: &random))
                rest = rest.dropFirst(piece.count)
                found += matcher.append(String(piece), mayEnd: silent <= 0)
                if silent > 0 { begin += String(piece).utf8.count }
                silent -= 1
                let isPrefix = text.utf8.starts(with: found.utf8)
                #expect(isPrefix)
            }
            found += matcher.finish()
            let end = reference(text, stops, from: begin)
            let expected = end.map { includes ? $0.text + $0.stop : $0.text } ?? text
            #expect(
                Array(found.utf8) == Array(expected.utf8), "\(text.debugDescription) \(stops)")
            #expect(matcher.hasMatched == (end != nil))
        }
    }

    /// Over HTTP: the stop lies across tokens, the answer ends and the engine's work with it.
    @Test(arguments: [false, true]) func acrossTokens(streams: Bool) async throws {
        let text = "one two three four five six seven eight nine ten"
        let engine = try ScriptedBackend.engine(text, stepTime: .milliseconds(1))
        try await TestServer.with(engine) { server in
            let body: JSON = [
                "prompt": "count", "max_tokens": 500, "stop": ["ree fo", "zzz"],
                "stream": .bool(streams),
            ]
            let response = try await server.post("/v1/completions", body)
            let events = streams ? try response.events() : [try response.json()]
            let choices = events.compactMap { $0["choices"]?.array?[0] }
            #expect(choices.compactMap { $0["text"]?.string }.joined() == "one two th")
            #expect(choices.last?["finish_reason"] == "stop")
            #expect(await server.becomesIdle())
            let unstopped = try await server.post(
                "/v1/completions", ["prompt": "count", "max_tokens": 500, "stop": "tend"]
            ).json()
            #expect(unstopped["choices"]?.array?[0]["text"] == .string(text))
            #expect(unstopped["choices"]?.array?[0]["finish_reason"] == "stop")
        }
    }

    /// A text ends an answer behind the tokens that it must have, also where it began among them.
    @Test func textsWaitForTheLeastTokens() async throws {
        let text = "one two three four five six seven eight nine ten"
        try await TestServer.with(ScriptedBackend.engine(text)) { server in
            let ids = try await server.post("/tokenize", ["prompt": .string(text)]).json()
            let count = try #require(ids["tokens"]?.array?.count)
            for least in 0..<count {
                let answer = try await server.post(
                    "/v1/completions",
                    [
                        "prompt": "count", "max_tokens": 500, "stop": " ",
                        "min_tokens": .integer(Int64(least)), "include_stop_str_in_output": true,
                    ]
                ).json()
                let begin = try await server.post(
                    "/detokenize", ["tokens": .array(Array(ids["tokens"]?.array?[..<least] ?? []))]
                ).json()["prompt"]?.string
                let place = try #require(begin?.utf8.count)
                let rest = text.dropFirst(place).prefix { $0 != " " }
                let expected = text.prefix(min(place + rest.count + 1, text.count))
                #expect(answer["choices"]?.array?[0]["text"] == .string(String(expected)))
            }
        }
    }

    /// A scalar whose bytes are spread over tokens comes out whole.
    @Test func streamedTextIsValid() async throws {
        let text = "Ünïcödé 日本語 🙂🙃 𝔘 end"
        try await TestServer.with(ScriptedBackend.engine(text)) { server in
            let events = try await server.post(
                "/v1/chat/completions",
                ["messages": [["role": "user", "content": "x"]], "stream": true]
            ).events()
            let pieces = events.compactMap {
                $0["choices"]?.array?[0]["delta"]?["content"]?.string
            }
            #expect(pieces.joined() == text)
            #expect(!pieces.contains { $0.contains("\u{FFFD}") })
        }
    }

    @Test func tokensThatEnd() async throws {
        let engine = try ScriptedBackend.engine("one two three")
        try await TestServer.with(engine) { server in
            let ids = try await server.post("/tokenize", ["prompt": "one two three"]).json()
            let second = try #require(ids["tokens"]?.array?[1])
            let answer = try await server.post(
                "/v1/completions",
                ["prompt": "x", "max_tokens": 9, "stop_token_ids": [second]]
            ).json()
            #expect(answer["usage"]?["completion_tokens"] == 1)
            #expect(answer["choices"]?.array?[0]["finish_reason"] == "stop")
            let on = try await server.post(
                "/v1/completions", ["prompt": "x", "max_tokens": 30, "ignore_eos": true]
            ).json()
            #expect(on["usage"]?["completion_tokens"] == 30)
            #expect(on["choices"]?.array?[0]["finish_reason"] == "length")
        }
    }
}
