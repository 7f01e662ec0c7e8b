/// How a server listens and what it lets requests do.
public struct ServerOptions: Sendable {
    /// Address or name to listen on; the loopback address reaches this machine only.
    public var host: String
    /// Port; 0 takes a free one.
    public var port: Int
    /// Keys of which a request must give one; empty: none is asked for.
    public var keys: [APIKey]
    /// Sites whose pages in browsers may send requests, besides the server's own page.
    public var allowedOrigins: [AllowedOrigin]
    /// Whether there is a chat page at `/`.
    public var hasPage: Bool
    /// Tokens of the longest request, prompt and new ones; `nil`: what the engine takes.
    public var context: Int?
    /// Bytes of a request's body, at most.
    public var maxBodyBytes: Int
    /// Answers of one request at most: prompts times `n`.
    public var maxAnswers: Int
    /// Log-probabilities of prompts in one answer, at most: tokens, times one more than the likeliest
    /// tokens at each place; an answer holds them all before it is written.
    public var maxPromptLogprobs: Int
    /// Time from a request's first byte to the end of its answer; `nil`: no limit.
    public var deadline: Duration?
    /// Connections at one time; more wait until one is closed.
    public var maxConnections: Int
    /// Time after which a connection is closed on which a request does not arrive or not get on.
    public var idleTimeout: Duration
    /// Time that running requests have to end once the server is asked to stop.
    public var drainTime: Duration
    /// Time without a step, while requests are there, after which the engine counts as stalled.
    public var stallTime: Duration
    /// Where Python packages may lie, among them xgrammar, which constrained answers need.
    public var packageFolders: [String]
    /// About how many bytes the system may hold for a client that does not read (`SO_SNDBUF`); `nil`: as many
    /// as it likes.
    var sendBuffer: Int?

    /// Options; the defaults suit one machine's users.
    public init(
        host: String = "127.0.0.1", port: Int = 8000, keys: [APIKey] = [],
        allowedOrigins: [AllowedOrigin] = [], hasPage: Bool = true,
        context: Int? = nil, maxBodyBytes: Int = 8 << 20, maxAnswers: Int = 1024,
        maxPromptLogprobs: Int = 1 << 18,
        deadline: Duration? = .seconds(600), maxConnections: Int = 1024,
        idleTimeout: Duration = .seconds(60), drainTime: Duration = .seconds(30),
        stallTime: Duration = .seconds(120), packageFolders: [String] = []
    ) {
        self.host = host
        self.port = port
        self.keys = keys
        self.allowedOrigins = allowedOrigins
        self.hasPage = hasPage
        self.context = context
        self.maxBodyBytes = maxBodyBytes
        self.maxAnswers = maxAnswers
        self.maxPromptLogprobs = maxPromptLogprobs
        self.deadline = deadline
        self.maxConnections = maxConnections
        self.idleTimeout = idleTimeout
        self.drainTime = drainTime
        self.stallTime = stallTime
        self.packageFolders = packageFolders
    }
}

/// Why a server cannot run.
public enum ServerError: Error, CustomStringConvertible {
    case cannotListen(host: String, port: Int, reason: String)
    case noKeys
    case badKey(line: Int)
    case badOrigin(String)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .cannotListen(let host, let port, let reason):
            "cannot listen on \(host), port \(port): \(reason); give another --host or --port"
        case .noKeys:
            "the file of API keys holds none; write one per line, or leave out --api-key-file"
        case .badKey(let line):
            """
            the API key in line \(line) holds a space or a character that is not ASCII, which no \
            request header can carry; write another
            """
        case .badOrigin(let text):
            """
            "\(text)" is no origin; give scheme, host and port as in https://chat.example.org or \
            http://localhost:3000, null for pages without one, or * for every site
            """
        }
    }
}
