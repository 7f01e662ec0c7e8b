import Glibc
import HTTPTypes
import HummingbirdCore
import MinimaCore
import NIOCore

/// What a request gets.
enum Reply: Sendable {
    case json(JSON)
    case text(String, type: String, status: Int = 200)
    case page(ChatPage)
    /// A browser may send what it asked about, as the headers say.
    case preflight(HTTPFields)
    /// Events, written as they come; false when the client went before the last.
    case events(@Sendable (inout EventWriter) async throws -> Bool)
    case error(APIError)
}

/// Writes server-sent events; waits while the client does not read.
struct EventWriter {
    fileprivate var body: any ResponseBodyWriter

    mutating func write(_ event: String) async throws {
        try await body.write(ByteBuffer(string: event))
    }
}

/// What a request is for, by method and path.
enum Endpoint: String, Sendable {
    case completions, chat, models, model, tokenize, detokenize, embeddings, health, metrics
    case page, stats, other
    case tokenizerInfo = "tokenizer_info"

    /// - Returns: The endpoint and the methods that it answers.
    static func find(_ path: String) -> (endpoint: Endpoint, method: HTTPRequest.Method?) {
        switch path {
        case "/v1/completions": (.completions, .post)
        case "/v1/chat/completions": (.chat, .post)
        case "/v1/embeddings": (.embeddings, nil)
        case "/v1/models": (.models, .get)
        case "/tokenize": (.tokenize, .post)
        case "/detokenize": (.detokenize, .post)
        case "/tokenizer_info": (.tokenizerInfo, .get)
        case "/health", "/health/live", "/health/ready": (.health, .get)
        case "/metrics": (.metrics, .get)
        case "/stats": (.stats, .get)
        case "/": (.page, .get)
        default: path.hasPrefix("/v1/models/") ? (.model, .get) : (.other, nil)
        }
    }

    /// Whether the engine works for it.
    var generates: Bool { self == .completions || self == .chat }
    /// Whether anyone may ask: what watches a server has no key, and the page asks for one.
    var isOpen: Bool { [.health, .metrics, .stats, .page].contains(self) }
}

extension InferenceServer {
    /// Answers one request.
    ///
    /// - Throws: What ends the connection: the client has gone.
    func respond(
        _ request: Request, _ writer: consuming ResponseWriter, _ channel: any Channel
    ) async throws {
        let started = ContinuousClock.now
        let (endpoint, method) = Endpoint.find(request.uri.path)
        let connection = try await channel.eventLoop.submit {
            try channel.pipeline.syncOperations.handler(type: ConnectionHandler.self).watch
        }.get()
        let lifetime = RequestLifetime(channel)
        metrics.begin()
        begin(lifetime)
        connection.begin(lifetime)
        let timer = options.deadline.map { limit in
            channel.eventLoop.scheduleTask(in: TimeAmount(limit)) { lifetime.end(.deadline) }
        }
        var status = 499
        defer {
            timer?.cancel()
            connection.finish()
            finish(lifetime)
            let seconds = (ContinuousClock.now - started).totalSeconds
            metrics.end(
                endpoint: endpoint.rawValue, status: status, seconds: seconds,
                generates: endpoint.generates && request.method == .post)
            if !endpoint.isOpen {
                let milliseconds = Int((seconds * 1000).rounded())
                log("\(endpoint.rawValue) \(status) \(milliseconds) ms")
            }
        }
        let browser = gate.judge(
            origin: request.headers[.origin], host: request.head.authority)
        let shared = browser.fields
        var reply: Reply
        do throws(APIError) {
            if case .refused(let origin) = browser { throw .forbidden(origin: origin) }
            if request.method == .options, case .allowed = browser {
                reply = .preflight(
                    browser.preflight(wanted: request.headers[.accessControlRequestHeaders]))
            } else {
                try check(request, endpoint, method)
                var body: [UInt8] = []
                if method == .post {
                    if request.headers[.expect]?.lowercased() == "100-continue" {
                        try await Self.continueReading(writer)
                    }
                    body = try await read(request)
                }
                reply = try await self.reply(to: request.uri.path, endpoint, body, lifetime)
            }
        } catch {
            reply = .error(error)
        }
        if lifetime.end == .disconnected { throw ChannelError.alreadyClosed }
        var closes = lifetime.end != nil
        switch reply {
        case .json(let value):
            status = 200
            try await Self.write(writer, 200, "application/json", value.text(indent: nil), shared)
        case .text(let text, let type, let code):
            status = code
            try await Self.write(writer, code, type, text, shared)
        case .page(let page):
            status = 200
            try await Self.write(
                writer, 200, "text/html; charset=utf-8", page.text, page.headers)
        case .preflight(let fields):
            status = 200
            try await Self.write(writer, 200, "text/plain", "", shared + fields)
        case .error(let error):
            status = error.status
            var fields = shared
            if let seconds = error.retryAfter { fields[.retryAfter] = "\(seconds)" }
            if error.status == 401 { fields[.wwwAuthenticate] = "Bearer" }
            if error.status == 413 {
                // The rest of the body is not worth reading; the client gets a moment to stop.
                fields[.connection] = "close"
                channel.eventLoop.scheduleTask(in: .seconds(2)) { channel.close(promise: nil) }
            }
            try await Self.write(
                writer, error.status, "application/json", error.json.text(indent: nil), fields)
        case .events(let write):
            var head = Self.head(200, "text/event-stream; charset=utf-8")
            head.headerFields += shared
            head.headerFields[.cacheControl] = "no-cache"
            var events = EventWriter(body: try await writer.writeHead(head))
            guard try await write(&events) else { throw ChannelError.alreadyClosed }
            // A client may go once it has seen the last event.
            status = 200
            try await events.body.finish(nil)
            closes = lifetime.end != nil
        }
        // What was said about the end of a request may still be on its way.
        if closes { channel.close(mode: .output, promise: nil) }
    }

    private static func continueReading(_ writer: borrowing ResponseWriter) async throws(APIError) {
        do {
            try await writer.writeInformationalHead(HTTPResponse(status: .continue))
        } catch {
            throw .invalid("the connection was closed before the body came")
        }
    }

    /// What can be said without the body.
    private func check(
        _ request: Request, _ endpoint: Endpoint, _ method: HTTPRequest.Method?
    ) throws(APIError) {
        if !endpoint.isOpen, !options.keys.admits(request.headers[.authorization]) {
            throw .unauthorized
        }
        if endpoint == .embeddings {
            throw .notFound(
                "this server gives no embeddings: its model generates text; use "
                    + "/v1/chat/completions or /v1/completions", code: "unsupported_endpoint")
        }
        guard let method else {
            throw .notFound("this server has nothing at this address", code: "unknown_url")
        }
        guard request.method == method else { throw .badMethod(method.rawValue) }
        guard method == .post else { return }
        if watch.isDraining { throw .stopping }
        // A page of another site can send any text to a server on this machine, but not JSON.
        let type = request.headers[.contentType]?.lowercased() ?? "application/json"
        let isJSON = type.prefix { $0 != ";" }.filter { $0 != " " } == "application/json"
        guard isJSON else { throw .notJSON }
        let length = request.headers[.contentLength].flatMap { Int($0) } ?? 0
        guard length <= options.maxBodyBytes else {
            throw .bodyTooLarge(limit: options.maxBodyBytes)
        }
    }

    private func read(_ request: Request) async throws(APIError) -> [UInt8] {
        do {
            let buffer = try await request.body.collect(upTo: options.maxBodyBytes)
            return Array(buffer.readableBytesView)
        } catch is NIOTooManyBytesError {
            throw .bodyTooLarge(limit: options.maxBodyBytes)
        } catch {
            throw .invalid("the body did not arrive as it was announced")
        }
    }

    private func reply(
        to path: String, _ endpoint: Endpoint, _ body: [UInt8], _ lifetime: RequestLifetime
    ) async throws(APIError) -> Reply {
        switch endpoint {
        case .completions: try await complete(Self.parsed(body), lifetime)
        case .chat: try await chat(Self.parsed(body), lifetime)
        case .tokenize: .json(try tokenize(Self.parsed(body)))
        case .detokenize: .json(try detokenize(Self.parsed(body)))
        case .tokenizerInfo: .json(tokenizerInfo())
        case .models: .json(["object": "list", "data": .array([modelEntry(model.name)])])
        case .model: .json(try modelEntry(path: path))
        case .health: healthReply(path)
        case .metrics:
            .text(
                metrics.text(engine.metrics, health: health, memory: memory),
                type: "text/plain; version=0.0.4; charset=utf-8")
        case .stats: .json(stats())
        case .page where options.hasPage: .page(page)
        case .embeddings, .page, .other: throw .notFound("this server has nothing at this address")
        }
    }

    private static func parsed(_ body: [UInt8]) throws(APIError) -> JSON {
        do throws(JSONError) {
            return try JSON(parsing: body)
        } catch {
            throw .invalid("the body is \(error)", code: "invalid_json")
        }
    }

    // MARK: Writing

    private static func write(
        _ writer: consuming ResponseWriter, _ status: Int, _ type: String, _ text: String,
        _ fields: HTTPFields
    ) async throws {
        var head = head(status, type)
        head.headerFields[.contentLength] = "\(text.utf8.count)"
        head.headerFields += fields
        try await writer.write(
            response: head, body: ResponseBody(byteBuffer: ByteBuffer(string: text)))
    }

    private static func head(_ status: Int, _ type: String) -> HTTPResponse {
        HTTPResponse(
            status: .init(code: status),
            headerFields: [
                .contentType: type, .server: "minima", .date: date(time(nil)),
                .xContentTypeOptions: "nosniff",
            ])
    }

    /// A time as HTTP writes it (RFC 9110, section 5.6.7).
    static func date(_ seconds: time_t) -> String {
        var seconds = seconds
        var parts = tm()
        gmtime_r(&seconds, &parts)
        let days = ["Sun", "Mon", "Tue", "Wed", "Thu", "Fri", "Sat"]
        let months = [
            "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
        ]
        func two(_ number: Int32) -> String { number < 10 ? "0\(number)" : "\(number)" }
        let clock = [parts.tm_hour, parts.tm_min, parts.tm_sec].map(two).joined(separator: ":")
        return "\(days[Int(parts.tm_wday)]), \(two(parts.tm_mday)) \(months[Int(parts.tm_mon)]) "
            + "\(parts.tm_year + 1900) \(clock) GMT"
    }
}
