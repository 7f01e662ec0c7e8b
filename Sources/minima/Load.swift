import ArgumentParser
import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaLoad
import Synchronization

struct Load: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Puts an OpenAI-compatible server under load and measures what users would see.",
        discussion: """
            With --rate requests are sent when they are due, whatever became of those before, and \
            times count from when each was due, so that a server that stalls is charged for the \
            requests that its stall held up. With --concurrency that many users each wait for an \
            answer before they ask again. TTFT is the time to the first token, TPOT an answer's mean \
            time per token after it, ITL the time between two pieces of a stream, E2EL the time to \
            the end. Percentiles are HdrHistogram's, to three digits.

            With --soak a Minima server is put through what servers meet: answers of all kinds, \
            malformed and oversize requests, clients that go, stall or half-close at any moment, and \
            with --command --kills the server's own end. Answers are compared with those of \
            requests made one at a time before; run the server with --deterministic.
            """)

    @Argument(help: "The server: http://HOST:PORT; with or without /v1.")
    var url: String

    @Option(help: "Requests per second, sent when due (open loop).")
    var rate: Double?

    @Option(help: "Gaps between requests of --rate: poisson or constant.")
    var arrivals = ArrivalChoice.poisson

    @Option(help: "Users who each wait for their answer (closed loop). Default: 8.")
    var concurrency: Int?

    @Option(help: "Requests to measure. Default: 100, or what --duration allows.")
    var requests: Int?

    @Option(help: "Seconds during which requests are sent.")
    var duration: Double?

    @Option(help: "Requests before those that are measured.")
    var warmUp = 0

    @Option(
        help: """
            Tokens of prompts: fixed:N, uniform:LOW:HIGH, normal:MEAN:DEVIATION or \
            lognormal:MEDIAN:SIGMA. Prompts are English words; how many tokens a word has is measured.
            """)
    var promptTokens = "fixed:256"

    @Option(help: "New tokens asked for, likewise.")
    var answerTokens = "fixed:128"

    @Option(help: "Tokens with which all prompts begin alike; otherwise all begin differently.")
    var sharedPrefix = 0

    @Option(
        help: """
            Prompts from a file, in turn: JSON lines or an array of strings, or of objects with \
            prompt, messages or ShareGPT's conversations.
            """, completion: .file())
    var prompts: String?

    @Option(help: "Interface: chat or completions.")
    var interface = InterfaceChoice.chat

    @Option(help: "The model's name. Default: the first that the server lists.")
    var model: String?

    @Flag(help: "Let answers go on after the model ends them, where the server can.")
    var ignoreEos = false

    @Option(help: "Temperature of sampling. Default: the server's.")
    var temperature: Double?

    @Option(help: "Seed of lengths, words, gaps. Default: a new one, so that no cache knows them.")
    var seed: UInt64?

    @Option(
        help: "Objectives of a good answer in milliseconds, such as ttft:500,tpot:50,e2el:9000.")
    var slo: String?

    @Option(help: "Seconds after which a request has failed.")
    var timeout = 600.0

    @Option(
        help: "File of the API key. Default: the variable MINIMA_API_KEY.", completion: .file())
    var apiKeyFile: String?

    @OptionGroup(title: "Soak") var soak: SoakOptionGroup

    @Flag(help: "Print the result as JSON.")
    var json = false

    @Option(help: "Write the result to this file as JSON.", completion: .file(extensions: ["json"]))
    var save: String?

    func validate() throws {
        try soak.check()
        guard rate == nil || concurrency == nil else {
            throw ValidationError("--rate is for an open loop and --concurrency for a closed one")
        }
        guard rate.map({ $0 > 0 && $0 <= 1e6 }) ?? true else {
            throw ValidationError("--rate must be more than 0 and at most 1000000")
        }
        guard (1...65536).contains(concurrency ?? 1) else {
            throw ValidationError("--concurrency must be between 1 and 65536")
        }
        guard (1...1 << 40).contains(requests ?? 1), (0...1 << 40).contains(warmUp) else {
            throw ValidationError("--requests must be at least 1, --warm-up at least 0")
        }
        guard duration.map({ $0 > 0 && $0 <= 1e7 }) ?? true, timeout > 0, timeout <= 1e7 else {
            throw ValidationError("--duration and --timeout must be more than 0, at most 10000000")
        }
        guard (0...LengthDistribution.longest).contains(sharedPrefix) else {
            throw ValidationError("--shared-prefix must be 0 to \(LengthDistribution.longest)")
        }
        guard temperature.map({ (0...100).contains($0) }) ?? true else {
            throw ValidationError("--temperature must be between 0 and 100")
        }
        guard prompts == nil || sharedPrefix == 0 else {
            throw ValidationError("--shared-prefix is for prompts of words, not for --prompts")
        }
        do {
            _ = try LengthDistribution(promptTokens)
            _ = try LengthDistribution(answerTokens)
            _ = try slo.map { try Objectives($0) }
            _ = try ServerAddress(url)
        } catch {
            throw ValidationError("\(error)")
        }
    }

    func run() throws {
        catchInterrupts()
        raiseFileLimit()
        let seed = seed ?? .random(in: 0...UInt64(UInt32.max))
        if soak.requests != nil {
            let result = try soak.run(url: url, key: key(), seed: seed, timeout: timeout)
            try put(result, table: soak.table(result))
            guard result.isPassed else { throw SoakFailure() }
            return
        }
        var options = LoadOptions(
            address: try ServerAddress(url), key: try key(), model: model,
            interface: interface == .chat ? .chat : .completions, warmUp: warmUp,
            promptTokens: try LengthDistribution(promptTokens),
            answerTokens: try LengthDistribution(answerTokens), sharedPrefix: sharedPrefix,
            ignoresEnd: ignoreEos, temperature: temperature, seed: seed,
            limit: .seconds(timeout), objectives: try slo.map { try Objectives($0) } ?? .init())
        options.duration = duration.map { .seconds($0) }
        options.requests = requests ?? (duration == nil ? 100 : nil)
        if let rate {
            options.arrivals = .open(rate: rate, isPoisson: arrivals == .poisson)
        } else {
            options.arrivals = .closed(users: concurrency ?? 8)
        }
        if let prompts { options.prompts = try FilePrompt.read(readBytes(prompts), path: prompts) }
        let runner = try LoadRunner(options) { Terminal.write("minima: \($0)") }
        let result = try awaitResult({ runner.progress }) { try await runner.run() }
        try put(result, table: LoadTable(result).text)
        if result.completed == 0 { throw NoAnswers(errors: result.errors) }
    }

    private func put(_ result: some StageResult, table: String) throws {
        if let save { try AtomicFile.write(try result.json() + "\n", to: save) }
        if json { return try result.printJSON() }
        try Terminal.output(table, terminator: "")
    }

    /// The key that requests show; its file's first line, or the environment's.
    private func key() throws -> String? {
        guard let apiKeyFile else {
            let key = ProcessInfo.processInfo.environment["MINIMA_API_KEY"] ?? ""
            return key.isEmpty ? nil : key
        }
        let lines = try readText(apiKeyFile).split(whereSeparator: \.isNewline)
        let keys = lines.map { $0.filter { !$0.isWhitespace } }
        guard let key = keys.first(where: { !$0.isEmpty && !$0.hasPrefix("#") }) else {
            throw ValidationError("\(apiKeyFile) holds no key; write one into its first line")
        }
        return key
    }

    private func readBytes(_ path: String) throws -> [UInt8] {
        do {
            return try readFile(path, limit: 4 << 30)
        } catch {
            throw TextError.unreadable(path: path, reason: error.reason)
        }
    }
}

/// Gaps between requests.
enum ArrivalChoice: String, ExpressibleByArgument, CaseIterable { case poisson, constant }

/// Where requests go.
enum InterfaceChoice: String, ExpressibleByArgument, CaseIterable { case chat, completions }

/// No request was answered.
private struct NoAnswers: Error, CustomStringConvertible {
    var errors: [String: Int]

    var description: String {
        let kinds = errors.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }
        return "no request was answered: \(kinds.joined(separator: ", "))"
    }
}

/// Every request in flight has a connection.
private func raiseFileLimit() {
    var limit = rlimit()
    guard getrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit) == 0 else { return }
    limit.rlim_cur = limit.rlim_max
    // The limit that there was will do for most runs.
    _ = setrlimit(__rlimit_resource_t(RLIMIT_NOFILE.rawValue), &limit)
}

/// Runs `work` on Swift's threads while this one shows progress and watches for Ctrl-C.
func awaitResult<Result: Sendable>(
    _ progress: @escaping () -> StageProgress,
    _ work: @escaping @Sendable () async throws -> Result
) throws -> Result {
    let outcome = Outcome<Result>()
    let task = Task {
        do {
            let result = try await work()
            outcome.value.withLock { $0 = .success(result) }
        } catch {
            outcome.value.withLock { $0 = .failure(error) }
        }
    }
    let line = ProgressLine()
    while true {
        if let result = outcome.value.withLock({ $0 }) {
            let last = progress()
            if last.total > 0, last.unit != "runs" { try line.show(last) }
            return try result.get()
        }
        do {
            let state = progress()
            // The last report ends the line; it is shown once there is a result.
            if state.done < state.total, state.unit != "runs" { try line.show(state) }
            try checkInterrupt()
        } catch {
            task.cancel()
            throw error
        }
        usleep(20_000)
    }
}

/// How a task ended; `nil` while it runs.
private final class Outcome<Result: Sendable>: Sendable {
    let value = Mutex<Swift.Result<Result, any Error>?>(nil)
}
