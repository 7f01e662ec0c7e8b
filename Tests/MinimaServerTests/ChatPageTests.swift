import Foundation
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTestSupport
import Testing

@testable import MinimaServer

/// The chat page, its figures and what they travel in.
@Suite("Server: chat page")
struct ChatPageTests {
    /// The page as a user sees it, in a real browser.
    @Test func browser() async throws {
        let packages = "\(packageFolder())/.deps/browser"
        let path = try? String(contentsOfFile: "\(packages)/.path", encoding: .utf8)
        let browser = try #require(
            path?.trimmingCharacters(in: .newlines),
            "there is no browser for tests in \(packages); run Scripts/setup-browser.sh")
        let markup = """
            <think>a plan: <b>x</b></think>A **strong** word, `<i>inline</i>` and \
            <script>alert(1)</script> <img src=x onerror=alert(2)>

            ```html
            <p onclick='alert(3)'>

            **code**</p>
            ```
            """
        var plain = try exampleServed()
        plain.chat = nil
        try await TestServer.with(draftingEngine()) { model in
            try await TestServer.with(
                ScriptedBackend.endless(stepTime: .milliseconds(2)), model: plain
            ) { endless in
                let visitor = try AllowedOrigin("http://127.0.0.1:\(endless.port)")
                try await TestServer.with(
                    ScriptedBackend.engine("fine"), ServerOptions(keys: [APIKey("right-key")])
                ) { keyed in
                    try await TestServer.with(ScriptedBackend.engine(markup)) { markup in
                        try await TestServer.with(
                            ScriptedBackend.engine("fine"),
                            ServerOptions(allowedOrigins: [visitor])
                        ) { shared in
                            let servers = [
                                "model": model, "endless": endless, "keyed": keyed,
                                "markup": markup, "shared": shared,
                            ]
                            try await run(browser, packages, servers)
                            for server in servers.values { #expect(await server.becomesIdle()) }
                        }
                    }
                }
            }
        }
    }

    private func run(
        _ browser: String, _ packages: String, _ servers: [String: TestServer]
    ) async throws {
        let addresses = servers.mapValues { JSON.string("http://127.0.0.1:\($0.port)/") }
        let object = JSON.object(
            .init(uniqueKeysWithValues: addresses.map { (JSON.Name($0.key), $0.value) }))
        try await expectPassed(
            "chat_page.py", [browser, NSTemporaryDirectory(), object.text(indent: nil)],
            packages: packages)
    }

    /// The example model with a draft.
    private func draftingEngine() throws -> Engine {
        let checkpoint = try Checkpoint(path: exampleModel)
        return try Engine(EngineOptions(speculation: .fixed(3))) {
            try TorchBackend(
                checkpoint.loadModel(device: .cpu, dtype: .float32), slots: 4, pages: 256,
                prefillChunk: 256, draft: .ngram(), draftTokens: 3)
        }
    }

    /// The document is whole, names no other address, and its policy lets its own parts run only.
    @Test func document() async throws {
        let text = ChatPage(chat: true, needsKey: false).text
        func part(_ name: String) -> Substring {
            let rest = text[(text.range(of: "<\(name)>")?.upperBound ?? text.endIndex)...]
            return rest[..<(rest.range(of: "</\(name)>")?.lowerBound ?? rest.startIndex)]
        }
        #expect(text.contains("data-interface=\"chat\" data-key=\"none\""))
        #expect(text.hasPrefix("<!doctype html>") && text.hasSuffix("</html>\n"))
        #expect(!text.contains("@SCRIPT@") && !text.contains("@STYLE@"))
        #expect(part("script").count > 10_000 && part("style").count > 3_000)
        for word in ["https:", "//cdn", "innerHTML", "eval(", " style=\"", "@import", "onclick"] {
            #expect(!text.contains(word), "\(word)")
        }
        let addresses = text.split(separator: "http://").dropFirst()
        #expect(addresses.allSatisfy { $0.hasPrefix("www.w3.org/2000/svg") })
        let other = ChatPage(chat: false, needsKey: true).text
        #expect(other.contains("data-interface=\"completions\" data-key=\"required\""))

        try await TestServer.with(
            ScriptedBackend.engine("x"), ServerOptions(keys: [APIKey("a-key")])
        ) { server in
            let page = try await server.get("/")
            #expect(page.status == 200 && page.body.hasSuffix("</html>\n"))
            #expect(page.headers["content-type"] == "text/html; charset=utf-8")
            #expect(page.headers["x-content-type-options"] == "nosniff")
            #expect(page.headers["referrer-policy"] == "no-referrer")
            let policy = try #require(page.headers["content-security-policy"])
            #expect(policy.hasPrefix("default-src 'none'; "))
            #expect(policy.contains("frame-ancestors 'none'") && !policy.contains("unsafe"))
            for name in ["script", "style"] {
                let hash = ChatPage.hash(String(part(name)))
                #expect(policy.contains("\(name)-src '\(hash)';"))
            }
            #expect(try await server.get("/v1/models").status == 401)
        }
        // Of the empty text, as `openssl dgst -sha256 -binary </dev/null | base64` has it.
        #expect(ChatPage.hash("") == "sha256-47DEQpj8HBSa+/TImW+5JCeuQeRkm5NMpJWZG3hSuFU=")
        try await TestServer.with(ScriptedBackend.engine("x"), ServerOptions(hasPage: false)) {
            let page = try await $0.get("/")
            #expect(page.status == 404)
        }
    }

    /// The figures are those of the engine, open as the metrics are.
    @Test func figures() async throws {
        let engine = try ScriptedBackend.engine("a few words")
        try await TestServer.with(engine, ServerOptions(keys: [APIKey("a-key")])) { server in
            let before = try await server.get("/stats").json()
            #expect(before["status"] == "ready" && before["tokens"]?["generated"] == 0)
            #expect(before["pages"]?["total"] == 512 && before["pages"]?["used"] == 0)
            #expect(before["draft"]?.isNull == true)
            #expect(before["memory"]?["device"]?.isNull == true)
            let resident = try #require(before["memory"]?["resident"]?.int)
            #expect((1 << 20...1 << 40).contains(resident))
            let answer = try await server.send(
                "POST", "/v1/completions", "{\"prompt\":\"x\",\"max_tokens\":2}",
                headers: ["Authorization": "Bearer a-key"])
            #expect(answer.status == 200)
            #expect(await server.becomesIdle())
            let after = try await server.get("/stats").json()
            #expect(after["tokens"]?["generated"] == 2 && after["tokens"]?["prompt"] == 1)
            #expect(after["tokens"]?["cached"] == 0 && after["pages"]?["cached"] == 0)
            #expect(after["requests"]?["running"] == 0 && after["requests"]?["slots"] == 4)
            let metrics = try await server.get("/metrics").body
            #expect(metrics.contains("\nminima_resident_memory_bytes "))
            #expect(!metrics.contains("minima_device_memory"))
        }
    }

    /// A device's memory is shown where there is one.
    @Test func deviceMemory() throws {
        let engine = try ScriptedBackend.engine("x")
        defer { engine.shutDown(.cancel) }
        let server = InferenceServer(
            model: try exampleServed(), engine: engine, options: ServerOptions(),
            deviceMemory: { DeviceMemory(used: 3 << 30, total: 5 << 30) })
        let memory: JSON? = server.stats()["memory"]?["device"]
        #expect(memory?["used"]?.int == 3 << 30 && memory?["total"]?.int == 5 << 30)
        #expect(server.metricsText.contains("minima_device_memory_used_bytes \(3 << 30)\n"))
        #expect(server.metricsText.contains("minima_device_memory_total_bytes \(5 << 30)\n"))
    }
}
