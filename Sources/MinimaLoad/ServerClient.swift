import MinimaCore
import NIOCore
import NIOHTTP1

/// A response that was read whole.
struct WholeResponse: Sendable {
    var status: Int
    var headers: HTTPHeaders
    var body: [UInt8]

    /// What an error's body says, or its beginning.
    var message: String {
        let json = try? JSON(parsing: body)
        return json?["error"]?["message"]?.string ?? json?["message"]?.string
            ?? json?["detail"]?.string ?? String(decoding: body.prefix(300), as: UTF8.self)
    }
}

/// Asks a server, with the key that it wants.
struct ServerClient: Sendable {
    let pool: ConnectionPool
    let headers: [(String, String)]
    /// Time of one request, at most.
    let limit: TimeAmount

    init(_ address: ServerAddress, key: String?, limit: TimeAmount) throws(LoadError) {
        if let key, !key.utf8.allSatisfy({ (0x21...0x7E).contains($0) }) { throw .badKey }
        pool = ConnectionPool(address)
        headers = key.map { [("Authorization", "Bearer \($0)")] } ?? []
        self.limit = limit
    }

    var address: ServerAddress { pool.address }

    /// Makes a request and hands its events to `receive`, which returns false to go away.
    ///
    /// A server may close a connection at any time between two requests; a request that has got
    /// nothing on such a connection is made once more on a new one.
    func exchange(
        _ method: HTTPMethod, _ path: String, body: [UInt8]? = nil,
        receive: (TimedEvent) throws(RequestFailure) -> Void
    ) async throws(RequestFailure) {
        while true {
            let (connection, isFresh) = try await pool.take()
            var (isAnswered, isComplete) = (false, false)
            var failure: RequestFailure?
            let events = connection.send(method, path, headers: headers, body: body, limit: limit)
            for await event in events {
                if case .failed(let reason) = event.event {
                    failure = reason
                    break
                }
                isAnswered = true
                do throws(RequestFailure) {
                    try receive(event)
                } catch {
                    failure = error
                    break
                }
                if case .end = event.event { isComplete = true }
            }
            if isComplete, failure == nil { return pool.give(connection) }
            connection.close()
            let failed = failure ?? .closedEarly
            if !isFresh, !isAnswered, failed == .closedEarly || failed == .reset { continue }
            throw failed
        }
    }

    /// A whole response of a bounded length.
    func whole(
        _ method: HTTPMethod, _ path: String, body: [UInt8]? = nil
    ) async throws(RequestFailure) -> WholeResponse {
        var response = WholeResponse(status: 0, headers: HTTPHeaders(), body: [])
        try await exchange(method, path, body: body) { (timed) throws(RequestFailure) in
            switch timed.event {
            case .head(let status, let headers):
                (response.status, response.headers) = (status, headers)
            case .body(let buffer):
                response.body += buffer.readableBytesView
                guard response.body.count <= EventParser.longestEvent else { throw .malformedHTTP }
            case .end, .failed: break
            }
        }
        return response
    }

    /// The name of the first model that the server lists.
    func modelName() async throws(LoadError) -> String {
        let path = "/v1/models"
        let response: WholeResponse
        do throws(RequestFailure) {
            response = try await whole(.GET, path)
        } catch {
            guard error != .connect else {
                throw .unreachable(address.description, reason: "no connection")
            }
            throw .notAnswered(path: path, reason: "\(error)")
        }
        guard response.status == 200 else {
            throw .refused(path: path, status: response.status, message: response.message)
        }
        let list = try? JSON(parsing: response.body)
        guard let name = list?["data"]?.array?.first?["id"]?.string else {
            throw .noModel(address.description)
        }
        return name
    }
}
