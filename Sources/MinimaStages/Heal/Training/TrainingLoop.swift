import MinimaCore
import MinimaTensor

/// Trains an objective's leaves, in place: optimiser, schedule, clipping, held-out measurements, steps
/// back, checkpoints.
///
/// Losses stay on the device and are read every few steps, so that the host runs ahead of it. What
/// happens is a function of the losses alone: a training that was killed and goes on takes the same
/// steps, those back included. Only the time limit and how often good states are kept depend on time.
struct TrainingLoop {
    /// What is trained: `layers 0-1`, `end to end`.
    let name: String
    let settings: TrainingSettings
    /// Where the training's state is kept; `nil` for nowhere.
    var store: TrainingStore?
    /// The processes that train together.
    var group: ProcessGroup?

    /// A loop.
    init(
        _ name: String, _ settings: TrainingSettings, store: TrainingStore? = nil,
        group: ProcessGroup? = nil
    ) {
        self.name = name
        self.settings = settings
        self.store = store
        self.group = group
    }

    /// Trains until the steps or the time are spent or the held-out measure no longer improves, and
    /// leaves the state with the best held-out measure in the leaves, which may be the one before
    /// training.
    ///
    /// Goes on from the store's checkpoint where there is one; the objective's leaves are as at the
    /// start then, too. The checkpoint stays until ``TrainingStore/remove()``.
    ///
    /// - Parameter progress: Called every second or ten steps; throws to stop, after which the same
    ///   loop goes on from its last good state.
    /// - Throws: `TrainingError`; `CheckpointError` for a store that cannot be read or written.
    func run(_ objective: any TrainingObjective, progress: ProgressHandler = { _ in }) throws
        -> HealingResult.Phase
    {
        try withoutActuallyEscaping(progress) { progress in
            try TrainingRun(self, objective, progress).run()
        }
    }
}
