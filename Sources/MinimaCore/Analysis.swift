/// What `minima analyze` learned about a model: `analysis.json`.
///
/// Everything the planner needs: for every site the ways to cut it, for every piece the formats it
/// could take, with exact sizes and predicted damage.
public struct Analysis: StageResult, Hashable {
    /// `analysis`.
    public static let kind = "analysis"
    /// The layout of this account that this version writes.
    public static let currentSchema = 1

    /// Version of this account's layout.
    public var schema = currentSchema
    /// Version of Minima.
    public var version: String
    /// The dense model's directory.
    public var model: String
    /// What stands for its weights: SHA-256 of its files, by name.
    public var fingerprints: [String: String]
    /// `model_type` of its configuration.
    public var family: String
    /// The type that its weights are stored in.
    public var dtype: DType
    /// Parameters of the whole model.
    public var parameters: Int
    /// Bytes of the whole model as stored.
    public var bytes: Int
    /// Bytes of keys and values per token of context in that type.
    public var cacheBytesPerToken: Int
    /// Where the calibration tokens came from.
    public var calibration: Calibration
    /// Where it ran: `cpu`, `cuda:0`.
    public var device: String
    /// Wall-clock seconds by phase: `calibrate`, `survey`, `probe`, `train`.
    public var seconds: [String: Double]
    /// Sites in forward order.
    public var sites: [SiteAnalysis]
    /// Candidates whose true damage was measured.
    public var probes: [Probe]
    /// How well damage is predicted.
    public var predictor: PredictorSummary?
    /// The key of the statistics that were kept beside this account, empty when none were.
    public var statisticsKey = ""

    /// An account of an analysis.
    public init(
        version: String, model: String, fingerprints: [String: String], family: String,
        dtype: DType, parameters: Int, bytes: Int, cacheBytesPerToken: Int,
        calibration: Calibration, device: String, seconds: [String: Double],
        sites: [SiteAnalysis], probes: [Probe], predictor: PredictorSummary?
    ) {
        self.version = version
        self.model = model
        self.fingerprints = fingerprints
        self.family = family
        self.dtype = dtype
        self.parameters = parameters
        self.bytes = bytes
        self.cacheBytesPerToken = cacheBytesPerToken
        self.calibration = calibration
        self.device = device
        self.seconds = seconds
        self.sites = sites
        self.probes = probes
        self.predictor = predictor
    }

    /// Parameters of all sites' dense weights.
    public var linearParameters: Int { sites.reduce(0) { $0 + $1.outputs * $1.inputs } }
}

/// Where calibration tokens came from.
public struct Calibration: Codable, Sendable, Hashable {
    /// A text and what share of the tokens it gave.
    public struct Source: Codable, Sendable, Hashable {
        /// A file, or `self` when the model wrote the text.
        public var name: String
        /// Windows taken from it.
        public var windows: Int
        /// Weight of each of its tokens in the statistics.
        public var weight: Double

        /// A source.
        public init(name: String, windows: Int, weight: Double) {
            self.name = name
            self.windows = windows
            self.weight = weight
        }
    }

    /// The texts.
    public var sources: [Source]
    /// Tokens per window.
    public var context: Int
    /// Windows of which gradients were taken, too.
    public var gradientWindows: Int
    /// Seed of sampled text and labels.
    public var seed: UInt64
    /// SHA-256 of the token ids in order.
    public var hash: String

    /// An account of calibration tokens.
    public init(
        sources: [Source], context: Int, gradientWindows: Int, seed: UInt64, hash: String
    ) {
        self.sources = sources
        self.context = context
        self.gradientWindows = gradientWindows
        self.seed = seed
        self.hash = hash
    }
}

/// Linear layers that read one activation, and what could be done with them.
public struct SiteAnalysis: Codable, Sendable, Hashable {
    /// A linear layer of the site.
    public struct Member: Codable, Sendable, Hashable {
        /// The module's name in the checkpoint.
        public var name: String
        /// Rows of its weight.
        public var outputs: Int

        /// A member.
        public init(name: String, outputs: Int) {
            self.name = name
            self.outputs = outputs
        }
    }

    /// One way to cut the site: pieces that together cover its stacked weight.
    public struct Cut: Codable, Sendable, Hashable {
        /// How it is cut: `stacked` (one piece over all members), `members` (a piece each) or
        /// `patches` (a piece for each patch).
        public var kind: String
        /// The pieces, in the order of the stacked weight.
        public var pieces: [Piece]

        /// A cut.
        public init(kind: String, pieces: [Piece]) {
            self.kind = kind
            self.pieces = pieces
        }
    }

    /// A rectangle of the stacked weight, and the formats it could take.
    public struct Piece: Codable, Sendable, Hashable {
        /// First row in the stacked weight.
        public var row: Int
        /// Rows.
        public var rows: Int
        /// First column.
        public var column: Int
        /// Columns.
        public var columns: Int
        /// Formats and sizes, the exact dense one among them.
        public var options: [Option]

        /// A piece.
        public init(row: Int, rows: Int, column: Int, columns: Int, options: [Option]) {
            self.row = row
            self.rows = rows
            self.column = column
            self.columns = columns
            self.options = options
        }
    }

    /// A format for a piece.
    public struct Option: Codable, Sendable, Hashable {
        /// The format and its ranks.
        public var spec: FormatSpec
        /// Numbers stored.
        public var parameters: Int
        /// Bytes stored.
        public var bytes: Int
        /// ½·tr(ΔᵀHΔC), nats per token: the closed form of the damage.
        public var error: Double
        /// Predicted KL(dense ‖ model) per token when nothing else changes, nats.
        public var damage: Double

        /// An option.
        public init(
            spec: FormatSpec, parameters: Int, bytes: Int, error: Double, damage: Double
        ) {
            self.spec = spec
            self.parameters = parameters
            self.bytes = bytes
            self.error = error
            self.damage = damage
        }
    }

    /// The site's name.
    public var name: String
    /// Its decoder layer.
    public var layer: Int
    /// Rows of the stacked weight.
    public var outputs: Int
    /// Columns.
    public var inputs: Int
    /// The layers in it.
    public var members: [Member]
    /// Patches of all members, in the order of the stacked weight.
    public var patches: [PatchAnalysis]
    /// What its input looks like.
    public var activations: ActivationSummary
    /// Ways to cut it.
    public var cuts: [Cut]

    /// A site.
    public init(
        name: String, layer: Int, outputs: Int, inputs: Int, members: [Member],
        patches: [PatchAnalysis], activations: ActivationSummary, cuts: [Cut]
    ) {
        self.name = name
        self.layer = layer
        self.outputs = outputs
        self.inputs = inputs
        self.members = members
        self.patches = patches
        self.activations = activations
        self.cuts = cuts
    }
}

/// A patch of one weight: a head group, or a block of rows or columns.
public struct PatchAnalysis: Codable, Sendable, Hashable {
    /// The linear layer it belongs to.
    public var module: String
    /// Its number within that layer.
    public var index: Int
    /// First row in the site's stacked weight.
    public var row: Int
    /// Rows.
    public var rows: Int
    /// First column.
    public var column: Int
    /// Columns.
    public var columns: Int
    /// Cheap statistics by name: `condition`, `magnitude`, `sparsity`, `kurtosis`, `trace`, ….
    public var statistics: [String: Double]
    /// Logarithms of the singular values, largest first, resampled to a fixed length: of W, and of
    /// H^½·W·C^½.
    public var spectra: [String: [Double]]
    /// Predicted sensitivity, 0 (indifferent) to 1 (fragile).
    public var sensitivity: Double
    /// Standard deviation of the predicted sensitivity.
    public var uncertainty: Double
    /// The budget that the predictor recommends for it.
    public var recommendation: FormatSpec?

    /// A patch.
    public init(
        module: String, index: Int, row: Int, rows: Int, column: Int, columns: Int,
        statistics: [String: Double], spectra: [String: [Double]], sensitivity: Double = 0,
        uncertainty: Double = 0, recommendation: FormatSpec? = nil
    ) {
        self.module = module
        self.index = index
        self.row = row
        self.rows = rows
        self.column = column
        self.columns = columns
        self.statistics = statistics
        self.spectra = spectra
        self.sensitivity = sensitivity
        self.uncertainty = uncertainty
        self.recommendation = recommendation
    }
}

/// What the inputs of a site look like.
public struct ActivationSummary: Codable, Sendable, Hashable {
    /// Root mean square over tokens and channels.
    public var rms: Double
    /// Largest absolute value.
    public var largest: Double
    /// Channels whose root mean square exceeds six times the median channel's.
    public var outlierChannels: [Int]
    /// Tokens with a value above 100 and above 1000 times the median magnitude.
    ///
    /// - Note: Sun et al. 2024, "Massive Activations in Large Language Models".
    public var massiveTokens: Int

    /// A summary.
    public init(rms: Double, largest: Double, outlierChannels: [Int], massiveTokens: Int) {
        self.rms = rms
        self.largest = largest
        self.outlierChannels = outlierChannels
        self.massiveTokens = massiveTokens
    }
}

/// A candidate whose damage was measured on the whole model.
public struct Probe: Codable, Sendable, Hashable {
    /// The site.
    public var site: String
    /// Number of the patch among the site's patches.
    public var patch: Int
    /// What the patch was replaced by; everything else stayed dense.
    public var spec: FormatSpec
    /// ½·tr(ΔᵀHΔC), nats per token.
    public var error: Double
    /// Measured KL(dense ‖ model) per token, nats.
    public var divergence: Double
    /// What the predictor said without having seen this probe; `nil` when it was trained on it.
    public var predicted: Double?

    /// A probe.
    public init(
        site: String, patch: Int, spec: FormatSpec, error: Double, divergence: Double,
        predicted: Double? = nil
    ) {
        self.site = site
        self.patch = patch
        self.spec = spec
        self.error = error
        self.divergence = divergence
        self.predicted = predicted
    }
}

/// How well damage is predicted, on probes that the predictor has not seen.
public struct PredictorSummary: Codable, Sendable, Hashable {
    /// The predictor's file, when it was not trained here.
    public var file: String?
    /// Probes it was trained on here.
    public var trainingProbes: Int
    /// Probes held out.
    public var heldOutProbes: Int
    /// Spearman's correlation with measured divergence on held-out probes: the predictor's.
    public var spearman: Double?
    /// The same for the closed form.
    public var closedFormSpearman: Double?
    /// What the options' damage comes from: `predictor` or `closed form`, whichever ranks better.
    public var used: String

    /// A summary.
    public init(
        file: String?, trainingProbes: Int, heldOutProbes: Int, spearman: Double?,
        closedFormSpearman: Double?, used: String
    ) {
        self.file = file
        self.trainingProbes = trainingProbes
        self.heldOutProbes = heldOutProbes
        self.spearman = spearman
        self.closedFormSpearman = closedFormSpearman
        self.used = used
    }
}
