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
    func gradients(step: Int) throws -> TrainingGradients

    /// The held-out measure, over all processes; less is better.
    func validate() throws -> Double
}

/// What one process found out about one step.
struct TrainingGradients {
    /// This process's share of the mean loss, a float32 scalar on the device: the sum over all
    /// processes is the step's loss.
    var loss: Tensor
    /// Gradients of that share, in the order of the objective's parameters; `nil` where there is none.
    var gradients: [Tensor?]
}
