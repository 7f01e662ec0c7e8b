/// How a server is soaked.
public struct SoakOptions: Sendable {
    /// Where the server is.
    public var address: ServerAddress
    /// What requests show; `nil`: nothing.
    public var key: String?
    /// Requests to make.
    public var requests: Int
    /// Users who make them at one time.
    public var users: Int
    /// Seed of all choices.
    public var seed: UInt64
    /// Questions whose answers are asked for one at a time before; `nil`: by the requests.
    public var questions: Int?
    /// The server's process on this machine, to see its memory; `nil`: what the server says of it.
    public var process: Int32?
    /// Starts the server; `nil`: it runs.
    public var server: ServerProcess?
    /// Times that the server is ended and started again, alternately by SIGTERM and SIGKILL.
    public var kills: Int
    /// Time of one request, at most.
    public var limit: Duration
    /// Time afterwards in which the server must have let go of everything.
    public var settleTime: Duration

    /// Options of a soak of the server at `address`.
    public init(
        address: ServerAddress, key: String? = nil, requests: Int, users: Int = 24,
        seed: UInt64 = 0, questions: Int? = nil, process: Int32? = nil,
        server: ServerProcess? = nil, kills: Int = 0, limit: Duration = .seconds(600),
        settleTime: Duration = .seconds(60)
    ) {
        self.address = address
        self.key = key
        self.requests = requests
        self.users = users
        self.seed = seed
        self.questions = questions
        self.process = process
        self.server = server
        self.kills = kills
        self.limit = limit
        self.settleTime = settleTime
    }
}
