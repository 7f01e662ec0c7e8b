/// Moves parameters along gradients, its state sharded over the processes of a group.
///
/// Gradients are summed in float32 over `accumulate` calls and, at the step, over processes. Each
/// process holds master weights and moments of the parameters that it owns, updates those, and
/// gives the others their new values. A step starts a number of kernels that depends on how many
/// kinds of parameters there are, not on how many parameters, and waits for none of them.
///
/// - Note: Rajbhandari et al. 2020, ZeRO stage 1.
public class Optimizer {
    private let shard: ParameterShard
    private let rules: [any UpdateRule]

    init(_ shard: ParameterShard, _ rules: [any UpdateRule]) {
        self.shard = shard
        self.rules = rules
    }

    /// Adds to the gradients of the next step.
    ///
    /// - Parameter gradients: One per parameter, of its shape and any type; a missing one is zero.
    public func accumulate(_ gradients: [Tensor?]) throws(TensorError) {
        try shard.gradients.add(gradients)
    }

    /// Moves the parameters along the accumulated gradients, which are cleared.
    ///
    /// Every process of the group calls it. A norm that is not finite leaves parameters, moments and
    /// the number of steps as they are.
    ///
    /// - Parameters:
    ///   - learningRate: Step size of parameters whose scale is 1.
    ///   - maximumNorm: Gradients with a larger global norm are scaled down to it.
    /// - Returns: The norm before that, over all parameters and processes; a float32 scalar on the
    ///   device, which nothing has waited for.
    @discardableResult
    public func step(learningRate: Double, maximumNorm: Double? = nil) throws(TensorError) -> Tensor
    {
        try shard.step(rules, learningRate: learningRate, maximumNorm: maximumNorm)
    }

    /// All that the next step depends on, accumulated gradients aside: the number of steps, and
    /// masters and moments of this process's parameters.
    ///
    /// The tensors themselves, which the next step changes, not copies.
    public var state: [(name: String, tensor: Tensor)] { shard.state(rules) }

    /// Goes back to `state`, parameters included; accumulated gradients are cleared.
    ///
    /// Every process of the group calls it. What this process does not own is ignored, so that the
    /// states of all processes together restore any number of them.
    ///
    /// - Throws: `TensorError.invalidArgument` when a tensor is missing or has another shape or
    ///   type; then nothing has changed.
    public func restore(_ state: [String: Tensor]) throws(TensorError) {
        try shard.restore(self.state, from: state)
    }
}

/// How some of a shard's parameters move, and what is remembered for that.
protocol UpdateRule {
    /// What is remembered: by name, one tensor per place among the owned parameters.
    var moments: [(name: String, places: [Int], tensors: [Tensor])] { get }

    /// Moves the masters, unless `clipping.skips` is 1.
    func update(_ shard: ParameterShard, _ clipping: GradientSum.Clipping, learningRate: Double)
        throws(TensorError)
}
