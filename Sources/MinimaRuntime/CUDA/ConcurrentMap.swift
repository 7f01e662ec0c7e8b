import Synchronization

/// Computes a value for each of many places, several threads at a time; the results are in order.
///
/// - Parameters:
///   - threads: At most; fewer where the system gives no more, the calling one always.
///   - body: Called from several threads, once for each place.
/// - Throws: The error of the first place that failed; places that were not begun are left out then.
func concurrentMap<Value>(
    _ count: Int, threads: Int, _ body: (Int) throws -> Value
) throws -> [Value] {
    try withoutActuallyEscaping(body) { body in
        let places = Places(count, body)
        let others = (1..<max(min(threads, count), 1)).compactMap { _ in
            DedicatedThread { places.work() }
        }
        places.work()
        for thread in others { thread.join() }
        return try places.results.compactMap { try $0?.get() }
    }
}

/// What the threads share: the lock guards `next` and `results`, and a place has one thread.
private final class Places<Value>: @unchecked Sendable {
    private let lock = Mutex<Void>(())
    private let body: (Int) throws -> Value
    private var next = 0
    private(set) var results: [Result<Value, any Error>?]

    init(_ count: Int, _ body: @escaping (Int) throws -> Value) {
        self.body = body
        results = Array(repeating: nil, count: count)
    }

    func work() {
        while let place = lock.withLock({ _ in take() }) {
            let result = Result { try body(place) }
            lock.withLock { _ in finish(place, result) }
        }
    }

    private func take() -> Int? {
        guard next < results.count else { return nil }
        next += 1
        return next - 1
    }

    private func finish(_ place: Int, _ result: Result<Value, any Error>) {
        results[place] = result
        if case .failure = result { next = results.count }
    }
}
