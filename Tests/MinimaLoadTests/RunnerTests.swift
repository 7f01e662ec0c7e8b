import MinimaCore
import NIOCore
import Synchronization
import Testing

@testable import MinimaLoad

/// A load against a server whose behaviour is written down.
@Suite("Load: runs")
struct RunnerTests {
    private func options(
        _ server: ScriptedServer, _ arrivals: LoadOptions.Arrivals, requests: Int = 8
    ) -> LoadOptions {
        LoadOptions(
            address: ServerAddress(host: "127.0.0.1", port: server.port), arrivals: arrivals,
            requests: requests, answerTokens: .fixed(5), seed: 1)
    }

    /// Server's pauses are lower bounds of what is measured, and the run's time an upper one.
    @Test func delays() async throws {
        let script = afterPrologue { _ in
            [streamHead, .wait(.milliseconds(60))] + answer(5, gap: .milliseconds(10)).dropFirst()
        }
        let result = try await ScriptedServer.with(script) { server in
            try await LoadRunner(options(server, .closed(users: 4), requests: 12)).run()
        }
        #expect(result.completed == 12 && result.failed == 0 && result.errors.isEmpty)
        #expect(result.answerTokens == 60 && result.promptTokens == 84)
        #expect(result.tokensCountedBy == "usage" && result.model == "m")
        let ttft = try #require(result.ttft)
        let (tpot, itl) = (try #require(result.tpot), try #require(result.itl))
        let e2el = try #require(result.e2el)
        #expect(ttft.least >= 70 && ttft.count == 12)
        #expect(itl.count == 48 && tpot.count == 12)
        // Pieces may wait in a buffer together, but not all four gaps of an answer.
        #expect(abs(itl.mean - tpot.mean) < 1e-6)
        #expect(e2el.least >= 110 && e2el.most <= result.seconds * 1000)
        #expect(e2el.mean >= ttft.mean + 4 * tpot.mean - 1e-6)
        let median = try #require(ttft.value(at: 50))
        #expect(median >= ttft.least && median <= ttft.most)
        let rate = try #require(result.answerRate)
        #expect(rate.most <= 5 / 0.110 && rate.least >= 5 / result.seconds - 0.01)
    }

    /// Times count from when a request was due, also when all answers are held up together.
    @Test func openLoopCountsFromIntendedTimes() async throws {
        let count = 20
        let release = Mutex<NIODeadline?>(nil)
        let box = ServerBox()
        let script = afterPrologue { asked in
            if asked.number == count - 1 {
                release.withLock { $0 = .now() }
                box.server.withLock { $0 }?.release()
            }
            return [.hold] + answer(2)
        }
        let (result, asked) = try await ScriptedServer.with(script) { server in
            box.server.withLock { $0 = server }
            let options = options(server, .open(rate: 100, isPoisson: false), requests: count)
            let result = try await LoadRunner(options).run()
            return (result, Array(server.asked.dropFirst(firstNumber)))
        }
        #expect(result.completed == count && asked.count == count)
        let delay = try #require(result.sendDelay)
        #expect(delay.count == count)
        // Request i was due 10·i ms after the first; all ended after the release.
        let start = try #require(asked.map(\.time).min())
        let released = try #require(release.withLock { $0 })
        let held = Double((released - start).nanoseconds) / 1e6
        let due = (0..<count).map { 10 * Double($0) }
        let wanted = held - due.reduce(0, +) / Double(count)
        let e2el = try #require(result.e2el)
        // The first request was sent when it was due, or later.
        #expect(e2el.mean >= wanted - 1e-3 && e2el.most >= held)
    }

    private final class ServerBox: Sendable {
        let server = Mutex<ScriptedServer?>(nil)
    }

    @Test func poissonGaps() async throws {
        let (result, asked) = try await ScriptedServer.with(afterPrologue { _ in answer(1) }) {
            server in
            let options = options(server, .open(rate: 500, isPoisson: true), requests: 60)
            return (try await LoadRunner(options).run(), server.asked)
        }
        #expect(result.completed == 60 && result.arrivals == "open loop, 500.0/s, Poisson")
        // Every prompt has another beginning.
        let bodies = asked.dropFirst(firstNumber).map(\.body)
        let beginnings = bodies.map { body in
            body.split(separator: "\"content\":\"").last.map { $0.prefix(24) }
        }
        #expect(Set(beginnings).count == 60)
    }

    @Test func errorsByKind() async throws {
        let kinds: [(name: String, acts: [Act])] = [
            ("http_500", [response(500, "{\"error\":{\"message\":\"x\"}}")]),
            ("http_429", [response(429, "{}", headers: ["Retry-After: 1"])]),
            ("http_404", [response(404, "nothing")]),
            ("unfinished", [streamHead, piece("a"), .close]),
            ("unfinished", [streamHead, piece("a"), .reset]),
            ("unfinished", [streamHead, piece("a"), streamEnd]),
            ("unfinished", [streamHead, piece("a"), chunk("data: [DO"), streamEnd]),
            ("malformed_event", [streamHead, chunk("data: {\"choices\": 5}\n\n"), streamEnd]),
            ("malformed_event", [streamHead, chunk("data: {\n\n"), streamEnd]),
            ("malformed_event", [response(200, "[]")]),
            ("error_event", [streamHead, chunk("data: {\"error\":{\"message\":\"e\"}}\n\n")]),
            ("malformed_http", [.send("SPAM/1.0 eggs\r\n\r\n"), .close]),
            ("malformed_http", [streamHead, .send("xyz\r\n")]),
        ]
        // Time enough for all answers, whatever else the machine does.
        try await expectErrors(kinds, within: .seconds(40))
    }

    @Test func answersThatDoNotCome() async throws {
        try await expectErrors(
            [
                ("timeout", [.wait(.seconds(60))]),
                ("timeout", [streamHead, piece("a"), .wait(.seconds(60))]),
            ], within: .seconds(8))
    }

    /// Requests that are answered by `kinds` fail, each by the error that it names.
    private func expectErrors(
        _ kinds: [(name: String, acts: [Act])], within limit: Duration
    ) async throws {
        let script = afterPrologue { kinds[$0.number % kinds.count].acts }
        let result = try await ScriptedServer.with(script) { server in
            // Even gaps: what comes first is asked first or not; each comes once.
            var options = options(
                server, .open(rate: 200, isPoisson: false), requests: kinds.count)
            options.limit = limit
            return try await LoadRunner(options).run()
        }
        let wanted = Dictionary(grouping: kinds, by: \.name).mapValues(\.count)
        #expect(result.errors == wanted)
        #expect(result.failed == kinds.count && result.completed == 0 && result.retries == 0)
    }

    /// A connection that ends before an answer: on a new one it is an error, on a used one the
    /// request is made again.
    @Test func connectionsThatEnd() async throws {
        for act in [Act.close, .reset] {
            let script = afterPrologue { $0.number % 2 == 1 ? [act] : answer(1) }
            let result = try await ScriptedServer.with(script) { server in
                try await LoadRunner(options(server, .closed(users: 1), requests: 3)).run()
            }
            #expect(result.completed == 3 && result.failed == 0)
        }
        let result = try await ScriptedServer.with(afterPrologue { _ in [.close] }) { server in
            try await LoadRunner(options(server, .closed(users: 2), requests: 4)).run()
        }
        #expect(result.failed == 4)
        #expect(Set(result.errors.keys).isSubset(of: ["closed_early", "reset"]))
    }

    @Test func closedLoopWaitsWhenToldTo() async throws {
        let script = afterPrologue { asked in
            asked.number == 0
                ? [response(429, "{}", headers: ["Retry-After: 1"])] : answer(1)
        }
        let result = try await ScriptedServer.with(script) { server in
            try await LoadRunner(options(server, .closed(users: 1), requests: 2)).run()
        }
        #expect(result.completed == 2 && result.retries == 1 && result.errors.isEmpty)
        #expect((result.e2el?.most ?? 0) >= 1000)
    }

    /// Lengths in tokens, from the server's own counts; and a beginning that all have.
    @Test func promptsHaveTheLengthAskedFor() async throws {
        let (result, asked) = try await ScriptedServer.with(afterPrologue { _ in answer(1) }) {
            server in
            var options = options(server, .closed(users: 2), requests: 6)
            options.promptTokens = .fixed(107)
            options.sharedPrefix = 27
            options.temperature = 0.5
            return (try await LoadRunner(options).run(), server.asked)
        }
        #expect(result.completed == 6 && result.sharedPrefix == 27)
        let prompts = try asked.dropFirst(firstNumber).map { asked in
            let json = try JSON(parsing: asked.body)
            #expect(json["temperature"] == 0.5 && json["max_tokens"] == 5)
            let text = try #require(json["messages"]?.array?.first?["content"]?.string)
            return text.split(separator: " ")
        }
        for prompt in prompts { #expect(prompt.count == 50) }
        #expect(Set(prompts.map { $0.prefix(10) }).count == 1)
        #expect(Set(prompts.map { $0.dropFirst(10).prefix(8) }).count == 6)
    }

    /// A server that knows neither ignore_eos nor stream_options, and counts nothing.
    @Test func otherDialects() async throws {
        let notes = Mutex<[String]>([])
        let script: ScriptedServer.Script = { asked in
            if asked.path == "/v1/models" { return [response(200, "{\"data\":[{\"id\":\"m\"}]}")] }
            for name in ["max_tokens", "ignore_eos", "stream_options"]
            where asked.body.contains("\"\(name)\"") {
                let advice = name == "max_tokens" ? "; use max_completion_tokens" : ""
                return [
                    response(
                        400, "{\"error\":{\"message\":\"unknown parameter \(name)\(advice)\"}}")
                ]
            }
            return [streamHead, piece("a"), piece("b"), lastEvent, streamEnd]
        }
        let result = try await ScriptedServer.with(script) { server in
            var options = options(server, .closed(users: 2), requests: 3)
            options.ignoresEnd = true
            let runner = try LoadRunner(options) { note in notes.withLock { $0.append(note) } }
            return try await runner.run()
        }
        #expect(result.completed == 3 && result.answerTokens == 6 && result.promptTokens == 0)
        #expect(result.tokensCountedBy == "chunks" && !result.ignoresEnd)
        #expect(notes.withLock(\.count) == 3)
    }

    @Test func whatCannotBegin() async throws {
        try await ScriptedServer.with({ _ in [.close] }) { server in
            await #expect(throws: LoadError.self) {
                try await LoadRunner(options(server, .closed(users: 1))).run()
            }
        }
        // Nothing answers on the port of RFC 863 any more.
        let gone = LoadOptions(address: ServerAddress(host: "127.0.0.1", port: 9))
        await #expect(
            throws: LoadError.unreachable("http://127.0.0.1:9", reason: "no connection")
        ) {
            try await LoadRunner(gone).run()
        }
        let refusing: ScriptedServer.Script = { asked in
            asked.path == "/v1/models"
                ? [response(200, "{\"data\":[]}")]
                : [response(401, "{\"error\":{\"message\":\"no key\"}}")]
        }
        try await ScriptedServer.with(refusing) { server in
            var options = options(server, .closed(users: 1))
            await #expect(throws: LoadError.noModel("http://127.0.0.1:\(server.port)")) {
                try await LoadRunner(options).run()
            }
            options.model = "m"
            await #expect(
                throws: LoadError.refused(
                    path: "/v1/chat/completions", status: 401, message: "no key")
            ) {
                try await LoadRunner(options).run()
            }
            options.key = "two words"
            #expect(throws: LoadError.badKey) { try LoadRunner(options) }
        }
    }

    @Test func durationAndWarmUp() async throws {
        let script = afterPrologue { _ in [.wait(.milliseconds(50))] + answer(1) }
        let (result, asked) = try await ScriptedServer.with(script) { server in
            var options = options(server, .closed(users: 2))
            options.requests = nil
            options.duration = .seconds(3)
            options.warmUp = 3
            options.objectives = try Objectives("ttft:60000,e2el:60000")
            return (try await LoadRunner(options).run(), server.asked)
        }
        #expect(result.completed > 0 && result.failed == 0)
        #expect(asked.count == firstNumber + 3 + result.completed)
        #expect(result.goodput == result.requestThroughput)
    }
}
