import MinimaCore
import Testing

@testable import MinimaServer

@Suite("Server: prompts that begin alike")
struct ServerPrefixTests {
    /// 150 tokens hold two whole pages of 64, which the second request finds; the choices of one prompt
    /// share what the first of them computes, and another salt finds nothing.
    @Test func cachedTokensAreTold() async throws {
        try await TestServer.with(exampleEngine()) { server in
            func answer(_ choices: Int = 1, salt: String = "") async throws -> JSON {
                let body: JSON = [
                    "prompt": .array((0..<150).map { .integer(Int64(300 + $0 * 7 % 200)) }),
                    "max_tokens": 3, "temperature": 0, "n": .integer(Int64(choices)),
                    "cache_salt": .string(salt),
                ]
                return try await server.post("/v1/completions", body).json()
            }
            func text(_ answer: JSON) -> JSON? { answer["choices"]?.array?.first?["text"] }
            func cached(_ answer: JSON) -> Int? {
                answer["usage"]?["prompt_tokens_details"]?["cached_tokens"]?.int
            }
            let first = try await answer(2)
            #expect(cached(first) == 0)
            let second = try await answer()
            #expect(cached(second) == 128)
            #expect(text(second) != nil && text(second) == text(first))
            #expect(try await cached(answer(salt: "mine")) == 0)
            #expect(try await cached(answer(salt: "mine")) == 128)
            let refused = try await server.post(
                "/v1/completions", ["prompt": "x", "cache_salt": 3])
            #expect(refused.status == 400)
            #expect(await server.becomesIdle())
            // The second of two choices counts here.
            let page = try await server.get("/metrics").body
            #expect(page.contains("\nminima_cached_tokens_total 384\n"))
        }
    }
}
