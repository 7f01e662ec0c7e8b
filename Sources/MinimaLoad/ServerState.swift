import NIOHTTP1

/// What a Minima server says of itself on `/metrics`.
struct ServerState: Sendable, Hashable {
    var pages: Int
    var freePages: Int
    var running: Int
    var waiting: Int
    /// Requests being answered, the one that asks for this page among them.
    var inFlight: Int
    var failures: Int
    /// Resident bytes of the process; `nil` where the system does not tell.
    var residentBytes: Int?

    /// Pages that belong to requests.
    var heldPages: Int { pages - freePages }
    /// Whether nothing is left of any request.
    var isIdle: Bool { heldPages == 0 && running == 0 && waiting == 0 && inFlight <= 1 }

    /// Reads Prometheus' text form; `nil` when it is not a Minima server's.
    init?(_ page: String) {
        var values: [Substring: Int] = [:]
        for line in page.split(separator: "\n") where !line.hasPrefix("#") {
            let words = line.split(separator: " ")
            guard words.count == 2, let value = Double(words[1]), abs(value) < 1e18 else {
                continue
            }
            values[words[0]] = Int(value)
        }
        guard let pages = values["minima_pages_total"], let free = values["minima_pages_free"],
            let running = values["minima_requests_running"],
            let waiting = values["minima_requests_waiting"],
            let inFlight = values["minima_http_requests_in_flight"],
            let failures = values["minima_engine_failures_total"]
        else { return nil }
        (self.pages, freePages, self.running, self.waiting) = (pages, free, running, waiting)
        (self.inFlight, self.failures) = (inFlight, failures)
        residentBytes = values["minima_resident_memory_bytes"]
    }
}

extension ServerClient {
    /// What a Minima server says of itself.
    func state() async throws(LoadError) -> ServerState {
        let path = "/metrics"
        let response: WholeResponse
        do throws(RequestFailure) {
            response = try await whole(.GET, path)
        } catch {
            throw .notAnswered(path: path, reason: "\(error)")
        }
        guard response.status == 200 else {
            throw .refused(path: path, status: response.status, message: response.message)
        }
        guard let state = ServerState(String(decoding: response.body, as: UTF8.self)) else {
            throw .notAnswered(
                path: path, reason: "it does not name pages and requests as a Minima server does")
        }
        return state
    }
}
