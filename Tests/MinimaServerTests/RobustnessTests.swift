import Foundation
import MinimaCore
import Synchronization
import Testing

@testable import MinimaRuntime
@testable import MinimaServer

/// What goes wrong, on either side of the wire.
@Suite("Server: robustness", .serialized)
struct RobustnessTests {
    /// A request whose answer does not end by itself while a test waits.
    private func answers(_ streams: Bool) -> JSON {
        [
            "prompt": "x", "max_tokens": .integer(ScriptedBackend.endlessTokens),
            "stream": .bool(streams),
        ]
    }

    /// A client that goes frees its pages, whatever its request was doing.
    @Test(arguments: [true, false]) func disconnects(streams: Bool) async throws {
        let engine = try ScriptedBackend.endless(slots: 2, stepTime: .milliseconds(2))
        try await TestServer.with(engine) { server in
            let port = server.port
            let request = wireRequest("POST", "/v1/completions", answers(streams).text(indent: nil))
            // Two run, four wait.
            let wires = try await blocking {
                try (0..<6).map { _ in
                    let wire = try Wire(port: port)
                    wire.send(request)
                    if streams { _ = wire.receive(until: "HTTP/1.1 200") }
                    return wire
                }
            }
            #expect(await server.becomes { $0.running == 2 && $0.waiting == 4 })
            for wire in wires { wire.closeNow() }
            #expect(await server.becomesIdle())
            #expect(engine.metrics.finished == ["cancelled": 6])
            #expect(await eventually { server.server.metricsText.contains("in_flight 0\n") })
            #expect(server.server.metricsText.contains("minima_disconnects_total 6"))
            #expect(
                server.server.metricsText.contains(
                    "minima_draft_tokens_total{outcome=\"accepted\"} 0\n"))
        }
    }

    /// A full queue is told of at once, and a place in it is there again later.
    @Test func fullQueue() async throws {
        let engine = try ScriptedBackend.endless(
            slots: 1, stepTime: .milliseconds(2), EngineOptions(maxWaiting: 2))
        try await TestServer.with(engine) { server in
            let port = server.port
            let body = answers(true).text(indent: nil)
            let wires = try await blocking {
                var wires: [Wire] = []
                for _ in 0..<3 {
                    let wire = try Wire(port: port)
                    wire.send(wireRequest("POST", "/v1/completions", body))
                    _ = wire.receive(until: "HTTP/1.1 200")
                    // The first has its slot before the others come.
                    for _ in 0..<60_000 where engine.metrics.running == 0 { usleep(1000) }
                    wires.append(wire)
                }
                return wires
            }
            let refused = try await server.post("/v1/completions", answers(true))
            #expect(refused.status == 429)
            #expect(refused.headers["retry-after"].flatMap { Int($0) } ?? 0 >= 1)
            #expect(try refused.json()["error"]?["type"] == "rate_limit_error")
            for wire in wires { wire.closeNow() }
            #expect(await server.becomesIdle())
            let later = try await server.post(
                "/v1/completions", ["prompt": "x", "max_tokens": 2])
            #expect(later.status == 200)
        }
    }

    @Test(arguments: [true, false]) func deadlines(streams: Bool) async throws {
        let engine = try ScriptedBackend.endless(stepTime: .milliseconds(5))
        try await TestServer.with(engine, ServerOptions(deadline: .milliseconds(150))) { server in
            let response = try await server.post("/v1/completions", answers(streams))
            // A stream has begun unless the machine did not come to its first token.
            #expect(response.status == 504 || streams && response.status == 200)
            #expect(response.body.contains("deadline_exceeded"))
            #expect(await server.becomesIdle())
        }
    }

    /// A client that does not read holds up neither the engine nor other clients.
    @Test func slowReaders() async throws {
        let engine = try ScriptedBackend.endless(slots: 8, stepTime: .zero)
        var options = ServerOptions()
        options.sendBuffer = 1 << 14
        try await TestServer.with(engine, options) { server in
            let port = server.port
            // 16,000 tokens take more than sockets hold, however many of them an event has.
            let json: JSON = [
                "prompt": "x", "n": 16, "max_tokens": 1000, "stream": true, "logprobs": 5,
            ]
            let body = json.text(indent: nil)
            let slow = try await blocking {
                let wire = try Wire(port: port)
                wire.shrink()
                wire.send(wireRequest("POST", "/v1/completions", body))
                return wire
            }
            #expect(await server.becomes { $0.running == 8 || $0.steps > 100 })
            let quick = try await server.post(
                "/v1/completions", ["prompt": "x", "max_tokens": 5])
            #expect(quick.status == 200)
            // Its tokens wait for it: the engine has made them all.
            #expect(await server.becomesIdle())
            #expect(engine.metrics.finished["length"] == 17)
            #expect(try await server.get("/health").status == 200)
            #expect(
                await eventually { server.server.metricsText.contains("requests_in_flight 1\n") },
                "\(server.server.metricsText)")
            _ = slow
        }
    }

    /// A step that throws fails its requests, and the server goes on.
    @Test func stepsThatFail() async throws {
        let isBroken = Atomic(true)
        let engine = try Engine {
            ScriptedBackend { _, count in
                if count == 0, isBroken.load(ordering: .relaxed) { throw ScriptedBackend.Broken() }
                return 400
            }
        }
        try await TestServer.with(engine) { server in
            let body: JSON = ["prompt": "secret words", "max_tokens": 10]
            for _ in 0..<3 {
                let failed = try await server.post("/v1/completions", body)
                #expect(failed.status == 500)
                #expect(try failed.json()["error"]?["type"] == "server_error")
                #expect(!failed.body.contains("Broken"))
            }
            #expect(server.logged.contains { $0.contains("Broken") })
            #expect(!server.logged.contains { $0.contains("secret") })
            // A step's numbers are published behind its answers.
            #expect(await server.becomes { $0.consecutiveFailures >= 3 })
            #expect(try await server.get("/health").json()["status"] == "failing")
            #expect(try await server.get("/health/live").status == 200)
            isBroken.store(false, ordering: .relaxed)
            #expect(try await server.post("/v1/completions", body).status == 200)
            #expect(await server.becomes { $0.consecutiveFailures == 0 })
            #expect(try await server.get("/health/ready").status == 200)
            #expect(await server.becomesIdle())
        }
    }

    /// Also in a stream, in whose middle the failure comes.
    @Test func streamsThatFail() async throws {
        let engine = try Engine {
            ScriptedBackend { _, count in
                if count == 3 { throw ScriptedBackend.Broken() }
                return 400
            }
        }
        try await TestServer.with(engine) { server in
            let events = try await server.post(
                "/v1/completions", ["prompt": "x", "max_tokens": 900, "stream": true]
            ).events()
            #expect(events.count == 4)
            #expect(events.last?["error"]?["code"] == "internal_error")
        }
    }

    @Test func anEngineThatHasEnded() async throws {
        let engine = try ScriptedBackend.engine("x")
        try await TestServer.with(engine) { server in
            #expect(try await server.get("/health").status == 200)
            engine.shutDown(.cancel)
            let refused = try await server.post("/v1/completions", ["prompt": "x"])
            #expect(refused.status == 503)
            #expect(try refused.json()["error"]?["code"] == "engine_dead")
            let health = try await server.get("/health/live")
            #expect(health.status == 503)
            #expect(try health.json()["status"] == "dead")
        }
    }

    /// A backend that hangs is told from one that works and from one that has nothing to do.
    @Test func healthOverTime() {
        let start = ContinuousClock.now
        let watch = EngineWatch(stallTime: .seconds(10), now: start)
        var (metrics, isAlive) = (EngineMetrics(), true)
        func health(_ seconds: Int) -> EngineWatch.Health {
            watch.health(metrics, isAlive: isAlive, now: start + .seconds(seconds))
        }
        #expect(health(0) == .ready)
        #expect(health(100) == .ready)
        metrics.running = 1
        #expect(health(105) == .ready)
        #expect(health(110) == .stalled)
        metrics.steps = 1
        #expect(health(111) == .ready)
        #expect(health(120) == .ready)
        #expect(health(121) == .stalled)
        metrics.consecutiveFailures = 3
        metrics.failures = 3
        metrics.steps = 2
        metrics.running = 0
        #expect(health(122) == .failing)
        #expect(health(151) == .failing)
        #expect(health(152) == .ready)
        metrics.failures = 4
        #expect(health(160) == .failing)
        watch.drain()
        #expect(health(161) == .draining)
        isAlive = false
        #expect(health(162) == .dead)
    }

    /// A stop lets running requests end, takes no new ones, and ends those that take too long.
    @Test(arguments: [true, false]) func drains(inTime: Bool) async throws {
        let engine = try ScriptedBackend.endless(stepTime: .milliseconds(2))
        let options = ServerOptions(drainTime: inTime ? .seconds(120) : .milliseconds(200))
        try await TestServer.with(engine, options) { server in
            let port = server.port
            let json: JSON = [
                "prompt": "x", "stream": true,
                "max_tokens": .integer(inTime ? 100 : ScriptedBackend.endlessTokens),
            ]
            let body = json.text(indent: nil)
            let wire = try await blocking {
                let wire = try Wire(port: port)
                wire.send(wireRequest("POST", "/v1/completions", body))
                _ = wire.receive(until: "data:")
                return wire
            }
            server.server.drain()
            let rest = try await blocking { wire.receiveAll() }
            #expect(rest.contains("\"finish_reason\":\"length\"") == inTime)
            #expect(rest.contains("server_stopping") == !inTime)
            #expect(rest.contains("data: [DONE]"))
            #expect(await server.becomesIdle())
            await #expect(throws: TestError.self) {
                for _ in 0..<6000 {
                    _ = try await server.get("/health")
                    try await Task.sleep(for: .milliseconds(10))
                }
            }
        }
    }

    @Test func keys() async throws {
        let keys = try APIKey.keys(in: "# a comment\n\n  first-key  \r\nsecond\n")
        let engine = try ScriptedBackend.engine("hello")
        try await TestServer.with(engine, ServerOptions(keys: keys)) { server in
            let long = "Bearer " + String(repeating: "x", count: 5000)
            let wrong = [
                nil, "Bearer", "Bearer ", "Bearer first-ke", "Bearer first-keyy",
                "Basic first-key", "first-key", "Bearer # a comment", long,
            ]
            let cases: [(path: String, header: String?, status: Int)] =
                [
                    ("/v1/models", "Bearer first-key", 200), ("/v1/models", "bearer second", 200),
                    ("/health", nil, 200), ("/metrics", nil, 200),
                ] + wrong.flatMap { [("/v1/models", $0, 401), ("/nothing", $0, 401)] }
            for (path, header, status) in cases {
                let headers = header.map { ["Authorization": $0] } ?? [:]
                let response = try await server.send("GET", path, headers: headers)
                #expect(response.status == status, "\(path) \(header ?? "")")
            }
            #expect(!server.logged.contains { $0.contains("first-key") })
        }
        #expect(throws: ServerError.self) { try APIKey.keys(in: "# nothing\n") }
        #expect(throws: ServerError.self) { try APIKey.keys(in: "with space\n") }
    }

    @Test func addressInUse() async throws {
        let engine = try ScriptedBackend.engine("x")
        try await TestServer.with(engine) { server in
            let second = InferenceServer(
                model: try exampleServed(), engine: engine,
                options: ServerOptions(port: server.port))
            await #expect(throws: ServerError.self) { try await second.run() }
        }
    }

    @Test func metricsPage() async throws {
        try await TestServer.with(ScriptedBackend.engine("one two three")) { server in
            for _ in 0..<3 {
                _ = try await server.post("/v1/completions", ["prompt": "x", "max_tokens": 5])
            }
            _ = try await server.post("/v1/completions", ["prompt": 5])
            // A request is counted behind its answer.
            #expect(
                await eventually { server.server.metricsText.contains("requests_in_flight 0\n") })
            let page = try await server.get("/metrics")
            #expect(page.headers["content-type"]?.hasPrefix("text/plain; version=0.0.4") == true)
            let lines = Set(page.body.split(separator: "\n").map(String.init))
            #expect(
                lines.contains(
                    #"minima_http_requests_total{endpoint="completions",status="200"} 3"#))
            #expect(
                lines.contains(
                    #"minima_http_requests_total{endpoint="completions",status="400"} 1"#))
            #expect(lines.contains("minima_request_seconds_count 3"))
            #expect(lines.contains("minima_time_to_first_token_seconds_count 3"))
            #expect(lines.contains("minima_engine_ready 1"))
            // Each sample has a name that was announced, and a number.
            var names: Set<Substring> = []
            for line in page.body.split(separator: "\n") {
                let words = line.split(separator: " ")
                if words[0] == "#" {
                    names.insert(words[2])
                    continue
                }
                #expect(Double(words[words.count - 1]) != nil)
                let name = words[0].prefix { $0 != "{" }
                let ends = ["_bucket", "_sum", "_count"]
                let base = ends.first { name.hasSuffix($0) }.map { name.dropLast($0.count) } ?? name
                #expect(names.contains(base) || names.contains(name))
            }
        }
    }
}
