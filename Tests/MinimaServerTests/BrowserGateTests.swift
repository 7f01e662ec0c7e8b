import MinimaCore
import Testing

@testable import MinimaServer

/// Which pages in browsers are answered.
@Suite("Server: requests of browsers")
struct BrowserGateTests {
    private func gate(
        host: String = "127.0.0.1", keys: Bool = false, allowed: [String] = []
    ) throws -> BrowserGate {
        BrowserGate(
            ServerOptions(
                host: host, keys: keys ? [APIKey("k")] : [],
                allowedOrigins: try allowed.map { try AllowedOrigin($0) }), machine: "box.corp.net")
    }

    /// Names under which the server's own page may be open without more.
    private let own = [
        "127.0.0.1:8000", "localhost:8000", "[::1]:8000", "192.168.0.7", "box.corp.net:8000", "box",
        "app.localhost:8000", "host.docker.internal:8000", "LOCALHOST:8000", "localhost.:8000",
    ]
    /// Names that anyone can give any address.
    private let foreign = ["evil.example:8000", "evil.example", "127.0.0.1.evil.example:8000"]

    @Test func ownPages() throws {
        for host in own {
            #expect(try gate().judge(origin: nil, host: host) == .own, "\(host)")
            #expect(try gate().judge(origin: "http://\(host)", host: host) == .own, "\(host)")
        }
        // HTTP/1.0 has no Host, and no browser speaks it.
        #expect(try gate().judge(origin: nil, host: nil) == .own)
    }

    @Test(arguments: ["127.0.0.1", "localhost", "::1"]) func reboundNames(address: String) throws {
        for host in foreign {
            let origin = "http://\(host)"
            #expect(try gate(host: address).judge(origin: nil, host: host) == .refused(origin))
            #expect(try gate(host: address).judge(origin: origin, host: host) == .refused(origin))
        }
    }

    /// A server for a network is reached by names that it does not know; pages are told apart still.
    @Test func networks() throws {
        let open = try gate(host: "0.0.0.0")
        #expect(open.judge(origin: nil, host: "gpu.corp.net:8000") == .own)
        #expect(
            open.judge(origin: "http://evil.example", host: "evil.example")
                == .refused("http://evil.example"))
        #expect(open.judge(origin: "http://10.0.0.4:8000", host: "10.0.0.4:8000") == .own)
        let named = try gate(host: "gpu.corp.net")
        #expect(
            named.judge(origin: "http://gpu.corp.net:8000", host: "gpu.corp.net:8000") == .own)
    }

    /// Who has a key is no stranger, under whatever name; other sites' pages stay out.
    @Test func keys() throws {
        let keyed = try gate(keys: true)
        #expect(keyed.judge(origin: "https://chat.example", host: "chat.example") == .own)
        #expect(keyed.judge(origin: nil, host: "chat.example") == .own)
        #expect(
            keyed.judge(origin: "https://evil.example", host: "chat.example")
                == .refused("https://evil.example"))
    }

    @Test func otherSites() throws {
        for origin in [
            "http://evil.example", "http://localhost:3000", "http://127.0.0.1:8001", "null", "",
            "chrome-extension://abcdef", "http://127.0.0.1:8000.evil.example", "127.0.0.1:8000",
        ] {
            let verdict = try gate().judge(origin: origin, host: "127.0.0.1:8000")
            #expect(verdict == .refused(origin), "\(origin)")
        }
        let listed = try gate(allowed: ["https://Chat.example.org/", "null", "app://x"])
        for origin in ["https://chat.example.org", "null", "app://x"] {
            #expect(listed.judge(origin: origin, host: "127.0.0.1:8000") == .allowed(origin))
        }
        // The page of this server behind a proxy that keeps the name.
        #expect(listed.judge(origin: nil, host: "chat.example.org") == .own)
        #expect(
            listed.judge(origin: "https://chat.example.org:444", host: "127.0.0.1:8000")
                == .refused("https://chat.example.org:444"))
        let any = try gate(allowed: ["*"])
        #expect(any.judge(origin: "http://evil.example", host: "evil.example") == .allowed("*"))
        #expect(any.judge(origin: nil, host: "evil.example") == .own)
    }

    @Test(arguments: ["", "example.org", "https://", "://x", "https://a/b", "https://a b", "**"])
    func noOrigins(text: String) {
        #expect(throws: ServerError.self) { try AllowedOrigin(text) }
    }

    /// The same over the wire: nothing reaches the engine, and who is let in gets CORS's headers.
    @Test func answers() async throws {
        let engine = try ScriptedBackend.engine("fine")
        let options = ServerOptions(allowedOrigins: [try AllowedOrigin("https://chat.example.org")])
        try await TestServer.with(engine, options) { server in
            let body = "{\"prompt\":\"x\",\"max_tokens\":1}"
            for path in ["/v1/completions", "/tokenize"] {
                let refused = try await server.send(
                    "POST", path, body, headers: ["Origin": "https://evil.example"])
                #expect(refused.status == 403)
                let error = try #require(try refused.json()["error"])
                #expect(error["code"] == "origin_not_allowed")
                #expect(
                    error["message"]?.string?.hasSuffix("--allow-origin https://evil.example")
                        == true)
                #expect(refused.headers["access-control-allow-origin"] == nil)
            }
            for path in ["/", "/stats", "/metrics", "/health", "/v1/models", "/nothing"] {
                let rebound = try await server.send("GET", path, headers: ["Host": "evil.example"])
                #expect(rebound.status == 403, "\(path)")
            }
            #expect(engine.metrics.promptTokens == 0)
            #expect(
                try await server.send(
                    "OPTIONS", "/v1/completions", headers: ["Origin": "https://evil.example"]
                ).status == 403)
            #expect(try await server.send("OPTIONS", "/v1/completions").status == 405)

            let visitor = ["Origin": "https://chat.example.org"]
            let asked = try await server.send(
                "OPTIONS", "/v1/completions",
                headers: visitor.merging([
                    "Access-Control-Request-Method": "POST",
                    "Access-Control-Request-Headers": "authorization,content-type,x-stainless-os",
                ]) { $1 })
            #expect(asked.status == 200 && asked.body.isEmpty)
            #expect(asked.headers["access-control-allow-origin"] == "https://chat.example.org")
            #expect(asked.headers["access-control-allow-methods"] == "GET, POST")
            #expect(
                asked.headers["access-control-allow-headers"]
                    == "authorization,content-type,x-stainless-os")
            let answer = try await server.send("POST", "/v1/completions", body, headers: visitor)
            #expect(answer.status == 200 && answer.headers["vary"] == "Origin")
            #expect(answer.headers["access-control-allow-origin"] == "https://chat.example.org")
            // Errors and streams can be read, too.
            let wrong = try await server.send("POST", "/v1/completions", "{}", headers: visitor)
            #expect(wrong.status == 400 && wrong.headers["vary"] == "Origin")
            let stream = try await server.send(
                "POST", "/v1/completions", "{\"prompt\":\"x\",\"stream\":true}", headers: visitor)
            #expect(stream.headers["access-control-allow-origin"] == "https://chat.example.org")
            #expect(stream.body.hasSuffix("data: [DONE]\n\n"))
        }
    }
}
