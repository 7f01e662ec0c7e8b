import MinimaCore

private let fusedAdamW = Operator("aten::_fused_adamw_")

/// Adam with decoupled weight decay.
///
/// - Note: Loshchilov & Hutter 2019, algorithm 2.
public final class AdamW: Optimizer {
    /// A tensor that steps change in place, and what may differ from one to the next.
    public struct Parameter: Sendable {
        /// Names its part of the state.
        public var name: String
        /// The leaf, of any floating-point type; float32 masters stand behind types below that.
        public var tensor: Tensor
        /// What the learning rate is multiplied by.
        public var learningRateScale: Double
        /// Share that is removed per step and unit of learning rate.
        public var weightDecay: Double

        /// A parameter.
        public init(
            name: String, tensor: Tensor, learningRateScale: Double = 1, weightDecay: Double = 0
        ) {
            self.name = name
            self.tensor = tensor
            self.learningRateScale = learningRateScale
            self.weightDecay = weightDecay
        }
    }

    /// What all parameters share.
    public struct Configuration: Sendable, Hashable {
        /// Decay rate of the first moment.
        public var beta1: Double
        /// Decay rate of the second moment.
        public var beta2: Double
        /// Added to the root of the second moment.
        public var epsilon: Double

        /// A configuration; the defaults are PyTorch's.
        public init(beta1: Double = 0.9, beta2: Double = 0.999, epsilon: Double = 1e-8) {
            self.beta1 = beta1
            self.beta2 = beta2
            self.epsilon = epsilon
        }
    }

    /// An optimiser of `parameters`, which have different names and lie on one device.
    ///
    /// - Parameter group: The processes that train together, each with all parameters in the same
    ///   order; `nil` for this one alone.
    /// - Throws: `TensorError.invalidArgument` for names that repeat, other devices and types that
    ///   are not floating point.
    /// - Complexity: Four bytes per number for the gradients' sum. Beside that eight bytes per owned
    ///   number, and four where the parameter is not float32 (float64: twice as many bytes).
    public init(
        _ parameters: [Parameter], _ configuration: Configuration = Configuration(),
        group: ProcessGroup? = nil
    ) throws(TensorError) {
        let shard = try ParameterShard(parameters, group: group)
        super.init(
            shard, [try AdamWRule(shard, places: Array(shard.owned.indices), configuration)])
    }
}

/// AdamW's update of some parameters of a shard: one fused kernel for those that share its numbers.
struct AdamWRule: UpdateRule {
    private let configuration: AdamW.Configuration
    private let places: [Int]
    private let firstMoments: [Tensor]
    private let secondMoments: [Tensor]
    /// Positions in `places` that one fused call updates.
    private let batches: [[Int]]

    /// - Parameter places: Which of the owned parameters to update.
    init(_ shard: ParameterShard, places: [Int], _ configuration: AdamW.Configuration)
        throws(TensorError)
    {
        self.configuration = configuration
        self.places = places
        firstMoments = try shard.zeros(places)
        secondMoments = try shard.zeros(places)
        batches = shard.batches(places) { _ in [] }
    }

    var moments: [(name: String, places: [Int], tensors: [Tensor])] {
        [("first_moment", places, firstMoments), ("second_moment", places, secondMoments)]
    }

    func update(_ shard: ParameterShard, _ clipping: GradientSum.Clipping, learningRate: Double)
        throws(TensorError)
    {
        for batch in batches {
            let members = batch.map { places[$0] }
            let parameter = shard.parameter(at: members[0])
            _ = try fusedAdamW.call([
                .tensors(members.map { shard.masters[$0] }),
                .tensors(members.map { shard.gradient(at: $0) }),
                .tensors(batch.map { firstMoments[$0] }),
                .tensors(batch.map { secondMoments[$0] }), .tensors([]),
                .tensors(members.map { _ in shard.steps }),
                .double(learningRate * parameter.learningRateScale),
                .double(configuration.beta1), .double(configuration.beta2),
                .double(parameter.weightDecay), .double(configuration.epsilon),
                .bool(false), .bool(false), .optional(clipping.divisor), .tensor(clipping.skips),
            ])
        }
    }
}
