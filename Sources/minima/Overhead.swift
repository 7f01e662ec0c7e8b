import ArgumentParser
import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaRuntime
import MinimaServer
import MinimaTokenizer
import Synchronization

struct Overhead: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compares the server's throughput with that of the engine behind it.",
        discussion: """
            One engine, in this process, answers the same number of requests in turn: handed over \
            directly, and over HTTP from `minima load` in a process of its own. With --step-ms the \
            engine only waits so long for each step, as for a GPU: where the model is computed by the \
            cores that the server and its client need, too, what is measured is their rivalry.
            """)

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(help: "Requests at one time.")
    var streams = 50

    @Option(help: "New tokens of each.")
    var tokens = 300

    @Option(help: "Repetitions of each.")
    var repeats = 5

    @Option(help: "Milliseconds of a step of a device that is not there, in place of the model.")
    var stepMs: Double?

    @OptionGroup var compute: ComputeOptions
    @OptionGroup var engine: DeviceEngineOptions

    @Option(help: "What computes: kernels (a GPU's), libtorch, or auto.")
    var backend = BackendChoice.auto

    func validate() throws {
        guard (1...256).contains(streams), (2...1 << 20).contains(tokens) else {
            throw ValidationError("--streams must be 1 to 256, --tokens 2 to \(1 << 20)")
        }
        guard (1...1000).contains(repeats) else {
            throw ValidationError("--repeats must be 1 to 1000")
        }
        guard stepMs.map({ $0 > 0 && $0 <= 10_000 }) ?? true else {
            throw ValidationError("--step-ms must be more than 0 and at most 10000")
        }
    }

    /// Words of a prompt, as those of `minima load` in length.
    private static let prompt = "time year people way day man thing woman"

    func run() throws {
        catchInterrupts()
        let checkpoint = try Checkpoint(path: model)
        let tokenizer = try Tokenizer(directory: checkpoint.path)
        let prompt = try tokenizer.encode(Self.prompt)
        let engine = try engine(checkpoint, longest: 4 * prompt.count + tokens)
        defer { engine.shutDown(.cancel) }
        let server = InferenceServer(
            model: ServedModel(name: "model", tokenizer: tokenizer), engine: engine,
            options: ServerOptions(port: 0))
        let listening = Listening()
        Task {
            do {
                try await server.run { port in listening.state.withLock { $0 = .port(port) } }
            } catch {
                listening.state.withLock { $0 = .failed(error) }
            }
        }
        defer { server.drain() }
        let port = try listening.port()
        // The first round warms both up.
        var (bare, served): ([Double], [Double]) = ([], [])
        for round in 0...repeats {
            let direct = try bareRate(engine, prompt)
            let overHTTP = try servedRate(port)
            try checkInterrupt()
            guard round > 0 else { continue }
            bare.append(direct)
            served.append(overHTTP)
            Terminal.write(
                "minima: round \(round): engine \(short(direct)) tokens/s, server "
                    + "\(short(overHTTP))")
        }
        try Terminal.output(Self.words(bare, served, streams: streams))
    }

    private static func words(_ bare: [Double], _ served: [Double], streams: Int) -> String {
        func row(_ name: String, _ rates: [Double]) -> String {
            let sorted = rates.sorted()
            return "\(name) \(short(median(sorted))) tokens/s (\(short(sorted[0])) to "
                + "\(short(sorted[sorted.count - 1])))"
        }
        let losses = zip(bare, served).map { 100 * (1 - $1 / $0) }.sorted()
        return """
            \(streams) streams, \(bare.count) rounds in turn, median and range:
            \(row("engine", bare))
            \(row("server", served))
            overhead \(fixed(median(losses), 2))% (\(fixed(losses[0], 2))% to \
            \(fixed(losses[losses.count - 1], 2))%)
            """
    }

    private static func median(_ sorted: [Double]) -> Double {
        let middle = sorted.count / 2
        return sorted.count % 2 == 1 ? sorted[middle] : (sorted[middle - 1] + sorted[middle]) / 2
    }

    private func engine(_ checkpoint: Checkpoint, longest: Int) throws -> Engine {
        if let stepMs {
            let vocabulary = try checkpoint.config.int("vocab_size")
            let (slots, microseconds) = (streams, UInt32(stepMs * 1000))
            return try Engine {
                WaitingBackend(
                    slots: slots, longest: longest, vocabulary: vocabulary,
                    microseconds: microseconds)
            }
        }
        return try EngineMaker(
            checkpoint, device: compute.open(), dtype: compute.dtype, backend: backend,
            options: engine, parallel: streams, deterministic: false
        ).open(EngineMaker.Size(slots: streams, maxWaiting: streams, longest: longest))
    }

    /// Tokens per second of all streams, handed to the engine directly.
    private func bareRate(_ engine: Engine, _ prompt: [Int32]) throws -> Double {
        let start = ContinuousClock.now
        let handles = try (0..<streams).map { number in
            try engine.submit(
                GenerationRequest(
                    prompt: prompt, maxTokens: tokens,
                    sampling: SamplingParameters(temperature: 0.8, seed: UInt64(number))))
        }
        var count = 0
        for handle in handles { count += try handle.wait().tokens.count }
        return Double(count) / (ContinuousClock.now - start).totalSeconds
    }

    /// The same over HTTP.
    private func servedRate(_ port: Int) throws -> Double {
        let path = try FileManager.default.destinationOfSymbolicLink(atPath: "/proc/self/exe")
        let quoted = "'" + path.replacing("'", with: "'\\''") + "'"
        let command = """
            \(quoted) load http://127.0.0.1:\(port) --interface completions --ignore-eos \
            --concurrency \(streams) --requests \(streams) --prompt-tokens 8 \
            --answer-tokens \(tokens) --temperature 0.8 --json 2>/dev/null
            """
        guard let pipe = popen(command, "r") else {
            throw OverheadError.noClient(reason: String(cString: strerror(errno)))
        }
        var bytes: [UInt8] = []
        var chunk = [UInt8](repeating: 0, count: 65536)
        while case let count = fread(&chunk, 1, chunk.count, pipe), count > 0 {
            bytes += chunk.prefix(count)
        }
        let status = pclose(pipe)
        guard status == 0 else { throw OverheadError.noClient(reason: "it ended with \(status)") }
        let result = try LoadResult(json: String(decoding: bytes, as: UTF8.self))
        guard result.completed == streams, result.answerTokens == streams * tokens else {
            throw OverheadError.incomplete(
                answers: result.completed, tokens: result.answerTokens, wanted: streams * tokens)
        }
        return result.outputThroughput
    }
}

/// Where a server listens, once it does.
private final class Listening: Sendable {
    enum State {
        case starting
        case port(Int)
        case failed(any Error)
    }

    let state = Mutex(State.starting)

    func port() throws -> Int {
        while true {
            switch state.withLock({ $0 }) {
            case .starting: usleep(1000)
            case .port(let port): return port
            case .failed(let error): throw error
            }
        }
    }
}

/// Why the comparison could not be made.
private enum OverheadError: Error, CustomStringConvertible {
    case noClient(reason: String)
    case incomplete(answers: Int, tokens: Int, wanted: Int)

    var description: String {
        switch self {
        case .noClient(let reason): "`minima load`, the client, failed: \(reason)"
        case .incomplete(let answers, let tokens, let wanted):
            "the client got \(answers) answers with \(tokens) tokens, \(wanted) were asked for"
        }
    }
}

/// A device whose steps take a time and compute nothing.
private final class WaitingBackend: DecodeBackend {
    let capacity: DecodeCapacity
    private let microseconds: UInt32
    private var counts: [Int: Int] = [:]
    private var results: [[[SampledToken]]] = []

    init(slots: Int, longest: Int, vocabulary: Int, microseconds: UInt32) {
        capacity = DecodeCapacity(
            slots: slots, pages: slots * (longest / 64 + 2), context: longest + 1,
            vocabulary: vocabulary, buckets: Array(1...slots), deterministicBucket: 1,
            queuedSteps: 1)
        self.microseconds = microseconds
    }

    func open(_ slot: Int, _ sequence: SequenceStart) { counts[slot] = 0 }
    func close(_ slot: Int) { counts[slot] = nil }

    func prefill(_ chunk: PrefillChunk) {
        if chunk.samples { results.append([[token(chunk.slot)]]) }
    }

    func decode(_ batch: DecodeBatch) {
        usleep(microseconds)
        results.append(batch.rows.map { [token($0.slot)] })
    }

    func collect() -> [[SampledToken]] { results.removeFirst() }

    /// Ids that walk through the vocabulary.
    private func token(_ slot: Int) -> SampledToken {
        let count = counts[slot, default: 0]
        counts[slot] = count + 1
        return SampledToken(id: Int32((300 + 7 * count) % capacity.vocabulary))
    }
}
