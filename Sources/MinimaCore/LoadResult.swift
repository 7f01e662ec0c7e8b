/// What `minima load` measured at a server.
public struct LoadResult: StageResult, Hashable {
    /// `load`.
    public static let kind = "load"

    /// The value that `percent` of all values do not exceed.
    public struct Percentile: Codable, Sendable, Hashable {
        /// From 0 to 100.
        public var percent: Double
        /// In the distribution's unit, with three significant digits.
        public var value: Double

        /// A percentile.
        public init(percent: Double, value: Double) {
            self.percent = percent
            self.value = value
        }
    }

    /// Many values of one kind.
    public struct Distribution: Codable, Sendable, Hashable {
        /// How many there are.
        public var count: Int
        /// Their mean, exact.
        public var mean: Double
        /// The least, exact.
        public var least: Double
        /// The largest, exact.
        public var most: Double
        /// Percentiles, rising.
        public var percentiles: [Percentile]

        /// A distribution.
        public init(
            count: Int, mean: Double, least: Double, most: Double, percentiles: [Percentile]
        ) {
            self.count = count
            self.mean = mean
            self.least = least
            self.most = most
            self.percentiles = percentiles
        }

        /// The value at `percent`, where it is among the percentiles; 100 is the largest.
        public func value(at percent: Double) -> Double? {
            percent == 100 ? most : percentiles.first { $0.percent == percent }?.value
        }
    }

    /// The server's URL.
    public var address: String
    /// The model's name in requests.
    public var model: String
    /// `chat` or `completions`.
    public var interface: String
    /// When requests were sent: `closed loop, 8 users`; `open loop, 2.0/s, Poisson`.
    public var arrivals: String
    /// Users of a closed loop; `nil` for an open one.
    public var users: Int?
    /// Requests per second of an open loop; `nil` for a closed one.
    public var rate: Double?
    /// Lengths asked for: `fixed:256`, or `file`.
    public var promptLengths: String
    /// Lengths asked for.
    public var answerLengths: String
    /// Tokens with which all prompts begin alike.
    public var sharedPrefix: Int
    /// Seed of lengths, words and gaps.
    public var seed: UInt64
    /// Whether answers were asked to go on after their end, and the server took that.
    public var ignoresEnd: Bool
    /// Where numbers of tokens are from: `usage`, `chunks` (one a piece) or `mixed`.
    public var tokensCountedBy: String
    /// From the first request (as intended) to the last answer's end.
    public var seconds: Double
    /// Answers that were complete.
    public var completed: Int
    /// Requests that failed.
    public var failed: Int
    /// Why, and how many.
    public var errors: [String: Int]
    /// In a closed loop, times that a request was refused with status 429 and sent again.
    public var retries: Int
    /// Answers without a token; they have no TTFT.
    public var empty: Int
    /// Tokens of prompts of complete answers; 0 when the server does not count.
    public var promptTokens: Int
    /// Tokens of complete answers.
    public var answerTokens: Int
    /// Objectives in milliseconds, by name.
    public var objectives: [String: Double]
    /// Complete answers per second that kept all objectives; `nil` without objectives.
    public var goodput: Double?
    /// Time to first token, milliseconds; from the intended time of sending.
    public var ttft: Distribution?
    /// Time per output token after the first, milliseconds: one value an answer.
    public var tpot: Distribution?
    /// Inter-token latency, milliseconds: between two pieces of a stream.
    public var itl: Distribution?
    /// End-to-end latency, milliseconds; from the intended time of sending.
    public var e2el: Distribution?
    /// Tokens per second of each answer, from the intended time of sending to its end.
    public var answerRate: Distribution?
    /// How late requests were sent, milliseconds; `nil` in a closed loop.
    public var sendDelay: Distribution?

    /// A measurement.
    public init(
        address: String, model: String, interface: String, arrivals: String, users: Int?,
        rate: Double?, promptLengths: String, answerLengths: String, sharedPrefix: Int,
        seed: UInt64, ignoresEnd: Bool, tokensCountedBy: String, seconds: Double, completed: Int,
        failed: Int, errors: [String: Int], retries: Int, empty: Int, promptTokens: Int,
        answerTokens: Int, objectives: [String: Double], goodput: Double?, ttft: Distribution?,
        tpot: Distribution?, itl: Distribution?, e2el: Distribution?, answerRate: Distribution?,
        sendDelay: Distribution?
    ) {
        self.address = address
        self.model = model
        self.interface = interface
        self.arrivals = arrivals
        self.users = users
        self.rate = rate
        self.promptLengths = promptLengths
        self.answerLengths = answerLengths
        self.sharedPrefix = sharedPrefix
        self.seed = seed
        self.ignoresEnd = ignoresEnd
        self.tokensCountedBy = tokensCountedBy
        self.seconds = seconds
        self.completed = completed
        self.failed = failed
        self.errors = errors
        self.retries = retries
        self.empty = empty
        self.promptTokens = promptTokens
        self.answerTokens = answerTokens
        self.objectives = objectives
        self.goodput = goodput
        self.ttft = ttft
        self.tpot = tpot
        self.itl = itl
        self.e2el = e2el
        self.answerRate = answerRate
        self.sendDelay = sendDelay
    }

    /// Complete answers per second.
    public var requestThroughput: Double { seconds > 0 ? Double(completed) / seconds : 0 }
    /// New tokens per second, of all answers together.
    public var outputThroughput: Double { seconds > 0 ? Double(answerTokens) / seconds : 0 }
    /// Tokens of prompts and answers per second.
    public var totalThroughput: Double {
        seconds > 0 ? Double(promptTokens + answerTokens) / seconds : 0
    }
}
