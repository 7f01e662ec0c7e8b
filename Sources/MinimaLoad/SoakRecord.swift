import MinimaCore
import Synchronization

/// What a request of a soak came to.
enum SoakOutcome: Sendable {
    /// An answer; whether it is the one that a request alone got.
    case answered(isRight: Bool, detail: String)
    /// Another proper response.
    case proper
    /// Refused as it had to be.
    case refused
    /// The client went.
    case left
    /// What should not have happened. `isCut`: an answer had begun.
    case unexpected(String, isCut: Bool = false)
}

/// What a soak has seen so far.
final class SoakRecord: Sendable {
    struct State {
        var kinds: [String: Int] = [:]
        var outcomes: [String: Int] = [:]
        var unexpected: [String: Int] = [:]
        var examples: [String] = []
        var (done, compared, wrong, retries, terminations, kills) = (0, 0, 0, 0, 0, 0)
        var memory: [SoakResult.MemorySample] = []
    }

    private let state = Mutex(State())
    /// Examples that are kept.
    private static let mostExamples = 20

    var current: State { state.withLock { $0 } }

    /// - Parameter interruption: What ended the server meanwhile, if anything did.
    func add(_ kind: String, _ outcome: SoakOutcome, interruption: SoakInterruption?) {
        state.withLock { state in
            state.done += 1
            state.kinds[kind, default: 0] += 1
            switch outcome {
            case .answered(let isRight, let detail):
                state.outcomes["answered", default: 0] += 1
                state.compared += 1
                if !isRight {
                    state.wrong += 1
                    Self.note("wrong answer, \(kind): \(detail)", &state)
                }
            case .proper: state.outcomes["answered", default: 0] += 1
            case .refused: state.outcomes["refused", default: 0] += 1
            case .left: state.outcomes["left", default: 0] += 1
            case .unexpected(let what, let isCut):
                // Answers that have begun are completed before a server that is told to stop ends.
                if let interruption, !(isCut && interruption == .termination) {
                    state.outcomes["interrupted", default: 0] += 1
                    return
                }
                state.outcomes["unexpected", default: 0] += 1
                Self.fault("\(kind): \(what)", &state)
            }
        }
    }

    /// Notes what should not have happened.
    func fault(_ what: String) { state.withLock { Self.fault(what, &$0) } }

    private static func fault(_ what: String, _ state: inout State) {
        state.unexpected[String(what.prefix(80)), default: 0] += 1
        note(what, &state)
    }

    private static func note(_ text: String, _ state: inout State) {
        if state.examples.count < mostExamples { state.examples.append(String(text.prefix(600))) }
    }

    func retry() { state.withLock { $0.retries += 1 } }

    func ended(by interruption: SoakInterruption) {
        state.withLock { state in
            if interruption == .termination { state.terminations += 1 } else { state.kills += 1 }
        }
    }

    func add(_ sample: SoakResult.MemorySample) { state.withLock { $0.memory.append(sample) } }
}

/// How a server was ended.
enum SoakInterruption: Sendable, Hashable { case termination, kill }

/// Whether the server runs, for users who are about to ask it and for those who got no answer.
final class ServerLife: Sendable {
    private struct State {
        var ends: [SoakInterruption] = []
        var isUp = true
        var waiting: [CheckedContinuation<Void, Never>] = []
    }

    private let state = Mutex(State())

    /// How often it has been ended.
    var count: Int { state.withLock(\.ends.count) }

    /// What ended it since it had been ended `count` times; a kill before a termination.
    func interruption(since count: Int) -> SoakInterruption? {
        state.withLock { state in
            let ends = state.ends.dropFirst(count)
            // A request may be made anew on what is left of an earlier end.
            return ends.contains(.kill) ? .kill : ends.first
        }
    }

    func end(_ interruption: SoakInterruption) {
        state.withLock { state in
            state.ends.append(interruption)
            state.isUp = false
        }
    }

    func begin() {
        let waiting = state.withLock { state in
            state.isUp = true
            defer { state.waiting = [] }
            return state.waiting
        }
        for continuation in waiting { continuation.resume() }
    }

    /// Waits until it runs.
    ///
    /// - Returns: How often it has been ended by then.
    func wait() async -> Int {
        while true {
            await withCheckedContinuation { (continuation: CheckedContinuation<Void, Never>) in
                let isUp = state.withLock { state in
                    if !state.isUp { state.waiting.append(continuation) }
                    return state.isUp
                }
                if isUp { continuation.resume() }
            }
            // It may have been ended again meanwhile.
            if let count = countWhileUp { return count }
        }
    }

    /// How often it has been ended; `nil` while it does not run.
    var countWhileUp: Int? { state.withLock { $0.isUp ? $0.ends.count : nil } }
}
