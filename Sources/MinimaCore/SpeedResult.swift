/// What `minima speed` measured: the speed of a dense model, of its compressed form and of that with
/// speculative decoding, each at several numbers of parallel requests. The Minima paper, section 5.2.
///
/// Times are seconds, sizes bytes.
public struct SpeedResult: StageResult, Hashable {
    /// `speed`.
    public static let kind = "speed"
    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// What decodes.
    public enum Configuration: String, Codable, Sendable, Hashable, CaseIterable {
        case dense, compressed
        /// The compressed model with a draft.
        case speculation

        /// For tables.
        public var title: String {
            switch self {
            case .dense: "dense"
            case .compressed: "compressed"
            case .speculation: "compressed + speculation"
            }
        }
    }

    /// How speed was measured.
    public enum Method: String, Codable, Sendable, Hashable {
        /// Requests through the engine, from their submission to their tokens.
        case requests
        /// Decode steps behind a prompt, all requests at the same length.
        case steps
    }

    /// One configuration at one number of requests.
    public struct Row: Codable, Sendable, Hashable {
        /// What decodes.
        public var configuration: Configuration
        /// The model, and the draft where there is one.
        public var label: String
        /// Requests at once.
        public var requests: Int
        /// Tokens per second that each request gets while all of them decode.
        public var tokensPerSecond: BenchResult.Spread
        /// Seconds from a request to its first token: the middle one of all requests, which come at
        /// once.
        public var firstToken: BenchResult.Spread?
        /// Most bytes held meanwhile: on a GPU of live tensors, on the CPU of the whole process.
        public var peakBytes: Int?
        /// Bytes of the weights as they are stored, the draft's among them.
        public var weightBytes: Int
        /// Tokens that a step which proposes makes for a request, on average; `nil` without such steps.
        public var acceptanceLength: Double?
        /// The average that was prescribed, proposals counting as right by chance; `nil`: they were
        /// compared.
        public var simulatedLength: Double?
        /// How many tokens steps proposed, for people: `auto`, `5`.
        public var proposals: String?

        /// A row.
        public init(
            configuration: Configuration, label: String, requests: Int,
            tokensPerSecond: BenchResult.Spread, firstToken: BenchResult.Spread? = nil,
            peakBytes: Int? = nil, weightBytes: Int, acceptanceLength: Double? = nil,
            simulatedLength: Double? = nil, proposals: String? = nil
        ) {
            self.configuration = configuration
            self.label = label
            self.requests = requests
            self.tokensPerSecond = tokensPerSecond
            self.firstToken = firstToken
            self.peakBytes = peakBytes
            self.weightBytes = weightBytes
            self.acceptanceLength = acceptanceLength
            self.simulatedLength = simulatedLength
            self.proposals = proposals
        }

        /// Tokens per second of all requests.
        public var totalTokensPerSecond: Double { tokensPerSecond.median * Double(requests) }
    }

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The dense model, or the name of its sizes.
    public var model: String
    /// What computed: `NVIDIA H200`, `cpu, 2 threads`.
    public var device: String
    /// The type that the models computed in: `bfloat16`.
    public var dtype: String
    /// The type of stored keys and values.
    public var cacheType: String
    /// How it was measured.
    public var method: Method
    /// Tokens of each prompt.
    public var context: Int
    /// Tokens of each request in a repetition, at least; or decode steps.
    public var tokens: Int
    /// Where random weights and tokens came from.
    public var seed: UInt64
    /// The command line.
    public var command: String
    /// What was measured, in order.
    public var rows: [Row]

    /// An account.
    public init(
        version: String, schema: Int = currentSchema, model: String, device: String, dtype: String,
        cacheType: String, method: Method, context: Int, tokens: Int, seed: UInt64,
        command: String, rows: [Row]
    ) {
        self.version = version
        self.schema = schema
        self.model = model
        self.device = device
        self.dtype = dtype
        self.cacheType = cacheType
        self.method = method
        self.context = context
        self.tokens = tokens
        self.seed = seed
        self.command = command
        self.rows = rows
    }

    /// Numbers of requests in the order in which they were measured.
    public var requests: [Int] {
        rows.reduce(into: []) { if !$0.contains($1.requests) { $0.append($1.requests) } }
    }

    /// How much faster a row is than the dense model at as many requests; `nil` for that itself, and
    /// where it was not measured.
    public func ratio(_ row: Row) -> Double? {
        guard row.configuration != .dense,
            let dense = rows.first(where: {
                $0.configuration == .dense && $0.requests == row.requests
            })
        else { return nil }
        let ratio = row.tokensPerSecond.median / dense.tokensPerSecond.median
        return ratio.isFinite && ratio >= 0 ? ratio : nil
    }

    /// Tokens per second of each request as the paper prints them, section 5.2: Qwen3-32B at −35%,
    /// 8K tokens of context; `nil` for other numbers of requests than its own.
    public static func paper(_ configuration: Configuration, requests: Int) -> Double? {
        switch (configuration, requests) {
        case (.dense, 1): 40
        case (.compressed, 1): 50
        case (.speculation, 1): 75
        case (.dense, 50): 34
        case (.compressed, 50): 44
        case (.speculation, 50): 53
        default: nil
        }
    }

    /// The same as a multiple of the dense model's.
    public static func paperRatio(_ configuration: Configuration, requests: Int) -> Double? {
        guard configuration != .dense, let own = paper(configuration, requests: requests),
            let dense = paper(.dense, requests: requests)
        else { return nil }
        return own / dense
    }
}
