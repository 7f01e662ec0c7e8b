import Foundation
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTemplate
import MinimaTensor
import MinimaTestSupport
import MinimaTokenizer
import Synchronization

@testable import MinimaServer

/// The trained example model.
let exampleModel = "\(packageFolder())/Examples/tiny-qwen3-4m"

/// The example model's tokenizer, template and ends.
func exampleServed() throws -> ServedModel {
    let checkpoint = try Checkpoint(path: exampleModel)
    let chat = try CheckpointTemplates.find(in: exampleModel).map {
        ServedModel.Chat(template: try $0.template(), variables: $0.specialTokens)
    }
    return ServedModel(
        name: "tiny", aliases: ["tiny/model"], tokenizer: try Tokenizer(directory: exampleModel),
        chat: chat, documentStart: try checkpoint.config.documentStart(),
        stop: try checkpoint.stopTokens(), created: 1_700_000_000, fingerprint: "minima-test")
}

/// An engine of the example model on the CPU.
func exampleEngine(slots: Int = 8, maxWaiting: Int = 256) throws -> Engine {
    // As the command does; read when libtorch is opened.
    setenv("OMP_WAIT_POLICY", "passive", 0)
    let checkpoint = try Checkpoint(path: exampleModel)
    return try Engine(EngineOptions(maxWaiting: maxWaiting)) {
        try TorchBackend(
            checkpoint.loadModel(device: .cpu, dtype: .float32), slots: slots, pages: 256,
            prefillChunk: 256)
    }
}

/// A server on a free port, for as long as a test needs it.
final class TestServer: Sendable {
    let server: InferenceServer
    let engine: Engine
    let port: Int
    private let lines: LogLines
    private let task: Task<Void, any Error>

    /// What was logged.
    var logged: [String] { lines.all.withLock { $0 } }

    private init(
        _ server: InferenceServer, _ engine: Engine, _ port: Int, _ lines: LogLines,
        _ task: Task<Void, any Error>
    ) {
        (self.server, self.engine, self.port) = (server, engine, port)
        (self.lines, self.task) = (lines, task)
    }

    /// Runs `body` against a server; afterwards all pages must be free and all tasks gone.
    static func with<Result>(
        _ engine: Engine, _ options: ServerOptions = ServerOptions(), model: ServedModel? = nil,
        _ body: (TestServer) async throws -> Result
    ) async throws -> Result {
        var options = options
        options.port = 0
        let lines = LogLines()
        let server = InferenceServer(
            model: try model ?? exampleServed(), engine: engine, options: options,
            log: { line in lines.all.withLock { $0.append(line) } })
        let (ports, source) = AsyncStream<Int>.makeStream()
        let task = Task {
            defer { source.finish() }
            try await server.run { source.yield($0) }
        }
        var iterator = ports.makeAsyncIterator()
        guard let port = await iterator.next() else {
            try await task.value
            throw TestError.noPort
        }
        let test = TestServer(server, engine, port, lines, task)
        defer { engine.shutDown(.cancel) }
        let result: Result
        do {
            result = try await body(test)
        } catch {
            server.drain()
            throw error
        }
        server.drain()
        try await task.value
        return result
    }

    /// Waits until nothing runs and no page is held; false when that does not come.
    func becomesIdle() async -> Bool {
        await becomes { $0.running == 0 && $0.waiting == 0 && $0.freePages == $0.totalPages }
    }

    /// Waits until the engine's metrics are as a test wants them; false when that does not come.
    func becomes(_ holds: (EngineMetrics) -> Bool) async -> Bool {
        await eventually { holds(engine.metrics) }
    }
}

/// Waits until `holds`; false after two minutes, which a busy machine may need.
func eventually(_ holds: () -> Bool) async -> Bool {
    for _ in 0..<24_000 {
        if holds() { return true }
        try? await Task.sleep(for: .milliseconds(5))
    }
    return holds()
}

private final class LogLines: Sendable {
    let all = Mutex<[String]>([])
}

enum TestError: Error {
    case noPort, cannotConnect(Int32), noResponse, notJSON(String)
}

/// A backend whose answers are written down: the token after a sequence is a function of the tokens
/// that were given to it and of how many it has made.
final class ScriptedBackend: DecodeBackend {
    struct Broken: Error {}

    let capacity: DecodeCapacity
    /// The next token of a sequence that began with `start` and has made `count` tokens.
    private let next: @Sendable (_ start: SequenceStart, _ count: Int) throws -> Int32
    private let stepTime: Duration
    private var slots: [Int: (start: SequenceStart, count: Int)] = [:]
    private var results: [[[SampledToken]]] = []

    init(
        slots: Int = 4, pages: Int = 512, context: Int = 1024, stepTime: Duration = .zero,
        next: @escaping @Sendable (_ start: SequenceStart, _ count: Int) throws -> Int32
    ) {
        capacity = DecodeCapacity(
            slots: slots, pages: pages, pageTokens: 16, context: context, vocabulary: 8192,
            prefillChunk: 256, buckets: Array(1...slots), deterministicBucket: 1, queuedSteps: 1)
        self.stepTime = stepTime
        self.next = next
    }

    func open(_ slot: Int, _ sequence: SequenceStart) { slots[slot] = (sequence, 0) }
    func close(_ slot: Int) { slots[slot] = nil }

    func prefill(_ chunk: PrefillChunk) throws {
        if chunk.samples { results.append([[try token(chunk.slot)]]) }
    }

    func decode(_ batch: DecodeBatch) throws {
        if stepTime > .zero { usleep(UInt32(stepTime.totalSeconds * 1e6)) }
        results.append(try batch.rows.map { [try token($0.slot)] })
    }

    func collect() throws -> [[SampledToken]] { results.removeFirst() }

    private func token(_ slot: Int) throws -> SampledToken {
        guard let state = slots[slot] else { throw Broken() }
        let id = try next(state.start, state.count)
        slots[slot]?.count += 1
        return SampledToken(
            id: id, logprob: state.start.sampling.logprobs.map { _ in -0.5 }, alternatives: [])
    }

    /// An engine whose answers repeat the tokens of `text`, then end.
    static func engine(
        _ text: String, slots: Int = 4, stepTime: Duration = .zero,
        _ options: EngineOptions = EngineOptions()
    ) throws -> Engine {
        let ids = try Tokenizer(directory: exampleModel).encode(text, addSpecialTokens: false)
        return try Engine(options) {
            ScriptedBackend(slots: slots, stepTime: stepTime) { _, count in
                count < ids.count ? ids[count] : 0
            }
        }
    }

    /// As many tokens as no test waits for at 2 ms a step.
    static let endlessTokens: Int64 = 100_000

    /// An engine whose answers never end by themselves.
    static func endless(
        slots: Int = 4, stepTime: Duration, _ options: EngineOptions = EngineOptions()
    ) throws -> Engine {
        try Engine(options) {
            ScriptedBackend(
                slots: slots, pages: 8 * Int(endlessTokens) / 16,
                context: Int(endlessTokens) + 1024,
                stepTime: stepTime
            ) { _, count in
                Int32(300 + count % 1000)
            }
        }
    }
}

extension InferenceServer {
    /// The page of metrics.
    var metricsText: String { metrics.text(engine.metrics, health: health, memory: memory) }
}
