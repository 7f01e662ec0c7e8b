import Glibc
import Synchronization
import Testing

@testable import MinimaRuntime

@Suite("Maps over several threads")
struct ConcurrentMapTests {
    private struct Failure: Error, Equatable {
        let place: Int
    }

    @Test("results are in order", arguments: [0, 1, 2, 7, 1000], [-1, 0, 1, 2, 4, 64])
    func order(count: Int, threads: Int) throws {
        let calls = Mutex(Array(repeating: 0, count: count))
        let values = try concurrentMap(count, threads: threads) { place in
            // Later places end first.
            if place % 7 == 0 { usleep(UInt32(10 * (count - place) % 100)) }
            calls.withLock { $0[place] += 1 }
            return "\(place)"
        }
        #expect(values == (0..<count).map { "\($0)" })
        #expect(calls.withLock { $0.allSatisfy { $0 == 1 } })
    }

    @Test func placesAreComputedSideBySide() throws {
        // Each of four places waits until all four have begun.
        let begun = Atomic(0)
        let values = try concurrentMap(4, threads: 4) { place in
            begun.add(1, ordering: .sequentiallyConsistent)
            for _ in 0..<10_000 where begun.load(ordering: .sequentiallyConsistent) < 4 {
                usleep(1000)
            }
            return begun.load(ordering: .sequentiallyConsistent)
        }
        #expect(values == [4, 4, 4, 4])
    }

    @Test func noMoreThreadsThanAskedFor() throws {
        let running = Atomic(0)
        let most = Atomic(0)
        _ = try concurrentMap(60, threads: 3) { _ in
            let now = running.add(1, ordering: .sequentiallyConsistent).newValue
            most.max(now, ordering: .sequentiallyConsistent)
            usleep(500)
            running.subtract(1, ordering: .sequentiallyConsistent)
        }
        #expect((1...3).contains(most.load(ordering: .sequentiallyConsistent)))
    }

    @Test("the first failure is thrown, and what was not begun is left out", arguments: [1, 4])
    func failures(threads: Int) throws {
        let calls = Atomic(0)
        #expect(throws: Failure(place: 3)) {
            try concurrentMap(10_000, threads: threads) { place in
                calls.add(1, ordering: .relaxed)
                if place == 3 { throw Failure(place: place) }
                usleep(100)
                return place
            }
        }
        #expect(calls.load(ordering: .relaxed) < 10_000)
        // Of two that fail, the first place's, whichever fails earlier.
        let begun = Atomic(0)
        #expect(throws: Failure(place: 0)) {
            try concurrentMap(2, threads: 2) { place in
                begun.add(1, ordering: .sequentiallyConsistent)
                for _ in 0..<10_000 where begun.load(ordering: .sequentiallyConsistent) < 2 {
                    usleep(1000)
                }
                if place == 0 { usleep(20_000) }
                throw Failure(place: place)
            }
        }
        #expect(throws: Failure(place: 999)) {
            try concurrentMap(1000, threads: threads) { place in
                if place == 999 { throw Failure(place: place) }
            }
        }
    }

    @Test func manyShortPlaces() throws {
        for round in 0..<5 {
            let values = try concurrentMap(20_000, threads: 16) { $0 &* 31 &+ round }
            #expect(values == (0..<20_000).map { $0 &* 31 &+ round })
        }
    }
}
