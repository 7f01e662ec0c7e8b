import MinimaCore
import NIOCore
import NIOHTTP1

/// What came of one request, and when.
struct Answer: Sendable {
    /// Texts by the choice's index.
    var texts: [Int: String] = [:]
    var finishReasons: [Int: String] = [:]
    var usage: TokenUsage?
    /// Times of the pieces that carried tokens.
    var pieces: [NIODeadline] = []
    var end = NIODeadline.uptimeNanoseconds(0)

    /// Tokens, as the server counts them or else one for each piece.
    var tokens: Int { usage?.answer ?? pieces.count }
}

/// How a request ended.
enum AnswerOutcome: Sendable {
    case complete(Answer)
    /// `retryAfter`: seconds that the server asks to wait.
    case failed(RequestFailure, retryAfter: Int?, message: String)
}

extension ServerClient {
    /// Asks for an answer, streamed or not.
    func answer(to body: [UInt8], _ path: String) async -> AnswerOutcome {
        var reader = AnswerReader()
        do throws(RequestFailure) {
            try await exchange(.POST, path, body: body) { (event) throws(RequestFailure) in
                try reader.add(event)
            }
            return try reader.outcome()
        } catch {
            let isCut = reader.hasBegun && (error == .closedEarly || error == .reset)
            return .failed(isCut ? .unfinished : error, retryAfter: nil, message: reader.message)
        }
    }
}

/// Puts an answer together from what comes.
struct AnswerReader {
    private(set) var message = ""
    /// Whether the server has begun to answer.
    var hasBegun: Bool { status == 200 }
    private var answer = Answer()
    private var parser = EventParser()
    private var status = 0
    private var retryAfter: Int?
    private var isStream = false
    private var isDone = false
    private var body: [UInt8] = []

    mutating func add(_ timed: TimedEvent) throws(RequestFailure) {
        switch timed.event {
        case .head(let status, let headers):
            self.status = status
            let type = headers.first(name: "content-type")?.lowercased() ?? ""
            isStream = status == 200 && type.hasPrefix("text/event-stream")
            // A day at most: what clocks add up is finite.
            retryAfter = headers.first(name: "retry-after").flatMap { Int($0) }
                .map { min(max($0, 0), 86_400) }
        case .body(let buffer) where isStream:
            for data in try parser.add(buffer.readableBytesView) {
                try take(AnswerEvent(data), at: timed.time)
            }
        case .body(let buffer):
            body += buffer.readableBytesView
            guard body.count <= EventParser.longestEvent else { throw .malformedHTTP }
        case .end, .failed: answer.end = timed.time
        }
    }

    private mutating func take(_ event: AnswerEvent, at time: NIODeadline) throws(RequestFailure) {
        switch event {
        case .done: isDone = true
        case .error(let text):
            message = text
            throw .serverEvent
        case .deltas(let deltas, let usage):
            if let usage { answer.usage = usage }
            for delta in deltas {
                answer.texts[delta.index, default: ""] += delta.text
                if let reason = delta.finishReason { answer.finishReasons[delta.index] = reason }
            }
            if deltas.contains(where: \.hasToken) { answer.pieces.append(time) }
        }
    }

    /// The answer, once the response has ended.
    mutating func outcome() throws(RequestFailure) -> AnswerOutcome {
        guard status == 200 else {
            let whole = WholeResponse(status: status, headers: HTTPHeaders(), body: body)
            return .failed(.status(status), retryAfter: retryAfter, message: whole.message)
        }
        guard !isStream else {
            guard isDone, !parser.isWithin else { throw .unfinished }
            return .complete(answer)
        }
        guard let json = try? JSON(parsing: body), let choices = json["choices"]?.array else {
            throw .malformedEvent
        }
        answer.usage = TokenUsage(json["usage"])
        for (place, choice) in choices.enumerated() {
            let index = choice["index"]?.int ?? place
            answer.texts[index] =
                choice["message"]?["content"]?.string ?? choice["text"]?.string ?? ""
            answer.finishReasons[index] = choice["finish_reason"]?.string
        }
        return .complete(answer)
    }
}
