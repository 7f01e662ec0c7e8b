import MinimaCore

/// One of the things that happen to a server.
enum SoakRequest: Sendable {
    /// A question, whose answer is compared.
    case ask(question: Int, streams: Bool, asksUsage: Bool, isSlow: Bool)
    /// A client that goes before it has its answer.
    case leave(question: Int, LeavingPoint, withReset: Bool)
    /// A client that closes its sending side once it has asked.
    case halfClose(question: Int)
    /// What is no request; the bytes.
    case malformedHTTP([UInt8])
    /// A request that must be refused.
    case refused(name: String, path: String, body: [UInt8])
    /// A body larger than any; with its length said before, or in chunks.
    case oversize(isChunked: Bool)
    /// Another address, and the status that it must answer with.
    case other(path: String, body: [UInt8]?, status: Int)

    /// When a client goes.
    enum LeavingPoint: Sendable, Hashable {
        case connected, partOfHead, partOfBody
        case asked(milliseconds: Int)
        case answering(pieces: Int)
    }

    /// Request `number` of a soak with `questions`.
    init(_ number: Int, seed: UInt64, questions: Int) {
        var random = SplitMix(seed &+ UInt64(number) &* 0x2545_f491_4f6c_dd1d)
        func draw(_ range: Range<Int>) -> Int { .random(in: range, using: &random) }
        let question = draw(0..<questions)
        switch draw(0..<100) {
        case 0..<25:
            self = .ask(question: question, streams: false, asksUsage: false, isSlow: false)
        case 25..<52:
            self = .ask(
                question: question, streams: true, asksUsage: draw(0..<2) == 0, isSlow: false)
        case 52..<56: self = .ask(question: question, streams: true, asksUsage: false, isSlow: true)
        case 56..<74:
            let points: [LeavingPoint] = [
                .connected, .partOfHead, .partOfBody, .asked(milliseconds: draw(0..<40)),
                .asked(milliseconds: 0), .answering(pieces: draw(0..<12)),
            ]
            self = .leave(
                question: question, points[draw(0..<points.count)], withReset: draw(0..<2) == 0)
        case 74..<77: self = .halfClose(question: question)
        case 77..<81: self = .malformedHTTP(Self.notHTTP[draw(0..<Self.notHTTP.count)])
        case 81..<92:
            let (path, body) = Self.badBodies[draw(0..<Self.badBodies.count)]
            self = .refused(name: "malformed_body", path: path, body: body)
        case 92..<94: self = .oversize(isChunked: draw(0..<8) == 0)
        case 94..<96:
            let tokens = draw(0..<16) == 0 ? 0 : 1_000_000_000
            self = .refused(
                name: "too_long", path: "/v1/completions", body: Self.tooLong(tokens))
        default:
            let (path, body, status) = Self.others[draw(0..<Self.others.count)]
            self = .other(path: path, body: body.map { Array($0.utf8) }, status: status)
        }
    }

    /// The name under which it is counted.
    var kind: String {
        switch self {
        case .ask(_, _, _, true): "slow_reader"
        case .ask(_, let streams, _, _): streams ? "streamed" : "whole"
        case .leave: "leaves"
        case .halfClose: "half_closes"
        case .malformedHTTP: "malformed_http"
        case .refused(let name, _, _): name
        case .oversize: "oversize"
        case .other: "other_address"
        }
    }

    // MARK: What is wrong with them

    private static let completions = "/v1/completions"
    private static let chat = "/v1/chat/completions"

    private static let notHTTP: [[UInt8]] =
        [
            "nonsense\r\n\r\n", "GET\r\n\r\n", "\r\n\r\n\r\nGET / HTTP/1.1 x\r\n\r\n",
            "POST \(completions) HTTP/1.1\r\nHost: x\r\nContent-Length: many\r\n\r\n",
            "POST \(completions) HTTP/1.1\r\nHost: x\r\nContent-Length: -5\r\n\r\n",
            "POST \(completions) HTTP/1.1\r\nHost: x\r\nContent-Length: 4\r\n"
                + "Content-Length: 5\r\n\r\n{}{}",
            "POST \(completions) HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n",
            "GET /health HTTP/1.1\r\nbad header\r\n\r\n",
            "GET /health HTTP/1.1\r\nX: \(String(repeating: "x", count: 200_000))\r\n\r\n",
        ].map { Array($0.utf8) } + [
            // The beginning of a TLS handshake.
            [0x16, 0x03, 0x01, 0x02, 0x00, 0x01, 0x00, 0x01, 0xfc, 0x03, 0x03]
                + Array(repeating: 0xa7, count: 500),
            Array(repeating: 0, count: 1000),
        ]

    private static let badBodies: [(path: String, body: [UInt8])] =
        [
            (completions, ""), (completions, "{"), (completions, "[]"), (chat, "null"),
            (chat, "\"text\""), (completions, "{\"prompt\": 5}"), (completions, "{}"),
            (completions, "{\"prompt\": [[1, 2], [99999999]]}"),
            (completions, "{\"prompt\": \"x\", \"max_tokens\": -1}"),
            (completions, "{\"prompt\": \"x\", \"max_tokens\": 1e99}"),
            (completions, "{\"prompt\": \"x\", \"temperature\": \"hot\"}"),
            (completions, "{\"prompt\": \"x\", \"temperature\": -1}"),
            (completions, "{\"prompt\": \"x\", \"top_p\": 7}"),
            (completions, "{\"prompt\": \"x\", \"n\": 0}"),
            (completions, "{\"prompt\": \"x\", \"n\": 1000000}"),
            (completions, "{\"prompt\": \"x\", \"stream\": \"yes\"}"),
            (completions, "{\"prompt\": \"x\", \"stop\": [\"\"]}"),
            (completions, "{\"prompt\": \"x\", \"logit_bias\": {\"-1\": 2}}"),
            (completions, "{\"prompt\": \"x\", \"prompt\": \"y\"}"),
            (completions, "{\"prompt\": \"\\ud800\"}"),
            (completions, "{\"prompt\": \"x\", \"model\": \"no-such-model\"}"),
            (completions, String(repeating: "[", count: 100_000)),
            (chat, "{\"messages\": []}"), (chat, "{\"messages\": \"x\"}"),
            (chat, "{\"messages\": [{\"role\": \"user\"}]}"),
            (chat, "{\"messages\": [{\"role\": \"nobody\", \"content\": \"x\"}]}"),
            (chat, "{\"messages\": [{\"role\": \"user\", \"content\": \"x\"}], \"seed\": \"s\"}"),
        ].map { ($0, Array($1.utf8)) } + [
            (completions, Array("{\"prompt\": \"".utf8) + [0xff, 0xc0] + Array("\"}".utf8)),
            (chat, Array(repeating: 0, count: 4096)),
        ]

    /// More new tokens, or a longer prompt, than any context holds.
    private static func tooLong(_ tokens: Int) -> [UInt8] {
        guard tokens == 0 else {
            return Array("{\"prompt\": \"x\", \"max_tokens\": \(tokens)}".utf8)
        }
        let words = String(repeating: "one two three four ", count: 60_000)
        return Array("{\"prompt\": \"\(words)\", \"max_tokens\": 1}".utf8)
    }

    private static let others: [(path: String, body: String?, status: Int)] = [
        ("/v1/models", nil, 200), ("/health", nil, 200), ("/metrics", nil, 200),
        ("/tokenize", "{\"prompt\": \"some words\"}", 200), ("/nothing", nil, 404),
        ("/v1/embeddings", "{\"input\": \"x\"}", 404), (completions, nil, 405),
    ]
}
