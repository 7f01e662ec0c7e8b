import MinimaCore

/// What `minima draft train` did; also stored as `minima.json` beside the draft.
public struct DraftResult: StageResult, Hashable {
    /// `draft`.
    public static let kind = "draft"
    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// How good the draft is on held-out windows.
    public struct Measurement: Codable, Sendable, Hashable {
        /// The weighted mean cross-entropy of its guesses, in nats.
        public var loss: Double
        /// By place in a row, the share of guesses that are the target's first choice among those
        /// after which all before were.
        public var acceptance: [Double]
        /// The expected tokens of a step of the target with as many guesses.
        public var length: Double

        /// A measurement.
        public init(loss: Double, acceptance: [Double]) {
            self.loss = loss
            self.acceptance = acceptance
            length = AcceptanceLength.of(acceptance)
        }
    }

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema = currentSchema
    /// The target's directory.
    public var target: String
    /// SHA-256 of the target's files, by name.
    public var targetHashes: [String: String]
    /// What was trained on.
    public var texts: [HealingResult.Text]
    /// What was asked for, by the option's name.
    public var settings: [String: String]
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// The type that both models computed in.
    public var dtype: String
    /// Version of libtorch.
    public var torch: String
    /// Tokens of the target that the draft can propose.
    public var draftVocabulary: Int
    /// Share of the training tokens that are among them.
    public var coverage: Double
    /// The target's layers whose input it reads.
    public var featureLayers: [Int]
    /// Held-out tokens that were measured on.
    public var heldOutTokens: Int
    /// Before training.
    public var before: Measurement
    /// After training, as stored.
    public var after: Measurement
    /// Numbers that the draft consists of, its vocabulary's tables not counted.
    public var parameters: Int
    /// Bytes of its weights as stored.
    public var bytes: Int
    /// Wall-clock seconds of all runs that led to this draft.
    public var seconds: Double
    /// The training.
    public var phase: HealingResult.Phase
}

/// What `minima draft compress` did; also stored as `minima.json` beside the draft.
public struct DraftCompressionResult: StageResult, Hashable {
    /// `draft-compression`.
    public static let kind = "draft-compression"

    /// Version of Minima.
    public var version: String
    /// The directory of the draft that was compressed.
    public var draft: String
    /// Bytes of its weights as stored.
    public var bytesBefore: Int
    /// Bytes of what was written.
    public var bytesAfter: Int
    /// By layer, ‖Ŵ − W‖ / ‖W‖.
    public var errors: [String: Double]

    /// An account of a compression.
    public init(
        version: String, draft: String, bytesBefore: Int, bytesAfter: Int,
        errors: [String: Double]
    ) {
        self.version = version
        self.draft = draft
        self.bytesBefore = bytesBefore
        self.bytesAfter = bytesAfter
        self.errors = errors
    }
}
