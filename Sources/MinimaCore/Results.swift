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

    /// One compressed module: a linear layer, or a site whose members are stacked.
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
        /// Bytes stored after compression.
        public var bytes: Int
        /// ‖Ŵ − W‖ / ‖W‖ in the Frobenius norm.
        public var weightError: Double
        /// The same with Δ measured as tr(Δ·C·Δᵀ), C the second moment of the dense model's inputs:
        /// the relative error of the layer's output on the calibration text.
        public var outputError: Double
        /// ½·tr(ΔᵀHΔC), nats per token; `nil` where the output moments H were not known.
        public var damage: Double?
        /// What the plan predicted, KL(dense ‖ model) per token in nats.
        public var predictedDamage: Double?
        /// Share β of the earlier layers' error that its target makes up for; `nil` without
        /// compensation.
        public var compensation: Double?
        /// Seconds of fitting it.
        public var seconds: Double

        /// A compressed module.
        public init(
            name: String, outputs: Int, inputs: Int, spec: FormatSpec, parameters: Int,
            bytes: Int, weightError: Double, outputError: Double, damage: Double? = nil,
            predictedDamage: Double? = nil, compensation: Double? = nil, seconds: Double
        ) {
            self.name = name
            self.outputs = outputs
            self.inputs = inputs
            self.spec = spec
            self.parameters = parameters
            self.bytes = bytes
            self.weightError = weightError
            self.outputError = outputError
            self.damage = damage
            self.predictedDamage = predictedDamage
            self.compensation = compensation
            self.seconds = seconds
        }
    }

    /// Numbers and bytes before and after.
    public struct Totals: Codable, Sendable, Hashable {
        /// Parameters of the linear layers before.
        public var linearParametersBefore: Int
        /// Numbers that the linear layers store after.
        public var linearParametersAfter: Int
        /// Bytes of the linear layers before, in the parent's files.
        public var linearBytesBefore: Int
        /// Bytes of the linear layers after.
        public var linearBytesAfter: Int
        /// Parameters of the whole model before.
        public var parametersBefore: Int
        /// Numbers that the whole model stores after.
        public var parametersAfter: Int
        /// Bytes of the whole model before, in the parent's files.
        public var bytesBefore: Int
        /// Bytes of the whole model after.
        public var bytesAfter: Int

        /// Totals.
        public init(
            linearParametersBefore: Int, linearParametersAfter: Int, linearBytesBefore: Int,
            linearBytesAfter: Int, parametersBefore: Int, parametersAfter: Int,
            bytesBefore: Int, bytesAfter: Int
        ) {
            self.linearParametersBefore = linearParametersBefore
            self.linearParametersAfter = linearParametersAfter
            self.linearBytesBefore = linearBytesBefore
            self.linearBytesAfter = linearBytesAfter
            self.parametersBefore = parametersBefore
            self.parametersAfter = parametersAfter
            self.bytesBefore = bytesBefore
            self.bytesAfter = bytesAfter
        }
    }

    /// The layout of this account that this version writes.
    public static let currentSchema = 2

    /// Version of Minima.
    public var version: String
    /// Version of this account's layout.
    public var schema: Int
    /// The dense model's directory.
    public var parent: String
    /// What stands for the parent's weights: SHA-256 of its files, by name.
    public var parentHashes: [String: String]
    /// What was executed.
    public var plan: CompressionPlan
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// The type that the model computed in while it was calibrated.
    public var dtype: String
    /// Version of libtorch.
    public var torch: String
    /// Where the calibration tokens came from.
    public var calibration: Calibration
    /// How earlier layers' errors were made up for: `off`, `auto` or the share β.
    public var compensation: String
    /// Damping of the compensated targets, relative to the mean diagonal of the input moment.
    public var ridge: Double
    /// Numbers and bytes before and after.
    public var totals: Totals
    /// Wall-clock time of all runs that led to this model.
    public var seconds: Double
    /// Seconds by phase: `hash`, `load`, `calibrate`, `fit`, `write`.
    public var phases: [String: Double]
    /// Most bytes in live tensors on the device; `nil` on the CPU, where they are not counted.
    public var peakDeviceBytes: Int?
    /// The compressed modules in forward order.
    public var modules: [Module]

    /// An account of a compression.
    public init(
        version: String, schema: Int = currentSchema, parent: String,
        parentHashes: [String: String], plan: CompressionPlan, device: String, dtype: String,
        torch: String, calibration: Calibration, compensation: String, ridge: Double,
        totals: Totals, seconds: Double, phases: [String: Double], peakDeviceBytes: Int? = nil,
        modules: [Module]
    ) {
        self.version = version
        self.schema = schema
        self.parent = parent
        self.parentHashes = parentHashes
        self.plan = plan
        self.device = device
        self.dtype = dtype
        self.torch = torch
        self.calibration = calibration
        self.compensation = compensation
        self.ridge = ridge
        self.totals = totals
        self.seconds = seconds
        self.phases = phases
        self.peakDeviceBytes = peakDeviceBytes
        self.modules = modules
    }

    /// Names of the formats in use, sorted.
    public var formats: [String] { Set(modules.map(\.spec.format)).sorted() }
}
