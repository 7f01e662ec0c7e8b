/// Which format every compressed module takes: `plan.json`, readable and editable.
///
/// A module is a linear layer, or a site whose members are stacked into one weight. Modules that are
/// not listed stay dense.
public struct CompressionPlan: StageResult, Hashable {
    /// `plan`.
    public static let kind = "plan"
    /// The layout that this version writes.
    public static let currentSchema = 1

    /// A module of the plan.
    public struct Module: Codable, Sendable, Hashable {
        /// The module's name in the checkpoint: a linear layer's or a site's.
        public var name: String
        /// Rows of its weight.
        public var outputs: Int
        /// Columns of its weight.
        public var inputs: Int
        /// The format it takes.
        public var spec: FormatSpec
        /// Numbers stored.
        public var parameters: Int
        /// Bytes stored.
        public var bytes: Int
        /// Predicted KL(dense ‖ model) per token from this module alone, nats; `nil` in plans
        /// written by hand.
        public var damage: Double?

        /// A module.
        public init(
            name: String, outputs: Int, inputs: Int, spec: FormatSpec, parameters: Int,
            bytes: Int, damage: Double?
        ) {
            self.name = name
            self.outputs = outputs
            self.inputs = inputs
            self.spec = spec
            self.parameters = parameters
            self.bytes = bytes
            self.damage = damage
        }
    }

    /// Version of this layout.
    public var schema = currentSchema
    /// Version of Minima.
    public var version: String
    /// The dense model's directory.
    public var model: String
    /// What stands for its weights; compressing another model by this plan is refused. Empty in a
    /// plan for any model of these shapes.
    public var fingerprints: [String: String]
    /// What was asked for: `ratio 0.35`, `bits-per-weight 4.5`, ….
    public var target: String
    /// Formats that were allowed; empty for all.
    public var formats: [String]
    /// Parameters of the dense linear layers.
    public var linearParametersBefore: Int
    /// Numbers that the linear layers store under this plan.
    public var linearParametersAfter: Int
    /// Bytes of the dense linear layers in the type that they are read in.
    public var linearBytesBefore: Int
    /// Bytes of the linear layers under this plan.
    public var linearBytesAfter: Int
    /// Predicted KL(dense ‖ model) per token, nats: the sum over modules.
    public var damage: Double?
    /// Modules in forward order.
    public var modules: [Module]

    /// A plan.
    public init(
        version: String, model: String, fingerprints: [String: String], target: String,
        formats: [String], linearParametersBefore: Int, linearParametersAfter: Int,
        linearBytesBefore: Int, linearBytesAfter: Int, damage: Double?, modules: [Module]
    ) {
        self.version = version
        self.model = model
        self.fingerprints = fingerprints
        self.target = target
        self.formats = formats
        self.linearParametersBefore = linearParametersBefore
        self.linearParametersAfter = linearParametersAfter
        self.linearBytesBefore = linearBytesBefore
        self.linearBytesAfter = linearBytesAfter
        self.damage = damage
        self.modules = modules
    }
}
