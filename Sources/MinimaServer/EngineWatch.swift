import MinimaRuntime
import Synchronization

/// How the engine is doing, by what it publishes.
final class EngineWatch: Sendable {
    /// What health checks say.
    enum Health: String, Sendable {
        /// Requests are answered.
        case ready
        /// No new ones are taken; the server stops.
        case draining
        /// The last calls to the device failed, one after the other, and not long ago: what sends
        /// requests to ready servers only has to send one again for it to show that it works.
        case failing
        /// There are requests, and no step for too long.
        case stalled
        /// The engine's thread has ended.
        case dead

        /// Whether to start the process again would help.
        var isAlive: Bool { self != .dead && self != .stalled }
    }

    private struct State {
        var steps = -1
        var progress: ContinuousClock.Instant
        var failures = 0
        var lastFailure: ContinuousClock.Instant
        var isDraining = false
    }

    /// Failures in a row that are more than bad luck.
    private static let failures = 3
    /// How long those count.
    private static let failureTime = Duration.seconds(30)

    private let state: Mutex<State>
    private let stallTime: Duration

    init(stallTime: Duration, now: ContinuousClock.Instant = .now) {
        self.stallTime = stallTime
        state = Mutex(State(progress: now, lastFailure: now))
    }

    var isDraining: Bool { state.withLock(\.isDraining) }

    func drain() { state.withLock { $0.isDraining = true } }

    /// The engine's state; to be asked for now and then, as it is the steps between two calls that
    /// tell an engine that works from one that hangs.
    ///
    /// - Parameter isAlive: Whether its thread runs.
    func health(
        _ metrics: EngineMetrics, isAlive: Bool, now: ContinuousClock.Instant = .now
    ) -> Health {
        state.withLock { state in
            let isIdle = metrics.running == 0 && metrics.waiting == 0
            if metrics.steps != state.steps || isIdle {
                state.steps = metrics.steps
                state.progress = now
            }
            if metrics.failures != state.failures {
                state.failures = metrics.failures
                state.lastFailure = now
            }
            guard isAlive else { return .dead }
            if now - state.progress >= stallTime { return .stalled }
            if state.isDraining { return .draining }
            let isFailing =
                metrics.consecutiveFailures >= Self.failures
                && now - state.lastFailure < Self.failureTime
            return isFailing ? .failing : .ready
        }
    }
}
