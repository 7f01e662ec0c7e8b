import MinimaCore

/// Seconds that launches took on the device, by when they were queued and their results read.
struct LaunchTimer {
    private let queuedSteps: Int
    /// When the last result was read, and the chunks that had been queued before its launch.
    private var last: (read: ContinuousClock.Instant, prefills: Int)?

    /// - Parameter queuedSteps: Of the backend, see ``DecodeCapacity/queuedSteps``.
    init(queuedSteps: Int) {
        self.queuedSteps = queuedSteps
    }

    /// When a launch was made: from now on, until it is said to be queued.
    struct Launch {
        /// Chunks of prompts queued before it.
        let prefills: Int
        /// When it began to be queued.
        let started = ContinuousClock.now
        /// When it was queued; a synchronous backend has computed it then.
        private(set) var queued: ContinuousClock.Instant

        init(prefills: Int = 0) {
            self.prefills = prefills
            queued = started
        }

        mutating func isQueued() { queued = .now }
    }

    /// Seconds of a launch whose result was read; `nil` where that cannot be told from other work.
    ///
    /// - Parameters:
    ///   - collecting: When the host began to wait for the result.
    ///   - now: When it had it.
    mutating func seconds(
        _ launch: Launch, collecting: ContinuousClock.Instant, _ now: ContinuousClock.Instant
    ) -> Double? {
        defer { last = (now, launch.prefills) }
        guard queuedSteps > 1 else {
            return (launch.queued - launch.started).totalSeconds
                + (now - collecting).totalSeconds
        }
        guard let last, last.prefills == launch.prefills else { return nil }
        return (now - max(last.read, launch.started)).totalSeconds
    }
}
