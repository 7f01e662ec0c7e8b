import Foundation
import MinimaTensor

/// What `body` gives in each process of a new group, all of them threads of this process.
func processes<Value>(
    _ size: Int, device: @escaping @Sendable (Int) -> Device = { _ in .cpu },
    timeout: Duration = .seconds(60), _ body: @escaping @Sendable (ProcessGroup) throws -> Value
) throws -> [Value] {
    try withPort { port in
        try together(size) { rank in
            let launch = Launch(rank: rank, size: size, localRank: rank, port: port)
            return try body(ProcessGroup(launch, device: device(rank), timeout: timeout))
        }
    }
}

/// What `body` gives for each of `0..<count`, all at the same time.
func together<Value>(
    _ count: Int, _ body: @escaping @Sendable (Int) throws -> Value
) throws -> [Value] {
    let results = ResultsOfThreads<Value>(count)
    for index in 0..<count {
        Thread.detachNewThread { results.set(index, Result { try body(index) }) }
    }
    return try results.wait().map { try $0.get() }
}

/// The results of threads, which `wait` waits for.
private final class ResultsOfThreads<Value>: @unchecked Sendable {
    private let condition = NSCondition()
    private var results: [Result<Value, any Error>?]

    init(_ count: Int) {
        results = Array(repeating: nil, count: count)
    }

    func set(_ index: Int, _ result: Result<Value, any Error>) {
        condition.withLock {
            results[index] = result
            condition.signal()
        }
    }

    func wait() -> [Result<Value, any Error>] {
        condition.withLock {
            while results.contains(where: { $0 == nil }) { condition.wait() }
            return results.compactMap(\.self)
        }
    }
}

/// What `body` gives with a port that nothing listens at.
///
/// It is below those that the kernel gives out itself: one of those could become somebody else's
/// before the group listens at it. A datagram socket of the same number keeps other tests off.
func withPort<Value>(_ body: (Int) throws -> Value) throws -> Value {
    while true {
        let port = Int.random(in: 20_000..<30_000)
        guard let claim = try bound(SOCK_DGRAM, port) else { continue }
        defer { close(claim) }
        guard let probe = try bound(SOCK_STREAM, port) else { continue }
        close(probe)
        return try body(port)
    }
}

/// A socket at `port` of this machine; `nil` when somebody has it.
private func bound(_ kind: __socket_type, _ port: Int) throws -> Int32? {
    let descriptor = socket(AF_INET, Int32(kind.rawValue), 0)
    guard descriptor >= 0 else { throw NSError(domain: NSPOSIXErrorDomain, code: Int(errno)) }
    var address = sockaddr_in()
    address.sin_family = sa_family_t(AF_INET)
    address.sin_addr.s_addr = INADDR_LOOPBACK.bigEndian
    address.sin_port = UInt16(port).bigEndian
    let isBound = withUnsafePointer(to: &address) {
        $0.withMemoryRebound(to: sockaddr.self, capacity: 1) {
            bind(descriptor, $0, socklen_t(MemoryLayout<sockaddr_in>.size)) == 0
        }
    }
    if !isBound { close(descriptor) }
    return isBound ? descriptor : nil
}
