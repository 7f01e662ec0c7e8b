import Foundation
import Glibc
import MinimaCore

/// A response as it came over the wire.
struct WireResponse: Sendable {
    var status = 0
    var headers: [String: String] = [:]
    var body = ""

    /// The body as JSON.
    func json() throws -> JSON {
        do {
            return try JSON(parsing: body)
        } catch {
            throw TestError.notJSON(body)
        }
    }

    /// The objects of a stream's events, without its end.
    func events() throws -> [JSON] {
        try body.split(separator: "\n").filter { $0 != "data: [DONE]" }.map {
            try JSON(parsing: String($0.dropFirst("data: ".count)))
        }
    }
}

/// A TCP connection to this machine, of which a test sees each byte. Calls block.
final class Wire: @unchecked Sendable {
    // Unchecked: a test uses a connection from one place at a time.
    private let descriptor: Int32
    private var received: [UInt8] = []

    init(port: Int) throws {
        descriptor = socket(AF_INET, Int32(SOCK_STREAM.rawValue), 0)
        var address = sockaddr_in()
        address.sin_family = sa_family_t(AF_INET)
        address.sin_port = in_port_t(port).bigEndian
        address.sin_addr.s_addr = inet_addr("127.0.0.1")
        let size = socklen_t(MemoryLayout<sockaddr_in>.size)
        let status = withUnsafePointer(to: &address) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { connect(descriptor, $0, size) }
        }
        guard status == 0 else { throw TestError.cannotConnect(errno) }
        var timeout = timeval(tv_sec: 120, tv_usec: 0)
        let length = socklen_t(MemoryLayout<timeval>.size)
        setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &timeout, length)
    }

    deinit { closeNow() }

    private var isOpen = true

    func closeNow() {
        if isOpen { close(descriptor) }
        isOpen = false
    }

    /// Makes the receive buffer small, so that a reader that stops is felt at once.
    func shrink() {
        var size: Int32 = 1024
        setsockopt(
            descriptor, SOL_SOCKET, SO_RCVBUF, &size, socklen_t(MemoryLayout<Int32>.size))
    }

    func send(_ text: String) { send(Array(text.utf8)) }

    func send(_ bytes: [UInt8]) {
        var rest = bytes[...]
        while !rest.isEmpty {
            let count = rest.withUnsafeBytes {
                Glibc.send(
                    descriptor, $0.baseAddress, $0.count, Int32(truncatingIfNeeded: MSG_NOSIGNAL))
            }
            guard count > 0 else { return }
            rest = rest.dropFirst(count)
        }
    }

    /// Reads once; false at the end.
    @discardableResult
    func receive() -> Bool {
        var chunk = [UInt8](repeating: 0, count: 65536)
        let count = recv(descriptor, &chunk, chunk.count, 0)
        guard count > 0 else { return false }
        received += chunk.prefix(count)
        return true
    }

    /// Reads until `text` has come; false when the connection ends before.
    func receive(until text: String) -> Bool {
        let wanted = Array(text.utf8)
        var searched = 0
        while received.range(of: wanted, from: searched) == nil {
            searched = max(received.count - wanted.count + 1, 0)
            if !receive() { return false }
        }
        return true
    }

    /// Reads until the other side closes.
    func receiveAll() -> String {
        while receive() {}
        return String(decoding: received, as: UTF8.self)
    }

    /// Reads one response.
    func response() throws -> WireResponse {
        while true {
            let first = try oneResponse()
            if first.status != 100 { return first }
        }
    }

    private func oneResponse() throws -> WireResponse {
        guard receive(until: "\r\n\r\n"),
            let end = received.range(of: Array("\r\n\r\n".utf8))
        else { throw TestError.noResponse }
        let head = String(decoding: received[..<end.lowerBound], as: UTF8.self)
        received.removeFirst(end.upperBound)
        var response = WireResponse()
        let lines = head.split(separator: "\r\n")
        response.status = Int(lines[0].split(separator: " ")[1]) ?? 0
        for line in lines.dropFirst() {
            let parts = line.split(separator: ":", maxSplits: 1)
            response.headers[parts[0].lowercased()] =
                parts.count > 1 ? parts[1].trimmingCharacters(in: .whitespaces) : ""
        }
        if response.headers["transfer-encoding"] == "chunked" {
            var body: [UInt8] = []
            while true {
                guard receive(until: "\r\n"), let line = received.range(of: Array("\r\n".utf8))
                else { throw TestError.noResponse }
                let size =
                    Int(String(decoding: received[..<line.lowerBound], as: UTF8.self), radix: 16)
                    ?? 0
                received.removeFirst(line.upperBound)
                while received.count < size + 2 {
                    guard receive() else { throw TestError.noResponse }
                }
                body += received.prefix(size)
                received.removeFirst(size + 2)
                if size == 0 { break }
            }
            response.body = String(decoding: body, as: UTF8.self)
        } else {
            let size = response.headers["content-length"].flatMap { Int($0) } ?? 0
            while received.count < size {
                guard receive() else { throw TestError.noResponse }
            }
            response.body = String(decoding: received.prefix(size), as: UTF8.self)
            received.removeFirst(size)
        }
        return response
    }
}

extension [UInt8] {
    fileprivate func range(of wanted: [UInt8], from start: Int = 0) -> Range<Int>? {
        guard count >= start + wanted.count else { return nil }
        let place = (start...count - wanted.count).first {
            self[$0] == wanted[0] && self[$0..<$0 + wanted.count].elementsEqual(wanted)
        }
        return place.map { $0..<$0 + wanted.count }
    }
}

/// A request's bytes.
func wireRequest(
    _ method: String, _ path: String, _ body: String = "", headers: [String: String] = [:]
) -> String {
    var fields = ["Host": "localhost", "Content-Length": "\(body.utf8.count)"]
    if !body.isEmpty { fields["Content-Type"] = "application/json" }
    fields.merge(headers) { $1 }
    let lines = fields.sorted { $0.key < $1.key }.map { "\($0.key): \($0.value)\r\n" }.joined()
    return "\(method) \(path) HTTP/1.1\r\n\(lines)\r\n\(body)"
}

/// Runs what blocks on a thread of its own, away from those that the server's tasks share.
func blocking<Result: Sendable>(
    _ body: @escaping @Sendable () throws -> Result
) async throws -> Result {
    try await withCheckedThrowingContinuation { continuation in
        Thread.detachNewThread {
            continuation.resume(with: Swift.Result { try body() })
        }
    }
}

extension TestServer {
    /// Sends one request and reads its response.
    func send(
        _ method: String, _ path: String, _ body: String = "", headers: [String: String] = [:]
    ) async throws -> WireResponse {
        let port = port
        return try await blocking {
            let wire = try Wire(port: port)
            wire.send(wireRequest(method, path, body, headers: headers))
            return try wire.response()
        }
    }

    func post(_ path: String, _ body: JSON) async throws -> WireResponse {
        try await send("POST", path, body.text(indent: nil))
    }

    func get(_ path: String) async throws -> WireResponse { try await send("GET", path) }
}
