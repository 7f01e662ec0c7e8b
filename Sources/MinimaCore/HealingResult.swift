/// What `minima heal` did; also stored as `minima.json` in the checkpoint it wrote.
public struct HealingResult: StageResult, Hashable {
    /// `healing`.
    public static let kind = "healing"

    /// A text that was trained on.
    public struct Text: Codable, Sendable, Hashable {
        /// The file.
        public var name: String
        /// Documents in it, or pairs of a prompt and a completion.
        public var documents: Int
        /// Tokens in it.
        public var tokens: Int

        /// A text.
        public init(name: String, documents: Int, tokens: Int) {
            self.name = name
            self.documents = documents
            self.tokens = tokens
        }
    }

    /// How good the model was on held-out windows.
    public struct Measurement: Codable, Sendable, Hashable {
        /// Mean KL(teacher ‖ model) per predicted token, in nats.
        public var kl: Double
        /// exp(mean negative log-likelihood per predicted token).
        public var perplexity: Double

        /// A measurement.
        public init(kl: Double, perplexity: Double) {
            self.kl = kl
            self.perplexity = perplexity
        }
    }

    /// A place on the curve of a phase.
    public struct Point: Codable, Sendable, Hashable {
        /// Steps of the optimiser so far.
        public var step: Int
        /// Training tokens so far, repeated ones counted again.
        public var tokens: Int
        /// Seconds so far, of all runs that led here.
        public var seconds: Double
        /// Training loss, a mean since the point before; `nil` at the start.
        public var loss: Double?
        /// Held-out measure: KL in nats per token, a block's relative output error, or a draft's loss.
        public var heldOut: Double?
        /// Held-out perplexity; `nil` for blocks.
        public var perplexity: Double?
        /// Of a draft: the share of the model's held-out tokens that its first guess, its second after
        /// a right first one, and so on, name.
        public var acceptance: [Double]?
        /// The step size.
        public var learningRate: Double

        /// A point.
        public init(
            step: Int, tokens: Int, seconds: Double, loss: Double?, heldOut: Double?,
            perplexity: Double? = nil, acceptance: [Double]? = nil, learningRate: Double
        ) {
            self.step = step
            self.tokens = tokens
            self.seconds = seconds
            self.loss = loss
            self.heldOut = heldOut
            self.perplexity = perplexity
            self.acceptance = acceptance
            self.learningRate = learningRate
        }
    }

    /// A part of the healing that has an optimiser of its own: one block, or the whole model.
    public struct Phase: Codable, Sendable, Hashable {
        /// `layers 0-1`, `end to end`.
        public var name: String
        /// Numbers that trained.
        public var parameters: Int
        /// Steps of the optimiser.
        public var steps: Int
        /// Training tokens, repeated ones counted again.
        public var tokens: Int
        /// Wall-clock seconds of all runs, measurements included.
        public var seconds: Double
        /// Training tokens per second, measurements and checkpoints not counted.
        public var tokensPerSecond: Double
        /// Most bytes in live tensors on the device; `nil` on the CPU, where they are not counted.
        public var peakDeviceBytes: Int?
        /// Times that it went back to an earlier state because the loss was not finite or rose.
        public var stepBacks: Int
        /// Why it ended: `steps`, `held-out` (no longer improving), `time`.
        public var ending: String
        /// Its curve.
        public var points: [Point]

        /// A phase.
        public init(
            name: String, parameters: Int, steps: Int, tokens: Int, seconds: Double,
            tokensPerSecond: Double, peakDeviceBytes: Int? = nil, stepBacks: Int, ending: String,
            points: [Point]
        ) {
            self.name = name
            self.parameters = parameters
            self.steps = steps
            self.tokens = tokens
            self.seconds = seconds
            self.tokensPerSecond = tokensPerSecond
            self.peakDeviceBytes = peakDeviceBytes
            self.stepBacks = stepBacks
            self.ending = ending
            self.points = points
        }
    }

    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The directory of the model that was healed.
    public var model: String
    /// What stands for its weights: SHA-256 of its files, by name.
    public var modelHashes: [String: String]
    /// The dense model's directory.
    public var teacher: String
    /// SHA-256 of the dense model's files, by name.
    public var teacherHashes: [String: String]
    /// What was trained on.
    public var texts: [Text]
    /// What was asked for, by the option's name.
    public var settings: [String: String]
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// The type that the model computed in.
    public var dtype: String
    /// Version of libtorch.
    public var torch: String
    /// Processes that trained together.
    public var processes: Int
    /// Held-out tokens that were measured on.
    public var heldOutTokens: Int
    /// Before healing.
    public var before: Measurement
    /// After healing.
    public var after: Measurement
    /// The teacher's perplexity on them.
    public var teacherPerplexity: Double
    /// Numbers that the healed model consists of.
    public var parameters: Int
    /// Bytes of its weights as stored.
    public var bytes: Int
    /// Wall-clock seconds of all runs that led to this model.
    public var seconds: Double
    /// What was done, in order.
    public var phases: [Phase]
    /// The account of the compression that was healed, where the model had one.
    public var compression: CompressionResult?

    /// An account of a healing.
    public init(
        version: String, schema: Int = currentSchema, model: String,
        modelHashes: [String: String], teacher: String, teacherHashes: [String: String],
        texts: [Text], settings: [String: String], device: String, dtype: String, torch: String,
        processes: Int, heldOutTokens: Int, before: Measurement, after: Measurement,
        teacherPerplexity: Double, parameters: Int, bytes: Int, seconds: Double, phases: [Phase],
        compression: CompressionResult?
    ) {
        self.version = version
        self.schema = schema
        self.model = model
        self.modelHashes = modelHashes
        self.teacher = teacher
        self.teacherHashes = teacherHashes
        self.texts = texts
        self.settings = settings
        self.device = device
        self.dtype = dtype
        self.torch = torch
        self.processes = processes
        self.heldOutTokens = heldOutTokens
        self.before = before
        self.after = after
        self.teacherPerplexity = teacherPerplexity
        self.parameters = parameters
        self.bytes = bytes
        self.seconds = seconds
        self.phases = phases
        self.compression = compression
    }
}
