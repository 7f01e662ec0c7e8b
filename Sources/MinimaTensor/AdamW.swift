import MinimaCore

private let fusedAdamW = Operator("aten::_fused_adamw_")

/// Adam with decoupled weight decay.
///
/// - Note: Loshchilov & Hutter 2019, algorithm 2. One fused kernel per step on every device.
public struct AdamW: Sendable {
    /// What may differ between groups of parameters.
    public struct Configuration: Sendable, Hashable {
        /// Step size.
        public var learningRate: Double
        /// Decay rates of the first and second moment.
        public var betas: (first: Double, second: Double) {
            get { (beta1, beta2) }
            set { (beta1, beta2) = newValue }
        }
        /// Added to the root of the second moment.
        public var epsilon: Double
        /// Share of a parameter that is removed per unit of learning rate and step.
        public var weightDecay: Double

        private(set) var beta1: Double
        private(set) var beta2: Double

        /// A configuration; the defaults are PyTorch's.
        public init(
            learningRate: Double = 1e-3, betas: (first: Double, second: Double) = (0.9, 0.999),
            epsilon: Double = 1e-8, weightDecay: Double = 1e-2
        ) {
            self.learningRate = learningRate
            self.beta1 = betas.first
            self.beta2 = betas.second
            self.epsilon = epsilon
            self.weightDecay = weightDecay
        }
    }

    /// Settings of the next step; may change between steps.
    public var configuration: Configuration

    /// The tensors that each step changes in place.
    public let parameters: [Tensor]

    private let firstMoments: [Tensor]
    private let secondMoments: [Tensor]
    private let steps: [Tensor]

    /// An optimiser of `parameters`, which are changed in place.
    ///
    /// - Complexity: Two tensors of each parameter's shape and dtype.
    public init(_ parameters: [Tensor], _ configuration: Configuration = .init())
        throws(TensorError)
    {
        self.configuration = configuration
        self.parameters = parameters
        var (first, second, steps) = ([Tensor](), [Tensor](), [Tensor]())
        for parameter in parameters {
            first.append(
                try .zeros(parameter.shape, dtype: parameter.dtype, device: parameter.device))
            second.append(
                try .zeros(parameter.shape, dtype: parameter.dtype, device: parameter.device))
            steps.append(try .zeros([], device: parameter.device))
        }
        (firstMoments, secondMoments, self.steps) = (first, second, steps)
    }

    /// One step along `gradients`, one per parameter; parameters without one stay as they are.
    public func step(_ gradients: [Tensor?]) throws(TensorError) {
        guard gradients.count == parameters.count else {
            throw .invalidArgument(
                function: "AdamW.step",
                reason: "\(gradients.count) gradients for \(parameters.count) parameters")
        }
        let present = gradients.indices.filter { gradients[$0] != nil }
        guard !present.isEmpty else { return }
        var failure: TensorError?
        withoutGradients {
            do throws(TensorError) {
                for index in present { try steps[index].addInPlace(.ones([])) }
                _ = try fusedAdamW.call([
                    .tensors(present.map { parameters[$0] }),
                    .tensors(gradients.compactMap(\.self)),
                    .tensors(present.map { firstMoments[$0] }),
                    .tensors(present.map { secondMoments[$0] }), .tensors([]),
                    .tensors(present.map { steps[$0] }), .double(configuration.learningRate),
                    .double(configuration.beta1), .double(configuration.beta2),
                    .double(configuration.weightDecay), .double(configuration.epsilon),
                    .bool(false), .bool(false),
                ])
            } catch {
                failure = error
            }
        }
        if let failure { throw failure }
    }
}
