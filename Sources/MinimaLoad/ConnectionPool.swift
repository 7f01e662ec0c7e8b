import NIOCore
import Synchronization

/// Connections that wait for their next request.
final class ConnectionPool: Sendable {
    let address: ServerAddress
    private let idle = Mutex<[HTTPConnection]>([])

    init(_ address: ServerAddress) { self.address = address }

    deinit { for connection in idle.withLock({ $0 }) { connection.close() } }

    /// An open connection; `isFresh` when it has carried no request.
    func take() async throws(RequestFailure) -> (connection: HTTPConnection, isFresh: Bool) {
        while let connection = idle.withLock({ $0.popLast() }) {
            if connection.isReusable { return (connection, false) }
            connection.close()
        }
        return (try await HTTPConnection.open(address), true)
    }

    /// Takes a connection back, or closes one that can carry no more.
    func give(_ connection: HTTPConnection) {
        guard connection.isReusable else { return connection.close() }
        idle.withLock { $0.append(connection) }
    }
}
