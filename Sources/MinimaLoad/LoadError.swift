/// Why a server cannot be put under load as asked.
public enum LoadError: Error, Hashable, CustomStringConvertible {
    case badAddress(String, reason: String)
    case https(String)
    case badDistribution(String, reason: String)
    case badObjective(String)
    case badPrompts(path: String, line: Int, reason: String)
    case noPrompts(path: String)
    case badKey
    case unreachable(String, reason: String)
    case refused(path: String, status: Int, message: String)
    case noModel(String)
    case notAnswered(path: String, reason: String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .badAddress(let text, let reason):
            "\"\(text)\" is no server's address: \(reason); give one like http://127.0.0.1:8000"
        case .https(let text):
            """
            \(text): TLS is not spoken here; let another program end it, for example `socat \
            TCP-LISTEN:8443,fork,reuseaddr,bind=127.0.0.1 OPENSSL:HOST:443`, and give \
            http://127.0.0.1:8443
            """
        case .badDistribution(let text, let reason):
            """
            "\(text)" is no distribution of lengths: \(reason); give fixed:N, uniform:LOW:HIGH, \
            normal:MEAN:DEVIATION or lognormal:MEDIAN:SIGMA
            """
        case .badObjective(let text):
            """
            "\(text)" is no service-level objective; give a list like ttft:500,tpot:50,e2el:10000 \
            in milliseconds
            """
        case .badPrompts(let path, let line, let reason):
            """
            \(path), prompt \(line): \(reason); a prompt is a JSON string, or an object with \
            "prompt", "messages" or ShareGPT's "conversations"
            """
        case .noPrompts(let path): "\(path) holds no prompts; write one per line, as JSON"
        case .badKey:
            "the API key holds a space or a character that no header can carry; give another"
        case .unreachable(let address, let reason):
            "\(address) cannot be reached: \(reason); is the server running, and is this its port?"
        case .refused(let path, let status, let message):
            "the server answered \(path) with status \(status): \(message)"
        case .noModel(let address):
            "\(address)/v1/models lists no model; name one with --model"
        case .notAnswered(let path, let reason):
            "the server gave no proper answer to \(path): \(reason)"
        }
    }
}

/// How a request failed; requests that fail are counted by this.
public enum RequestFailure: Error, Hashable, Sendable, CustomStringConvertible {
    /// No connection.
    case connect
    /// The connection was reset or broke before an answer began.
    case reset
    /// The connection was closed before an answer began.
    case closedEarly
    /// What came was not HTTP.
    case malformedHTTP
    /// A stream's event was not what the interface describes.
    case malformedEvent
    /// An answer began and did not come to its end.
    case unfinished
    /// An event told of an error.
    case serverEvent
    /// A status other than 200.
    case status(Int)
    /// It took longer than the limit.
    case timeout

    /// The name under which it is counted.
    public var description: String {
        switch self {
        case .connect: "connect"
        case .reset: "reset"
        case .closedEarly: "closed_early"
        case .malformedHTTP: "malformed_http"
        case .malformedEvent: "malformed_event"
        case .unfinished: "unfinished"
        case .serverEvent: "error_event"
        case .status(let status): "http_\(status)"
        case .timeout: "timeout"
        }
    }
}
