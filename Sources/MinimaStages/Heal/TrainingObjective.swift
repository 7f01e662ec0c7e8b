import MinimaFormats
import MinimaTensor

/// What a training minimises: the gradients of a batch, and how good the model is by now.
protocol TrainingObjective: AnyObject {
    /// The leaves that train.
    var parameters: [TrainedTensor] { get }
    /// Training tokens of one step, over all processes.
    var tokensPerStep: Int { get }

    /// Gradients of step `step`'s mean loss on this process's share of its windows.
    ///
    /// What it takes is a function of `step` alone, so that a resumed run repeats it.
    ///
    /// - Parameter accumulate: Adds gradients, in the order of ``parameters``, `nil` where there is
    ///   none. It may be called for each micro-batch, or for each layer: what was handed over can
    ///   be forgotten.
    /// - Returns: This process's share of the mean loss, a float32 scalar on the device, not read by
    ///   the host: the sum over all processes is the step's loss.
    func gradients(step: Int, _ accumulate: (_ gradients: [Tensor?]) throws -> Void) throws
        -> Tensor

    /// The held-out measure, over all processes and the same on all; less is better, NaN for a model
    /// that has diverged.
    func validate() throws -> Double

    /// Held-out perplexity when ``validate()`` was last called; `nil` where there is none.
    var perplexity: Double? { get }

    /// Of a draft: acceptance by place when ``validate()`` was last called; `nil` of anything else.
    var acceptance: [Double]? { get }
}

extension TrainingObjective {
    /// None.
    var perplexity: Double? { nil }
    /// None.
    var acceptance: [Double]? { nil }
}
