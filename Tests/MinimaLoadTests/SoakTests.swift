import Foundation
import MinimaCore
import MinimaTestSupport
import NIOCore
import Synchronization
import Testing

@testable import MinimaLoad

/// Soaks of servers that do well, and of one that does not.
@Suite("Load: soak", .serialized)
struct SoakTests {
    private let folder = packageFolder()

    /// A port that was free a moment ago, below those that the system gives to connections by itself.
    private func freePort() async throws -> Int {
        for _ in 0..<50 {
            let port = Int.random(in: 20_000..<32_000)
            let found = try? await ScriptedServer.with({ _ in [] }, port: port) { $0.port }
            if let found { return found }
        }
        return try await ScriptedServer.with({ _ in [] }) { $0.port }
    }

    private func serve(_ port: Int, _ options: String = "") -> ServerProcess {
        // The test runner and the binary are built into one folder.
        let binary = URL(fileURLWithPath: "/proc/self/exe").resolvingSymlinksInPath()
            .deletingLastPathComponent().appendingPathComponent("minima").path
        return ServerProcess(
            command: """
                env OMP_NUM_THREADS=1 '\(binary)' serve '\(folder)/Examples/tiny-qwen3-4m' \
                --port \(port) --device cpu --context 512 --max-requests 8 --quiet \(options) \
                2>/dev/null
                """)
    }

    /// The server of the example model, stopped and killed meanwhile.
    @Test func server() async throws {
        let port = try await freePort()
        let result = try await SoakRunner(
            SoakOptions(
                address: ServerAddress(host: "127.0.0.1", port: port), requests: 120, users: 10,
                seed: 3, questions: 8, server: serve(port, "--deterministic"), kills: 2)
        ).run()
        #expect(result.requests == 120 && result.kinds.values.reduce(0, +) == 120)
        #expect(result.wrong == 0 && result.unexpected.isEmpty, "\(result.examples)")
        #expect(result.compared > 30)
        #expect(result.leakedPages == 0 && result.leftInFlight == 0)
        #expect(result.engineFailures == 0 && result.pages > 0)
        #expect(result.terminations == 1 && result.kills == 1)
        #expect(!result.memory.isEmpty && result.memory.allSatisfy { $0.bytes > 1 << 20 })
        #expect(try SoakResult(json: result.json()) == result)
    }

    /// A load against the real thing: what it counts is what was asked for.
    @Test func loadOfServer() async throws {
        let port = try await freePort()
        let address = ServerAddress(host: "127.0.0.1", port: port)
        let server = serve(port)
        try await server.start(ServerClient(address, key: nil, limit: .seconds(60)))
        let result = try await LoadRunner(
            LoadOptions(
                address: address, arrivals: .open(rate: 40, isPoisson: true), requests: 12,
                promptTokens: .fixed(40), answerTokens: .fixed(6), ignoresEnd: true,
                temperature: 0, seed: 2)
        ).run()
        #expect(result.completed == 12 && result.failed == 0 && result.answerTokens == 72)
        #expect(result.tokensCountedBy == "usage" && result.ignoresEnd)
        // Words have one to three tokens; the mean of 12 prompts of 20 or so is near what was asked.
        #expect(abs(result.promptTokens - 480) < 120, "\(result.promptTokens)")
        #expect(try LoadResult(json: result.json()) == result)
        #expect(try await server.end(SIGTERM, limit: .seconds(60)) == 0)
    }

    /// A server that changes its mind, takes nonsense and keeps pages.
    @Test func findsFaults() async throws {
        let script: ScriptedServer.Script = { asked in
            switch asked.path {
            case "/v1/models": [response(200, "{\"data\":[{\"id\":\"m\"}]}")]
            case "/metrics":
                [
                    response(
                        200,
                        """
                        # HELP minima_pages_total x
                        minima_pages_total 10
                        minima_pages_free 7
                        minima_requests_running 0
                        minima_requests_waiting 0
                        minima_http_requests_in_flight 3
                        minima_engine_failures_total \(asked.number)
                        minima_resident_memory_bytes 5e6
                        """)
                ]
            default:
                [
                    response(
                        200,
                        "{\"choices\":[{\"index\":0,\"text\":\"\(asked.number)\","
                            + "\"finish_reason\":\"stop\"}]}")
                ]
            }
        }
        let result = try await ScriptedServer.with(script) { server in
            try await SoakRunner(
                SoakOptions(
                    address: ServerAddress(host: "127.0.0.1", port: server.port), requests: 80,
                    users: 4, seed: 1, questions: 6, limit: .seconds(5), settleTime: .zero)
            ).run()
        }
        #expect(result.compared > 0 && result.wrong == result.compared)
        #expect((result.unexpected["malformed_body: answered"] ?? 0) > 0)
        #expect(result.leakedPages == 3 && result.leftInFlight == 2)
        #expect(result.engineFailures > 0 && !result.isPassed && !result.examples.isEmpty)
        #expect(result.memory.allSatisfy { $0.bytes == 5_000_000 })
    }

    @Test func serversThatDoNotStart() async throws {
        let port = try await freePort()
        let client = try ServerClient(
            ServerAddress(host: "127.0.0.1", port: port), key: nil, limit: .seconds(5))
        let failing = "sh -c 'exit 7'"
        await #expect(throws: ProcessError.ended(command: failing, status: 7)) {
            try await ServerProcess(command: failing).start(client)
        }
        await #expect(throws: ProcessError.notReady(command: "sleep 100", seconds: 0)) {
            try await ServerProcess(command: "sleep 100", readyTime: 0).start(client)
        }
        try await ScriptedServer.with({ _ in [response(200, "{}")] }) { server in
            let address = ServerAddress(host: "127.0.0.1", port: server.port)
            let client = try ServerClient(address, key: nil, limit: .seconds(60))
            await #expect(throws: ProcessError.occupied(address: address.description)) {
                try await ServerProcess(command: "sleep 100").start(client)
            }
        }
    }

    /// Kinds of requests come in all their forms, the same for the same seed.
    @Test func mix() {
        let requests = (0..<2000).map { SoakRequest($0, seed: 9, questions: 5) }
        let kinds = Dictionary(grouping: requests, by: \.kind).mapValues(\.count)
        #expect(kinds.count == 10 && kinds.values.allSatisfy { $0 >= 20 }, "\(kinds)")
        let again = (0..<2000).map { SoakRequest($0, seed: 9, questions: 5).kind }
        #expect(requests.map(\.kind) == again)
        var points: Set<String> = []
        for case .leave(_, let point, let withReset) in requests {
            points.insert("\(point)".prefix(6) + "\(withReset)")
        }
        #expect(points.count >= 8)
    }

    @Test func stops() throws {
        var random = SplitMix(8)
        var question = SoakQuestion(model: "m", random: &random)
        var answer = Answer()
        (answer.texts, answer.finishReasons) = ([0: "one two one two three"], [0: "length"])
        question.reply = SoakQuestion.Reply(answer)
        var found = 0
        for _ in 0..<50 {
            guard let stopping = question.withStop(&random) else { continue }
            found += 1
            let json = try JSON(parsing: stopping.body(streams: true, asksUsage: true))
            let stop = try #require(json["stop"]?.array?.first?.string)
            let text = try #require(stopping.reply?.texts[0])
            #expect("one two one two three".hasPrefix(text + stop) && !text.contains(stop))
            #expect(stopping.reply?.finishReasons[0] == "stop" && json["stream"] == true)
        }
        #expect(found == 50)
        answer.texts[0] = "short"
        question.reply = SoakQuestion.Reply(answer)
        #expect(question.withStop(&random) == nil)
    }

    @Test func memoryTrend() throws {
        func samples(_ count: Int, restarts: Int = 0, _ bytes: (Int) -> Int)
            -> [SoakResult.MemorySample]
        {
            (0..<count).map { .init(requests: $0, restarts: restarts, bytes: bytes($0)) }
        }
        let flat = samples(5) { _ in 1 } + samples(100, restarts: 1) { $0 < 8 ? 0 : 1 << 30 }
        #expect(MemoryTrend(flat)?.growth == 0)
        let rising = try #require(MemoryTrend(samples(100) { 1_000_000_000 + $0 * 10_000_000 }))
        #expect(rising.growth == 800_000_000 && rising.limit == 1_145_000_000 / 10)
        #expect(MemoryTrend(samples(19) { $0 }) == nil)
    }
}
