/// A finding that a stage prints with `--json`, saves and reports.
///
/// Stored as one JSON object with snake-case keys; `kind` says which type it is.
public protocol StageResult: Codable, Sendable {
    /// The value of the stored `kind`.
    static var kind: String { get }
}

/// What `minima inspect` finds in a checkpoint without reading its weights.
public struct InspectionResult: StageResult, Hashable {
    /// `inspection`.
    public static let kind = "inspection"

    /// A group of tensors.
    public struct Part: Codable, Sendable, Hashable {
        /// What the tensors belong to: `embedding`, `attention.q_proj`, `mlp.down_proj`, `norm`, …
        public var name: String
        /// Modules in the group, one per layer for most.
        public var modules: Int
        /// Formats and how many modules have each.
        public var formats: [String: Int]
        /// Numbers stored.
        public var parameters: Int
        /// Bytes stored.
        public var bytes: Int

        /// A group.
        public init(
            name: String, modules: Int, formats: [String: Int], parameters: Int, bytes: Int
        ) {
            self.name = name
            self.modules = modules
            self.formats = formats
            self.parameters = parameters
            self.bytes = bytes
        }
    }

    /// The checkpoint's directory.
    public var model: String
    /// `model_type` of its configuration.
    public var family: String
    /// Names and values worth a line: hidden size, layers, heads, context, …
    public var architecture: [String: String]
    /// Files that hold the weights.
    public var files: Int
    /// Stored element types, and bytes in each.
    public var dtypes: [String: Int]
    /// Numbers stored.
    public var parameters: Int
    /// Bytes stored.
    public var bytes: Int
    /// Groups of tensors, in the order in which a forward pass meets them.
    public var parts: [Part]

    /// A finding.
    public init(
        model: String, family: String, architecture: [String: String], files: Int,
        dtypes: [String: Int], parameters: Int, bytes: Int, parts: [Part]
    ) {
        self.model = model
        self.family = family
        self.architecture = architecture
        self.files = files
        self.dtypes = dtypes
        self.parameters = parameters
        self.bytes = bytes
        self.parts = parts
    }
}

/// What `minima eval` measured.
public struct EvaluationResult: StageResult, Hashable {
    /// `evaluation`.
    public static let kind = "evaluation"

    /// The checkpoint's directory.
    public var model: String
    /// The dense model that `kl` refers to.
    public var against: String?
    /// Text files.
    public var text: [String]
    /// Tokens per window.
    public var context: Int
    /// Predicted tokens.
    public var tokens: Int
    /// exp(mean negative log-likelihood per predicted token).
    public var perplexity: Double
    /// Mean KL(dense ‖ model) per predicted token, in nats.
    public var kl: Double?
    /// Parameters of the model.
    public var parameters: Int
    /// Bytes of its weights as stored.
    public var bytes: Int
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// The type it computed in.
    public var dtype: String
    /// Wall-clock time of the passes, without loading.
    public var seconds: Double
    /// Predicted tokens per second, of both models together when there are two.
    public var tokensPerSecond: Double

    /// A measurement.
    public init(
        model: String, against: String?, text: [String], context: Int, tokens: Int,
        perplexity: Double, kl: Double?, parameters: Int, bytes: Int, device: String,
        dtype: String, seconds: Double, tokensPerSecond: Double
    ) {
        self.model = model
        self.against = against
        self.text = text
        self.context = context
        self.tokens = tokens
        self.perplexity = perplexity
        self.kl = kl
        self.parameters = parameters
        self.bytes = bytes
        self.device = device
        self.dtype = dtype
        self.seconds = seconds
        self.tokensPerSecond = tokensPerSecond
    }
}

/// What `minima compress` did; also stored as `minima.json` in the checkpoint it wrote.
public struct CompressionResult: StageResult, Hashable {
    /// `compression`.
    public static let kind = "compression"

    /// One compressed linear layer.
    public struct Module: Codable, Sendable, Hashable {
        /// The module's name in the checkpoint.
        public var name: String
        /// Rows of the weight.
        public var outputs: Int
        /// Columns of the weight.
        public var inputs: Int
        /// Format, modes and ranks.
        public var spec: FormatSpec
        /// Numbers stored after compression.
        public var parameters: Int
        /// ‖Ŵ − W‖ / ‖W‖ in the Frobenius norm.
        public var weightError: Double
        /// The same with Δ measured as tr(Δ·C·Δᵀ): the relative error of the layer's output on
        /// the calibration text.
        public var outputError: Double

        /// A compressed layer.
        public init(
            name: String, outputs: Int, inputs: Int, spec: FormatSpec, parameters: Int,
            weightError: Double, outputError: Double
        ) {
            self.name = name
            self.outputs = outputs
            self.inputs = inputs
            self.spec = spec
            self.parameters = parameters
            self.weightError = weightError
            self.outputError = outputError
        }
    }

    /// Where the calibration tokens came from.
    public struct Calibration: Codable, Sendable, Hashable {
        /// Text files, or `self` when the model wrote the text.
        public var sources: [String]
        /// Windows.
        public var samples: Int
        /// Tokens per window.
        public var context: Int
        /// Seed of the sampling, where there was any.
        public var seed: UInt64

        /// A source.
        public init(sources: [String], samples: Int, context: Int, seed: UInt64) {
            self.sources = sources
            self.samples = samples
            self.context = context
            self.seed = seed
        }
    }

    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The dense checkpoint's directory.
    public var parent: String
    /// SHA-256 of the parent's weight files, by file name.
    public var parentHashes: [String: String]
    /// The format of every compressed layer.
    public var format: String
    /// Share of the linear layers' parameters that was to be removed.
    public var ratio: Double
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// The type that the model computed in while it was calibrated.
    public var dtype: String
    /// Version of libtorch.
    public var torch: String
    /// Where the calibration tokens came from.
    public var calibration: Calibration
    /// Parameters of the linear layers before.
    public var linearParametersBefore: Int
    /// Parameters of the linear layers after.
    public var linearParametersAfter: Int
    /// Parameters of the whole model before.
    public var parametersBefore: Int
    /// Parameters of the whole model after.
    public var parametersAfter: Int
    /// Bytes of the whole model before.
    public var bytesBefore: Int
    /// Bytes of the whole model after.
    public var bytesAfter: Int
    /// Wall-clock time.
    public var seconds: Double
    /// The compressed layers.
    public var modules: [Module]

    /// An account of a compression.
    public init(
        version: String, schema: Int = currentSchema, parent: String,
        parentHashes: [String: String], format: String, ratio: Double, device: String,
        dtype: String, torch: String, calibration: Calibration, linearParametersBefore: Int,
        linearParametersAfter: Int, parametersBefore: Int, parametersAfter: Int,
        bytesBefore: Int, bytesAfter: Int, seconds: Double, modules: [Module]
    ) {
        self.version = version
        self.schema = schema
        self.parent = parent
        self.parentHashes = parentHashes
        self.format = format
        self.ratio = ratio
        self.device = device
        self.dtype = dtype
        self.torch = torch
        self.calibration = calibration
        self.linearParametersBefore = linearParametersBefore
        self.linearParametersAfter = linearParametersAfter
        self.parametersBefore = parametersBefore
        self.parametersAfter = parametersAfter
        self.bytesBefore = bytesBefore
        self.bytesAfter = bytesAfter
        self.seconds = seconds
        self.modules = modules
    }
}

/// What `minima generate` wrote.
public struct GenerationResult: StageResult, Hashable {
    /// `generation`.
    public static let kind = "generation"

    /// The checkpoint's directory.
    public var model: String
    /// The text given, after the chat template if one was applied.
    public var prompt: String
    /// The text that followed.
    public var text: String
    /// Tokens of the prompt.
    public var promptTokens: Int
    /// Tokens generated.
    public var tokens: Int
    /// Why it ended: `stop` (an end token) or `length`.
    public var finishReason: String
    /// Generated tokens per second, without the prompt's pass.
    public var tokensPerSecond: Double
    /// Sampling temperature; 0 takes the likeliest token.
    public var temperature: Double
    /// Seed of the sampling.
    public var seed: UInt64

    /// A generation.
    public init(
        model: String, prompt: String, text: String, promptTokens: Int, tokens: Int,
        finishReason: String, tokensPerSecond: Double, temperature: Double, seed: UInt64
    ) {
        self.model = model
        self.prompt = prompt
        self.text = text
        self.promptTokens = promptTokens
        self.tokens = tokens
        self.finishReason = finishReason
        self.tokensPerSecond = tokensPerSecond
        self.temperature = temperature
        self.seed = seed
    }
}
