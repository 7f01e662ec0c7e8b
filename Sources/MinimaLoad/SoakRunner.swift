import Glibc
import MinimaCore
import NIOCore
import Synchronization

/// Does to a server what clients and operators do to servers, and looks at what is left.
///
/// Answers are compared with those that the same requests got when they were alone. They are equal
/// where a server computes each answer alike whatever is computed beside it (`--deterministic`);
/// otherwise sums of other lengths may round otherwise, and tokens that are as likely as each other
/// change places.
public final class SoakRunner: Sendable {
    let options: SoakOptions
    let client: ServerClient
    let record = SoakRecord()
    private let life = ServerLife()
    private let stage = Mutex("start")
    private let prepared = Atomic<Int>(0)

    /// A soak that has not begun.
    public init(_ options: SoakOptions) throws(LoadError) {
        self.options = options
        client = try ServerClient(
            options.address, key: options.key, limit: TimeAmount(options.limit))
    }

    /// How far it is, for a line of progress.
    public var progress: StageProgress {
        let name = stage.withLock { $0 }
        guard name == "soak" else {
            return StageProgress(
                stage: name, done: prepared.load(ordering: .relaxed), total: questionCount,
                unit: name == "start" ? "runs" : "answers")
        }
        let state = record.current
        var note = "\(state.wrong) wrong"
        if !state.unexpected.isEmpty {
            note += ", \(state.unexpected.values.reduce(0, +)) unexpected"
        }
        if let last = state.memory.last { note += ", server \(last.bytes >> 20) MiB" }
        return StageProgress(
            stage: name, done: state.done, total: options.requests, unit: "requests", note: note)
    }

    private var questionCount: Int {
        options.questions ?? min(max(options.requests / 40, 12), 96)
    }

    /// Runs it.
    ///
    /// - Throws: ``LoadError`` or ``ProcessError`` when it cannot begin, or the server does not come
    ///   back; whatever else goes wrong is part of the result.
    public func run() async throws -> SoakResult {
        try await options.server?.start(client)
        let model = try await client.modelName()
        let before = try await client.state()
        let questions = try await questions(model)
        let start = ContinuousClock.now
        stage.withLock { $0 = "soak" }
        try await soak(questions)
        let seconds = (ContinuousClock.now - start).totalSeconds
        let after = try await settled()
        sampleMemory(after.residentBytes)
        let restarts = life.count
        _ = try await options.server?.end(SIGTERM, limit: .seconds(60))
        let state = record.current
        return SoakResult(
            address: options.address.description, model: model, requests: state.done,
            users: options.users, seed: options.seed, seconds: seconds, kinds: state.kinds,
            outcomes: state.outcomes, compared: state.compared, wrong: state.wrong,
            unexpected: state.unexpected, examples: state.examples, retries: state.retries,
            terminations: state.terminations, kills: state.kills, pages: after.pages,
            leakedPages: after.heldPages, leftInFlight: max(after.inFlight - 1, 0),
            engineFailures: after.failures - (restarts == 0 ? before.failures : 0),
            memory: state.memory, growth: MemoryTrend(state.memory)?.growth,
            growthLimit: MemoryTrend(state.memory)?.limit ?? MemoryTrend.leastLimit)
    }

    /// The server's state once nothing of a request is left, or time is up.
    private func settled() async throws -> ServerState {
        let start = ContinuousClock.now
        while true {
            let state = try await client.state()
            if state.isIdle || ContinuousClock.now - start > options.settleTime { return state }
            try await Task.sleep(for: .milliseconds(50))
        }
    }

    // MARK: Before

    /// Questions with the answers that they get alone.
    private func questions(_ model: String) async throws -> [SoakQuestion] {
        stage.withLock { $0 = "answers one at a time" }
        var random = SplitMix(options.seed)
        var questions: [SoakQuestion] = []
        while questions.count < questionCount {
            try Task.checkCancellation()
            var question = SoakQuestion(model: model, random: &random)
            let outcome = await client.answer(to: question.body(streams: false), question.path)
            switch outcome {
            case .complete(let answer): question.reply = SoakQuestion.Reply(answer)
            case .failed(.status(429), let wait, _):
                try await Task.sleep(for: .seconds(wait ?? 1))
                continue
            case .failed(let failure, _, let message):
                throw LoadError.notAnswered(path: question.path, reason: "\(failure): \(message)")
            }
            questions.append(question)
            if questions.count % 3 == 0, questions.count < questionCount,
                let stopping = question.withStop(&random)
            {
                questions.append(stopping)
            }
            prepared.store(questions.count, ordering: .relaxed)
        }
        return questions
    }

    // MARK: The soak

    private func soak(_ questions: [SoakQuestion]) async throws {
        let next = Counter(0)
        // The first fifth, so that the rest shows the memory of one life.
        let spacing = max(options.requests / 5 / (options.kills + 1), 1)
        let kills = options.kills
        let looks = max(options.requests / 100, 1)
        try await withThrowingTaskGroup { group in
            for _ in 0..<options.users {
                group.addTask { [self] in
                    while true {
                        let number = next.next()
                        guard number < options.requests else { return }
                        try Task.checkCancellation()
                        if number > 0, number % spacing == 0, number / spacing <= kills {
                            try await restart(number / spacing % 2 == 1 ? .termination : .kill)
                        }
                        let ends = await life.wait()
                        let request = SoakRequest(
                            number, seed: options.seed, questions: questions.count)
                        let outcome = await perform(request, questions, number)
                        record.add(
                            request.kind, outcome, interruption: life.interruption(since: ends))
                        if number % looks == 0 { await lookAtMemory() }
                    }
                }
            }
            try await group.waitForAll()
        }
    }

    /// Ends the server while others use it, and starts it again on the same port.
    private func restart(_ interruption: SoakInterruption) async throws {
        guard let server = options.server else { return }
        _ = await life.wait()
        life.end(interruption)
        // Also when it does not come back: nobody must go on waiting for it.
        defer { life.begin() }
        let signal = interruption == .termination ? SIGTERM : SIGKILL
        let code = try await server.end(signal, limit: .seconds(60))
        record.ended(by: interruption)
        if interruption == .termination, code != 0 {
            record.fault(
                "SIGTERM: the server ended with \(code.map { "\($0)" } ?? "a kill, 60 s later")")
        }
        try await server.start(client)
    }

    private func lookAtMemory() async {
        if options.process == nil, options.server == nil {
            sampleMemory((try? await client.state())?.residentBytes)
        } else {
            sampleMemory(nil)
        }
    }

    private func sampleMemory(_ reported: Int?) {
        // A process that is about to become the server, or has ended, tells nothing.
        guard let restarts = life.countWhileUp else { return }
        let process = options.server?.number ?? options.process
        guard let bytes = process.flatMap({ ProcessMemory.resident(of: $0) }) ?? reported,
            life.countWhileUp == restarts
        else { return }
        record.add(
            SoakResult.MemorySample(
                requests: record.current.done, restarts: restarts, bytes: bytes))
    }
}

/// How a server's memory went.
struct MemoryTrend: Hashable {
    /// Mean of the last tenth of the looks less that of the second tenth, bytes.
    let growth: Int
    /// What counts as flat: a tenth, or ``leastLimit``.
    let limit: Int

    /// Bytes of growth that count as flat at least. malloc keeps what is freed, in an arena of each
    /// thread, and bodies have up to 8 MiB: runs of 10,000 requests grew by 9 and 20 MiB, in steps.
    /// A leak of 4 KiB a request would pass it in 8,000.
    static let leastLimit = 32 << 20

    /// The trend of the longest life among `samples`; `nil` for fewer than 20 looks.
    init?(_ samples: [SoakResult.MemorySample]) {
        let lives = Dictionary(grouping: samples, by: \.restarts)
        guard let life = lives.values.max(by: { $0.count < $1.count }), life.count >= 20 else {
            return nil
        }
        let bytes = life.sorted { $0.requests < $1.requests }.map(\.bytes)
        let tenth = bytes.count / 10
        let mean = { (part: ArraySlice<Int>) in part.reduce(0, +) / part.count }
        let early = mean(bytes[tenth..<2 * tenth])
        growth = mean(bytes.suffix(tenth)) - early
        limit = max(early / 10, Self.leastLimit)
    }
}
