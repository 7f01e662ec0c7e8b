/// What `minima ablate` measured: the same model compressed to the same size in several ways.
public struct AblationResult: StageResult, Hashable {
    /// `ablation`.
    public static let kind = "ablation"

    /// One way to compress.
    public struct Row: Codable, Sendable, Hashable {
        /// What is equal among the rows it is compared with: `parameters`, `bytes`.
        public var equal: String
        /// The step or family: `uniform ranks`, `+ sensitivity`, `only tt`, ….
        public var name: String
        /// The plan's target.
        public var target: String
        /// Modules by the format they took.
        public var formats: [String: Int]
        /// Numbers that the linear layers store.
        public var parameters: Int
        /// Bytes of the linear layers.
        public var bytes: Int
        /// Predicted KL(dense ‖ model), nats per token; `nil` without a sensitivity model.
        public var predicted: Double?
        /// Perplexity by text.
        public var perplexity: [String: Double]
        /// Mean KL(dense ‖ model) per token by text, nats.
        public var divergence: [String: Double]
        /// Wall-clock seconds of planning and compressing.
        public var seconds: Double

        /// A row.
        public init(
            equal: String, name: String, target: String, formats: [String: Int], parameters: Int,
            bytes: Int, predicted: Double?, perplexity: [String: Double],
            divergence: [String: Double], seconds: Double
        ) {
            self.equal = equal
            self.name = name
            self.target = target
            self.formats = formats
            self.parameters = parameters
            self.bytes = bytes
            self.predicted = predicted
            self.perplexity = perplexity
            self.divergence = divergence
            self.seconds = seconds
        }
    }

    /// The dense model's directory.
    public var model: String
    /// Share of the linear layers' parameters that was to be removed.
    public var ratio: Double
    /// Parameters of the dense linear layers.
    public var linearParameters: Int
    /// Bytes of the dense linear layers.
    public var linearBytes: Int
    /// Tokens per window of the evaluation.
    public var context: Int
    /// Predicted tokens by text.
    public var tokens: [String: Int]
    /// Perplexity of the dense model by text.
    public var densePerplexity: [String: Double]
    /// Where it ran.
    public var device: String
    /// The type that the models computed in.
    public var dtype: String
    /// The ways, in the order in which they build on each other.
    public var rows: [Row]

    /// A comparison.
    public init(
        model: String, ratio: Double, linearParameters: Int, linearBytes: Int, context: Int,
        tokens: [String: Int], densePerplexity: [String: Double], device: String, dtype: String,
        rows: [Row]
    ) {
        self.model = model
        self.ratio = ratio
        self.linearParameters = linearParameters
        self.linearBytes = linearBytes
        self.context = context
        self.tokens = tokens
        self.densePerplexity = densePerplexity
        self.device = device
        self.dtype = dtype
        self.rows = rows
    }
}
