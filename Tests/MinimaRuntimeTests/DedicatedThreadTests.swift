import Glibc
import Synchronization
import Testing

@testable import MinimaRuntime

@Suite("Threads of their own")
struct DedicatedThreadTests {
    private final class Counter: Sendable {
        let count = Atomic(0)
        func add() { count.add(1, ordering: .sequentiallyConsistent) }
        var value: Int { count.load(ordering: .sequentiallyConsistent) }
    }

    private final class Captured: Sendable {
        let released: Counter
        init(_ released: Counter) { self.released = released }
        deinit { released.add() }
    }

    /// Libraries release what they keep for a thread after its closure has returned.
    private static let threadsGone = Counter()
    private static let key: pthread_key_t = {
        var key = pthread_key_t()
        pthread_key_create(&key) { _ in
            usleep(50_000)
            DedicatedThreadTests.threadsGone.add()
        }
        return key
    }()

    @Test(
        "join waits for what is released behind the closure, from several threads, more than once")
    func joining() throws {
        let released = Counter()
        let before = Self.threadsGone.value
        let thread = try {
            let captured = Captured(released)
            return try #require(
                DedicatedThread {
                    pthread_setspecific(Self.key, UnsafeRawPointer(bitPattern: 1))
                    withExtendedLifetime(captured) {}
                })
        }()
        let waiters = try concurrentMap(3, threads: 3) { _ in
            thread.join()
            return (released.value, Self.threadsGone.value)
        }
        thread.join()
        #expect(waiters.allSatisfy { $0 == (1, before + 1) })
        #expect(thread.hasEnded)
    }

    @Test("a thread that nobody waits for runs to its end")
    func leaving() throws {
        let released = Counter()
        let done = Monitor(false)
        _ = DedicatedThread { [captured = Captured(released)] in
            withExtendedLifetime(captured) {}
            done.withLock { $0 = true }
        }
        done.wait { $0 ? () : nil }
        for _ in 0..<1000 where released.value == 0 { usleep(1000) }
        #expect(released.value == 1)
    }
}
