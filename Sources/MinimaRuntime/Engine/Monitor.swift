import Glibc

/// State that threads share, with waiting for a change of it.
///
/// What `Synchronization.Mutex` lacks is the condition to wait for.
final class Monitor<State>: @unchecked Sendable {
    // Both are initialised once and destroyed once, and `state` is touched with the mutex held only.
    private let mutex = UnsafeMutablePointer<pthread_mutex_t>.allocate(capacity: 1)
    private let changed = UnsafeMutablePointer<pthread_cond_t>.allocate(capacity: 1)
    private var state: State

    init(_ state: State) {
        self.state = state
        pthread_mutex_init(mutex, nil)
        pthread_cond_init(changed, nil)
    }

    deinit {
        pthread_cond_destroy(changed)
        pthread_mutex_destroy(mutex)
        changed.deallocate()
        mutex.deallocate()
    }

    /// Reads or changes the state; who waits looks at it again.
    func withLock<Result, Failure: Error>(_ body: (inout State) throws(Failure) -> Result)
        throws(Failure) -> Result
    {
        pthread_mutex_lock(mutex)
        defer {
            pthread_cond_broadcast(changed)
            pthread_mutex_unlock(mutex)
        }
        return try body(&state)
    }

    /// Waits until `body` returns something; it is called again after every ``withLock(_:)``.
    func wait<Result>(_ body: (inout State) -> Result?) -> Result {
        pthread_mutex_lock(mutex)
        defer { pthread_mutex_unlock(mutex) }
        while true {
            if let result = body(&state) { return result }
            pthread_cond_wait(changed, mutex)
        }
    }
}

/// A thread of the operating system that runs one closure.
///
/// libtorch's grad mode and CUDA's current stream belong to a thread, so what uses them cannot move
/// between the threads of Swift's concurrency.
final class DedicatedThread: Sendable {
    private struct State {
        var hasEnded = false
        var isClaimed = false
        var isGone = false
    }

    private let state: Monitor<State>
    private let thread: pthread_t

    /// Starts a thread; without one (the system has no more), `body` is dropped and `nil` returned.
    init?(_ body: @escaping @Sendable () -> Void) {
        let state = Monitor(State())
        self.state = state
        let box = Unmanaged.passRetained(
            ThreadBody {
                body()
                state.withLock { $0.hasEnded = true }
            })
        var thread = pthread_t()
        let status = pthread_create(
            &thread, nil,
            { argument in
                guard let argument else { return nil }
                Unmanaged<ThreadBody>.fromOpaque(argument).takeRetainedValue().run()
                return nil
            }, box.toOpaque())
        guard status == 0 else {
            box.release()
            return nil
        }
        self.thread = thread
    }

    deinit {
        if state.withLock({ !$0.isClaimed }) { pthread_detach(thread) }
    }

    /// Whether the closure has returned.
    var hasEnded: Bool { state.withLock { $0.hasEnded } }

    /// Waits until the thread is gone: what it captured, and what libraries keep for each thread, such as
    /// libtorch's CUDA handles, is released, so that nothing of it runs while the process exits.
    func join() {
        // A thread cannot wait for itself.
        guard pthread_equal(pthread_self(), thread) == 0 else { return }
        let isFirst = state.withLock { state in
            defer { state.isClaimed = true }
            return !state.isClaimed
        }
        guard isFirst else {
            return state.wait { $0.isGone ? () : nil }
        }
        pthread_join(thread, nil)
        state.withLock { $0.isGone = true }
    }
}

private final class ThreadBody {
    let run: () -> Void

    init(_ run: @escaping () -> Void) {
        self.run = run
    }
}
