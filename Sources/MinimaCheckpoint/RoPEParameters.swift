import MinimaCore

/// Rotary position embeddings as a checkpoint asks for them, in one form for both styles of
/// config.json.
///
/// Source of the kinds, their defaults and their arithmetic: transformers 5,
/// `modeling_rope_utils.py`; papers with each case.
public struct RoPEParameters: Sendable, Hashable {
    /// How frequencies change to reach beyond the context of pre-training.
    public enum Scaling: Sendable, Hashable {
        /// Frequencies as in the original (Su et al. 2021).
        case none
        /// All frequencies divided by `factor` (Chen et al. 2023).
        case linear(factor: Double)
        /// The base grows with the sequence beyond `maxPositions` ("NTK-aware", dynamic).
        case dynamic(factor: Double, maxPositions: Int)
        /// Interpolation by frequency band, attention scaled (Peng et al. 2023, section 3).
        case yarn(YaRN)
        /// Interpolation by wavelength, as Llama 3.1 does it.
        case llama3(factor: Double, lowFactor: Double, highFactor: Double, originalPositions: Int)
    }

    /// What YaRN needs.
    public struct YaRN: Sendable, Hashable {
        /// How far the context is stretched.
        public var factor: Double
        /// Context length of pre-training, in tokens.
        public var originalPositions: Int
        /// Rotations over that context above which a frequency is kept.
        public var betaFast = 32.0
        /// Rotations over that context below which a frequency is interpolated in full.
        public var betaSlow = 1.0
        /// What cosines and sines are multiplied by, instead of the value inferred from `factor`.
        public var attentionFactor: Double?
        /// Multiplies log(factor) in the numerator of the inferred attention factor.
        public var mscale: Double?
        /// The same in the denominator; used only together with `mscale`.
        public var mscaleAllDim: Double?
        /// Whether the band's limits are rounded to whole dimensions.
        public var truncate = true

        /// YaRN with the paper's defaults.
        public init(factor: Double, originalPositions: Int) {
            self.factor = factor
            self.originalPositions = originalPositions
        }
    }

    /// The base of the wavelengths.
    public var theta: Double
    /// The share of each head's dimensions, from the front, that is rotated.
    public var partialRotaryFactor: Double
    /// How frequencies are scaled.
    public var scaling: Scaling

    /// Rotary embeddings from their base.
    public init(theta: Double, partialRotaryFactor: Double = 1, scaling: Scaling = .none) {
        self.theta = theta
        self.partialRotaryFactor = partialRotaryFactor
        self.scaling = scaling
    }
}

extension ModelConfig {
    /// The rotary embeddings this configuration asks for.
    ///
    /// Reads `rope_parameters` (transformers 5), also nested by layer type as long as all types
    /// agree, or `rope_theta` and `rope_scaling` (transformers 4). Where both are there,
    /// `rope_scaling` wins and missing values come from the top level, as in transformers.
    ///
    /// - Parameter defaultTheta: The base when the file names none; it depends on the family.
    /// - Throws: `CheckpointError.value` for a kind Minima does not have ("longrope"), values out
    ///   of range, and layer types that differ.
    public func ropeParameters(
        defaultTheta: Double = 10_000
    ) throws(CheckpointError) -> RoPEParameters {
        let top = try RoPEDefaults(self, theta: defaultTheta)
        var section = try sectionIfPresent("rope_scaling")
        if section?.json.object?.isEmpty ?? true {
            section = try sectionIfPresent("rope_parameters")
        }
        guard let section else {
            return RoPEParameters(theta: top.theta, partialRotaryFactor: top.partialRotaryFactor)
        }
        let layerTypes = section.layerTypes
        guard let first = layerTypes.first else { return try section.flatRoPE(top) }
        let parameters = try section.layerRoPE(first, top)
        for other in layerTypes.dropFirst() {
            guard try section.layerRoPE(other, top) == parameters else {
                throw section.mismatch(
                    other,
                    expected: "the same parameters as \(quoted(first)): Minima has no models whose "
                        + "layers rotate differently")
            }
        }
        return parameters
    }

    /// Names in this section whose values are sections (or `null`, for layers without rotation)
    /// rather than parameters; empty for parameters that hold for all layers.
    private var layerTypes: [String] {
        let members = json.object ?? [:]
        guard members.values.contains(where: { $0.object != nil }) else { return [] }
        return members.filter { $0.value.object != nil || $0.value.isNull }.keys.map(\.text)
    }

    private func layerRoPE(
        _ layerType: String, _ top: RoPEDefaults
    ) throws(CheckpointError) -> RoPEParameters {
        guard let section = try sectionIfPresent(layerType) else {
            throw mismatch(
                layerType,
                expected: "rotary parameters: Minima has no models with layers without rotation")
        }
        return try section.flatRoPE(top)
    }

    /// Parameters that hold for all layers, from this section.
    private func flatRoPE(_ top: RoPEDefaults) throws(CheckpointError) -> RoPEParameters {
        RoPEParameters(
            theta: try doubleIfPresent("rope_theta", in: RoPEDefaults.thetas) ?? top.theta,
            partialRotaryFactor: try doubleIfPresent(
                "partial_rotary_factor", in: RoPEDefaults.shares) ?? top.partialRotaryFactor,
            scaling: try ropeScaling(top))
    }

    private func ropeScaling(
        _ top: RoPEDefaults
    ) throws(CheckpointError) -> RoPEParameters.Scaling {
        let key = value("rope_type") == nil ? "type" : "rope_type"
        switch try stringIfPresent(key) ?? "default" {
        case "default": return .none
        case "linear": return .linear(factor: try double("factor", in: RoPEDefaults.factors))
        case "dynamic":
            guard let positions = top.maxPositions else {
                throw mismatch(key, expected: "a max_position_embeddings beside \"dynamic\"")
            }
            return .dynamic(
                factor: try double("factor", in: RoPEDefaults.factors), maxPositions: positions)
        case "yarn": return .yarn(try yarn(top))
        case "llama3":
            let low = try double("low_freq_factor", in: RoPEDefaults.factors)
            let high = try double("high_freq_factor", in: RoPEDefaults.factors)
            guard high > low else {
                throw mismatch("high_freq_factor", expected: "more than low_freq_factor, \(low)")
            }
            return .llama3(
                factor: try double("factor", in: RoPEDefaults.factors), lowFactor: low,
                highFactor: high, originalPositions: try originalPositions(top))
        default:
            throw mismatch(
                key,
                expected: "default, linear, dynamic, yarn or llama3; "
                    + "Minima does not have other kinds yet")
        }
    }

    private func yarn(_ top: RoPEDefaults) throws(CheckpointError) -> RoPEParameters.YaRN {
        let original = try originalPositions(top)
        let implied = Double(top.maxPositions ?? original) / Double(original)
        var yarn = RoPEParameters.YaRN(
            factor: try doubleIfPresent("factor", in: RoPEDefaults.factors) ?? implied,
            originalPositions: original)
        // transformers takes 0 for "not given" in all of these.
        func given(_ key: String) throws(CheckpointError) -> Double? {
            let value = try doubleIfPresent(key, in: 0...RoPEDefaults.factors.upperBound)
            return value == 0 ? nil : value
        }
        yarn.betaFast = try given("beta_fast") ?? yarn.betaFast
        yarn.betaSlow = try given("beta_slow") ?? yarn.betaSlow
        yarn.mscale = try given("mscale")
        yarn.mscaleAllDim = try given("mscale_all_dim")
        yarn.attentionFactor = try doubleIfPresent(
            "attention_factor", in: 0...RoPEDefaults.factors.upperBound)
        yarn.truncate = try boolIfPresent("truncate") ?? true
        return yarn
    }

    /// The context of pre-training. The top level's wins: some families keep it there and leave
    /// another number in the section.
    private func originalPositions(_ top: RoPEDefaults) throws(CheckpointError) -> Int {
        let here = try intIfPresent("original_max_position_embeddings")
        guard let positions = top.originalPositions ?? here ?? top.maxPositions else {
            throw mismatch("original_max_position_embeddings", expected: "a positive whole number")
        }
        return positions
    }
}

/// What the top level of a configuration says about rotary embeddings.
private struct RoPEDefaults {
    /// Bases that make wavelengths grow, up to far beyond any in use (10⁸).
    static let thetas = 1.0.nextUp...1e15
    static let shares = Double.leastNonzeroMagnitude...1
    /// Stretch factors: any that keeps float32 frequencies finite and above 0.
    static let factors = 1e-6...1e6

    let theta: Double
    let partialRotaryFactor: Double
    let maxPositions: Int?
    let originalPositions: Int?

    init(_ config: ModelConfig, theta: Double) throws(CheckpointError) {
        self.theta = try config.doubleIfPresent("rope_theta", in: Self.thetas) ?? theta
        partialRotaryFactor =
            try config.doubleIfPresent("partial_rotary_factor", in: Self.shares) ?? 1
        maxPositions = try config.intIfPresent("max_position_embeddings")
        originalPositions = try config.intIfPresent("original_max_position_embeddings")
    }
}
