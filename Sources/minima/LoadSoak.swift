import ArgumentParser
import MinimaCore
import MinimaLoad

/// What `minima load --soak` is given.
struct SoakOptionGroup: ParsableArguments {
    @Option(name: .customLong("soak"), help: "Soak a Minima server with this many requests.")
    var requests: Int?

    @Option(help: "Users of the soak.")
    var users = 24

    @Option(
        help: """
            Starts the server, on the port of URL, such as "minima serve MODEL --port 8123 \
            --deterministic --quiet"; it is ended afterwards.
            """)
    var command: String?

    @Option(
        help: "With --command, times to end the server meanwhile: by SIGTERM, SIGKILL, in turn.")
    var kills = 0

    @Option(help: "The server's process, to see its memory. Default: what the server says.")
    var pid: Int32?

    @Option(help: "Questions of the soak whose answers are known. Default: by the requests.")
    var questions: Int?

    func check() throws {
        guard requests != nil else {
            guard command == nil, kills == 0, pid == nil, questions == nil else {
                throw ValidationError("--command, --kills, --pid and --questions are for --soak")
            }
            return
        }
        guard (1...1 << 40).contains(requests ?? 1) else {
            throw ValidationError("--soak must be at least 1")
        }
        guard (1...4096).contains(users), (0...1000).contains(kills) else {
            throw ValidationError("--users must be 1 to 4096, --kills 0 to 1000")
        }
        guard (1...100_000).contains(questions ?? 1) else {
            throw ValidationError("--questions must be 1 to 100000")
        }
        guard kills == 0 || command != nil else {
            throw ValidationError("--kills needs --command, to start the server again")
        }
        guard pid == nil || command == nil else {
            throw ValidationError("--command knows the server's process; leave out --pid")
        }
    }

    /// Soaks the server with `requests`, which are given.
    func run(url: String, key: String?, seed: UInt64, timeout: Double) throws -> SoakResult {
        guard let requests else { throw ValidationError("--soak needs a number of requests") }
        let runner = try SoakRunner(
            SoakOptions(
                address: try ServerAddress(url), key: key, requests: requests, users: users,
                seed: seed, questions: questions, process: pid,
                server: command.map { ServerProcess(command: $0) }, kills: kills,
                limit: .seconds(timeout)))
        return try awaitResult({ runner.progress }) { try await runner.run() }
    }

    /// The result for a terminal.
    func table(_ result: SoakResult) -> String {
        let list = { (counts: [String: Int]) in
            counts.sorted { $0.key < $1.key }.map { "\($0.key) \(grouped($0.value))" }
                .joined(separator: ", ")
        }
        let mebibytes = { (bytes: Int) in "\(fixed(Double(bytes) / 1_048_576, 1)) MiB" }
        var lines = [
            "\(result.address), \(result.model); \(grouped(result.requests)) requests of "
                + "\(result.users) users in \(duration(result.seconds)), seed \(result.seed)",
            "requests: \(list(result.kinds))",
            "outcomes: \(list(result.outcomes))",
            "answers compared with single ones: \(grouped(result.compared)), wrong: "
                + "\(grouped(result.wrong))",
        ]
        if result.terminations + result.kills > 0 {
            lines.append(
                "server ended and started again: \(result.terminations) × SIGTERM, "
                    + "\(result.kills) × SIGKILL")
        }
        if result.retries > 0 {
            lines.append("refused with 429 and asked again: \(grouped(result.retries))")
        }
        lines.append(
            "afterwards: \(result.leakedPages) of \(grouped(result.pages)) pages held, "
                + "\(result.leftInFlight) requests in flight, \(result.engineFailures) failures of "
                + "the engine")
        if let first = result.memory.first, let last = result.memory.last {
            let trend = result.growth.map {
                "; second to last tenth: \(mebibytes($0)), flat up to \(mebibytes(result.growthLimit))"
            }
            lines.append(
                "server's memory: \(mebibytes(first.bytes)) at first, \(mebibytes(last.bytes)) at "
                    + "last" + (trend ?? ""))
        } else {
            lines.append("server's memory: not seen; give --pid")
        }
        if !result.unexpected.isEmpty { lines.append("unexpected: \(list(result.unexpected))") }
        lines += result.examples.map { "  \($0)" }
        lines.append(result.isPassed ? "passed" : "failed")
        return lines.map { $0 + "\n" }.joined()
    }
}

/// A soak found something.
struct SoakFailure: Error, CustomStringConvertible {
    var description: String { "the soak found faults; they are listed above" }
}
