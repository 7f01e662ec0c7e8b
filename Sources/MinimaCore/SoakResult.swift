/// What a server did under everything that clients do to servers: what `minima load --soak` found.
public struct SoakResult: StageResult, Hashable {
    /// `soak`.
    public static let kind = "soak"

    /// A look at the server's memory.
    public struct MemorySample: Codable, Sendable, Hashable {
        /// Requests made before.
        public var requests: Int
        /// How often the server had been started again before.
        public var restarts: Int
        /// Resident bytes of the server's process.
        public var bytes: Int

        /// A look.
        public init(requests: Int, restarts: Int, bytes: Int) {
            self.requests = requests
            self.restarts = restarts
            self.bytes = bytes
        }
    }

    /// The server's URL.
    public var address: String
    /// The model's name in requests.
    public var model: String
    /// Requests made.
    public var requests: Int
    /// Users who made them at one time.
    public var users: Int
    /// Seed of all choices.
    public var seed: UInt64
    /// Wall-clock time, without that of the answers to compare with.
    public var seconds: Double
    /// Requests by kind.
    public var kinds: [String: Int]
    /// What came of them: `answered`, `refused`, `left`, `interrupted` (by a kill).
    public var outcomes: [String: Int]
    /// Answers that were compared with those of requests made one at a time before.
    public var compared: Int
    /// Those of them that differed.
    public var wrong: Int
    /// What should not have happened, and how often.
    public var unexpected: [String: Int]
    /// The first of these in words.
    public var examples: [String]
    /// Times that the server's queue was full and a request was made again.
    public var retries: Int
    /// Times that the server was told to stop (SIGTERM).
    public var terminations: Int
    /// Times that the server was killed (SIGKILL).
    public var kills: Int
    /// Pages of keys and values, in all.
    public var pages: Int
    /// Pages that were not free once nothing ran any more.
    public var leakedPages: Int
    /// Requests that the server still counted then.
    public var leftInFlight: Int
    /// Calls to the device that failed.
    public var engineFailures: Int
    /// The server's memory over time; empty when it could not be seen.
    public var memory: [MemorySample]
    /// Mean of the last tenth of the longest life's looks less that of its second tenth, bytes.
    public var growth: Int?
    /// Growth that counts as flat, bytes.
    public var growthLimit: Int

    /// A finding.
    public init(
        address: String, model: String, requests: Int, users: Int, seed: UInt64, seconds: Double,
        kinds: [String: Int], outcomes: [String: Int], compared: Int, wrong: Int,
        unexpected: [String: Int], examples: [String], retries: Int, terminations: Int, kills: Int,
        pages: Int, leakedPages: Int, leftInFlight: Int, engineFailures: Int,
        memory: [MemorySample], growth: Int?, growthLimit: Int
    ) {
        self.address = address
        self.model = model
        self.requests = requests
        self.users = users
        self.seed = seed
        self.seconds = seconds
        self.kinds = kinds
        self.outcomes = outcomes
        self.compared = compared
        self.wrong = wrong
        self.unexpected = unexpected
        self.examples = examples
        self.retries = retries
        self.terminations = terminations
        self.kills = kills
        self.pages = pages
        self.leakedPages = leakedPages
        self.leftInFlight = leftInFlight
        self.engineFailures = engineFailures
        self.memory = memory
        self.growth = growth
        self.growthLimit = growthLimit
    }

    /// Whether no page leaked, no answer was wrong, nothing unexpected happened and memory was flat.
    public var isPassed: Bool {
        leakedPages == 0 && wrong == 0 && unexpected.isEmpty && leftInFlight == 0
            && engineFailures == 0 && (growth ?? 0) <= growthLimit
    }
}
