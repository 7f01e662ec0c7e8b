import MinimaCore
import NIOCore
import Synchronization

/// What requests of a run came to.
final class Measurements: Sendable {
    private struct State {
        var ttft = LatencyHistogram(unit: 0.001)
        var tpot = LatencyHistogram(unit: 0.001)
        var itl = LatencyHistogram(unit: 0.001)
        var e2el = LatencyHistogram(unit: 0.001)
        var answerRate = LatencyHistogram(unit: 0.01)
        var sendDelay = LatencyHistogram(unit: 0.001)
        var errors: [RequestFailure: Int] = [:]
        var (started, completed, failed, retries, empty, good) = (0, 0, 0, 0, 0, 0)
        var (promptTokens, answerTokens) = (0, 0)
        var (countedByUsage, countedByChunks) = (0, 0)
        var lastEnd: NIODeadline?
    }

    private let state = Mutex(State())
    private let objectives: Objectives

    init(objectives: Objectives) { self.objectives = objectives }

    func start(delay: Double?) {
        state.withLock { state in
            state.started += 1
            if let delay { state.sendDelay.add(delay) }
        }
    }

    func retry() { state.withLock { $0.retries += 1 } }

    func fail(_ failure: RequestFailure) {
        state.withLock { state in
            state.failed += 1
            state.errors[failure, default: 0] += 1
            state.lastEnd = .now()
        }
    }

    /// Adds a complete answer to a request that was to be sent at `intended`.
    func add(_ answer: Answer, intended: NIODeadline) {
        let e2el = Self.milliseconds(from: intended, to: answer.end)
        let tokens = answer.tokens
        let ttft = answer.pieces.first.map { Self.milliseconds(from: intended, to: $0) }
        var tpot: Double?
        if let first = answer.pieces.first, let last = answer.pieces.last, tokens > 1 {
            tpot = Self.milliseconds(from: first, to: last) / Double(tokens - 1)
        }
        let gaps = zip(answer.pieces, answer.pieces.dropFirst()).map(Self.milliseconds)
        state.withLock { state in
            state.completed += 1
            state.e2el.add(e2el)
            if let ttft { state.ttft.add(ttft) } else { state.empty += 1 }
            if let tpot { state.tpot.add(tpot) }
            for gap in gaps { state.itl.add(gap) }
            if tokens > 0, e2el > 0 { state.answerRate.add(Double(tokens) / e2el * 1000) }
            state.promptTokens += answer.usage?.prompt ?? 0
            state.answerTokens += tokens
            if answer.usage == nil { state.countedByChunks += 1 } else { state.countedByUsage += 1 }
            if objectives.holds(ttft: ttft, tpot: tpot, e2el: e2el) { state.good += 1 }
            state.lastEnd = max(state.lastEnd ?? answer.end, answer.end)
        }
    }

    private static func milliseconds(from start: NIODeadline, to end: NIODeadline) -> Double {
        Double((end - start).nanoseconds) / 1e6
    }

    /// Numbers for a line of progress.
    var counts: (started: Int, completed: Int, failed: Int, tokens: Int) {
        state.withLock { ($0.started, $0.completed, $0.failed, $0.answerTokens) }
    }

    /// All of it.
    ///
    /// - Parameter start: When the first request was to be sent.
    func result(_ maker: PromptMaker, from start: NIODeadline) -> LoadResult {
        let options = maker.options
        let state = state.withLock { $0 }
        let seconds = state.lastEnd.map { Self.milliseconds(from: start, to: $0) / 1000 } ?? 0
        var (users, rate): (Int?, Double?)
        let arrivals: String
        switch options.arrivals {
        case .closed(let count):
            users = count
            arrivals = "closed loop, \(count) \(count == 1 ? "user" : "users")"
        case .open(let perSecond, let isPoisson):
            rate = perSecond
            arrivals = "open loop, \(perSecond)/s, \(isPoisson ? "Poisson" : "constant")"
        }
        let hasFile = !options.prompts.isEmpty
        let source =
            state.countedByUsage == 0
            ? "chunks" : state.countedByChunks == 0 ? "usage" : "mixed"
        let errors = state.errors.map { ($0.key.description, $0.value) }
        return LoadResult(
            address: options.address.description, model: maker.model,
            interface: options.interface.rawValue, arrivals: arrivals, users: users, rate: rate,
            promptLengths: hasFile ? "file" : options.promptTokens.description,
            answerLengths: options.answerTokens.description,
            sharedPrefix: hasFile ? 0 : options.sharedPrefix, seed: options.seed,
            ignoresEnd: maker.dialect.ignoresEnd, tokensCountedBy: source, seconds: seconds,
            completed: state.completed, failed: state.failed,
            errors: Dictionary(errors) { $0 + $1 }, retries: state.retries, empty: state.empty,
            promptTokens: state.promptTokens, answerTokens: state.answerTokens,
            objectives: objectives.byName,
            goodput: objectives.isEmpty || seconds <= 0 ? nil : Double(state.good) / seconds,
            ttft: state.ttft.summary, tpot: state.tpot.summary, itl: state.itl.summary,
            e2el: state.e2el.summary, answerRate: state.answerRate.summary,
            sendDelay: state.sendDelay.summary)
    }
}
