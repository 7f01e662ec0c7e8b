import MinimaCore
import NIOCore
import NIOHTTP1
import Synchronization

/// Puts a server under load and measures what its users would see.
///
/// In an open loop requests are sent when they are due, whatever became of those before, and times
/// count from when a request was due: a server that stalls is not spared the requests that its
/// stall would have held up (no coordinated omission). In a closed loop each user waits for an
/// answer, so that times tell of that number of users only.
public final class LoadRunner: Sendable {
    private let options: LoadOptions
    private let client: ServerClient
    private let note: @Sendable (String) -> Void
    private let measurements: Measurements
    private let isDone = Atomic<Bool>(false)
    private let phase = Mutex<(name: String, start: NIODeadline?)>(("connect", nil))

    /// - Parameter note: Receives what a user should know, such as parameters that the server does
    ///   not take.
    public init(
        _ options: LoadOptions, note: @escaping @Sendable (String) -> Void = { _ in }
    ) throws(LoadError) {
        self.options = options
        self.note = note
        client = try ServerClient(
            options.address, key: options.key, limit: TimeAmount(options.limit))
        measurements = Measurements(objectives: options.objectives)
    }

    /// How far it is, for a line of progress.
    public var progress: StageProgress {
        let (name, start) = phase.withLock { $0 }
        guard let start else {
            return StageProgress(stage: name, done: 0, total: 1, unit: "runs")
        }
        let counts = measurements.counts
        let done = counts.completed + counts.failed
        var text = "\(counts.started - done) in flight, \(counts.tokens) tokens"
        if counts.failed > 0 { text += ", \(counts.failed) failed" }
        let isOver = isDone.load(ordering: .relaxed)
        var total = isOver ? done : options.requests ?? .max
        if let duration = options.duration, !isOver {
            // As many as there will be at this rate.
            let passed = Double((NIODeadline.now() - start).nanoseconds) / 1e9
            let share = max(duration.totalSeconds / max(passed, 1e-3), 1)
            total = min(total, max(Int(min(Double(done) * share, 1e15)), counts.started) + 1)
        }
        return StageProgress(
            stage: name, done: done, total: total, unit: "requests",
            note: text)
    }

    /// Runs it.
    ///
    /// - Throws: ``LoadError`` when the server does not answer a first request; requests that fail
    ///   later are counted.
    public func run() async throws -> LoadResult {
        let model: String
        if let name = options.model { model = name } else { model = try await client.modelName() }
        let probe = ServerProbe(client: client, options: options, note: note)
        let maker = try await probe.maker(model)
        if options.warmUp > 0 {
            phase.withLock { $0.name = "warm up" }
            await warmUp(maker)
        }
        try Task.checkCancellation()
        let start = NIODeadline.now()
        phase.withLock { $0 = ("load", start) }
        switch options.arrivals {
        case .closed(let users): await closedLoop(maker, users: users, from: start)
        case .open(let rate, let isPoisson):
            await openLoop(maker, rate: rate, isPoisson: isPoisson, from: start)
        }
        isDone.store(true, ordering: .relaxed)
        try Task.checkCancellation()
        return measurements.result(maker, from: start)
    }

    private func warmUp(_ maker: PromptMaker) async {
        let users: Int
        switch options.arrivals {
        case .closed(let count): users = count
        case .open: users = 8
        }
        let next = Counter(1)
        await withTaskGroup { group in
            for _ in 0..<min(users, options.warmUp) {
                group.addTask { [self] in
                    while !Task.isCancelled {
                        let number = next.next()
                        guard number <= options.warmUp else { return }
                        _ = await client.answer(
                            to: maker.body(-number).bytes, options.interface.path)
                    }
                }
            }
        }
    }

    /// When no more requests are sent.
    private func end(_ start: NIODeadline) -> NIODeadline {
        options.duration.map { start + TimeAmount($0) } ?? .distantFuture
    }

    // MARK: Closed loop

    private func closedLoop(_ maker: PromptMaker, users: Int, from start: NIODeadline) async {
        let next = Counter(0)
        let (total, end) = (options.requests ?? .max, end(start))
        await withTaskGroup { group in
            for _ in 0..<min(users, total) {
                group.addTask { [self] in
                    while !Task.isCancelled, NIODeadline.now() < end {
                        let number = next.next()
                        guard number < total else { return }
                        await ask(maker, number)
                    }
                }
            }
        }
    }

    /// One user's request; when the server asks to wait, the user does and asks again.
    private func ask(_ maker: PromptMaker, _ number: Int) async {
        let body = maker.body(number).bytes
        measurements.start(delay: nil)
        let asked = NIODeadline.now()
        while true {
            switch await client.answer(to: body, options.interface.path) {
            case .complete(let answer): return measurements.add(answer, intended: asked)
            case .failed(.status(429), let wait?, _)
            where NIODeadline.now() + .seconds(Int64(wait)) < asked + TimeAmount(options.limit):
                measurements.retry()
                try? await Task.sleep(for: .seconds(wait))
                if Task.isCancelled { return measurements.fail(.status(429)) }
            case .failed(let failure, _, _): return measurements.fail(failure)
            }
        }
    }

    // MARK: Open loop

    private func openLoop(
        _ maker: PromptMaker, rate: Double, isPoisson: Bool, from start: NIODeadline
    ) async {
        var random = SplitMix(options.seed ^ 0x6172_7269_7661_6c)
        let (total, end) = (options.requests ?? .max, end(start))
        await withDiscardingTaskGroup { group in
            var seconds = 0.0
            for number in 0..<total {
                // Even gaps begin at 0, random ones with a gap.
                seconds += isPoisson ? random.exponential() / rate : number == 0 ? 0 : 1 / rate
                let due = start + .nanoseconds(Int64(min(seconds * 1e9, 9e18 / 2)))
                guard due < end else { return }
                // Made before it is due: a long prompt takes time.
                let body = maker.body(number).bytes
                let wait = due - .now()
                if wait > .nanoseconds(0) {
                    try? await Task.sleep(for: .nanoseconds(wait.nanoseconds), tolerance: .zero)
                }
                if Task.isCancelled { return }
                let delay = Double((NIODeadline.now() - due).nanoseconds) / 1e6
                measurements.start(delay: max(delay, 0))
                group.addTask { [self] in
                    switch await client.answer(to: body, options.interface.path) {
                    case .complete(let answer): measurements.add(answer, intended: due)
                    case .failed(let failure, _, _): measurements.fail(failure)
                    }
                }
            }
        }
    }
}

/// Hands out numbers, each once.
final class Counter: Sendable {
    private let value: Atomic<Int>

    init(_ first: Int) { value = Atomic(first) }

    func next() -> Int { value.add(1, ordering: .relaxed).oldValue }
}
