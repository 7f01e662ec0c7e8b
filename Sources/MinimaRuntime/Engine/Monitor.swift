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
    private let ended: Monitor<Bool>

    /// Starts a thread; without one (the system has no more), `body` is dropped and `nil` returned.
    init?(_ body: @escaping @Sendable () -> Void) {
        let ended = Monitor(false)
        self.ended = ended
        let box = Unmanaged.passRetained(
            ThreadBody {
                body()
                ended.withLock { $0 = true }
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
        pthread_detach(thread)
    }

    /// Whether the closure has returned.
    var hasEnded: Bool { ended.withLock { $0 } }

    /// Waits until the closure has returned.
    func join() {
        _ = ended.wait { $0 ? true : nil }
    }
}

private final class ThreadBody {
    let run: () -> Void

    init(_ run: @escaping () -> Void) {
        self.run = run
    }
}
