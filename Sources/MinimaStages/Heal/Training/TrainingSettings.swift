import MinimaTensor

/// How a training runs.
public struct TrainingSettings: Sendable, Hashable, Codable {
    /// How gradients become steps.
    public enum Optimiser: String, Sendable, Hashable, Codable, CaseIterable {
        /// AdamW for all parameters.
        case adamW = "adamw"
        /// Muon for matrices, AdamW for embeddings and all others.
        case muon
    }

    /// How gradients become steps.
    public var optimiser = Optimiser.adamW
    /// Steps of the optimiser, at most.
    public var steps: Int
    /// Step size at the end of the warm-up.
    public var learningRate: Double
    /// Whether a tensor's step size counts in units of the root mean square that its numbers have
    /// before training (Shazeer & Stern 2018, section 8), or of one.
    ///
    /// Adam moves each number by about the step size, and factors of one weight may differ in
    /// scale by orders of magnitude.
    public var isRelative: Bool
    /// Share of the steps in which the step size rises from zero.
    public var warmUpShare: Double
    /// How the step size falls after that.
    public var decay: LearningRateSchedule.Decay
    /// The last step's size as a share of the largest.
    public var floor: Double
    /// Share of a matrix that is removed per step and unit of its learning rate; norms, biases and
    /// scales keep all.
    public var weightDecay: Double
    /// Longer gradients, over all parameters, are scaled down to this norm; `nil` for never.
    public var maximumNorm: Double?
    /// Steps from one held-out measurement to the next.
    public var validationInterval: Int
    /// Ends after so many held-out measurements in a row without a new best, those before the step
    /// size has fallen to half not counted: large steps may harm at first and pay in the end. `nil`
    /// for never.
    public var patience: Int?
    /// Ends after so many seconds, those of earlier runs counted; `nil` for never.
    public var timeLimit: Double?
    /// Seconds from one checkpoint to the next, about.
    public var checkpointInterval: Double

    /// Settings; `validationInterval` makes twenty measurements by default.
    public init(
        steps: Int, learningRate: Double, isRelative: Bool = false, warmUpShare: Double = 0.05,
        decay: LearningRateSchedule.Decay = .cosine, floor: Double = 0.1,
        weightDecay: Double = 0.01, maximumNorm: Double? = 1, validationInterval: Int? = nil,
        patience: Int? = 6, timeLimit: Double? = nil, checkpointInterval: Double = 300
    ) {
        self.steps = max(steps, 0)
        self.learningRate = learningRate
        self.isRelative = isRelative
        self.warmUpShare = warmUpShare
        self.decay = decay
        self.floor = floor
        self.weightDecay = weightDecay
        self.maximumNorm = maximumNorm
        self.validationInterval = max(validationInterval ?? (self.steps + 19) / 20, 1)
        self.patience = patience
        self.timeLimit = timeLimit
        self.checkpointInterval = checkpointInterval
    }

    /// The step size of each step.
    var schedule: LearningRateSchedule {
        LearningRateSchedule(
            peak: learningRate, warmup: Int((Double(steps) * warmUpShare).rounded()), total: steps,
            decay: decay, floor: floor)
    }

    /// Whether a held-out measurement after `step` steps that is no new best counts as a miss.
    func countsMisses(after step: Int) -> Bool {
        if case .constant = decay { return true }
        return step > schedule.warmup && schedule.value(at: step) <= learningRate / 2
    }

    /// These settings without what may change when a training goes on.
    var fixed: TrainingSettings {
        var fixed = self
        (fixed.timeLimit, fixed.patience, fixed.checkpointInterval) = (nil, nil, 0)
        return fixed
    }
}

/// Why a training cannot go on.
enum TrainingError: Error, CustomStringConvertible {
    case nothingTrains
    case noHiddenStates
    case diverged(phase: String, seen: String, stepBacks: Int, learningRate: Double)
    case notFinite(phase: String)
    case otherTraining(path: String, what: String)
    case otherProcess(operation: String)

    /// What was asked, what was found, what to do.
    var description: String {
        switch self {
        case .nothingTrains:
            "no tensor of the model trains; name more kinds of tensors that shall"
        case .noHiddenStates:
            """
            a cache of the teacher's distributions has no hidden states to compare; leave out the \
            cache or the comparison
            """
        case .diverged(let phase, let seen, let stepBacks, let learningRate):
            """
            \(phase): \(seen), after \(stepBacks) returns to an earlier state and with the learning \
            rate down to \(learningRate); start again with a learning rate below that, larger \
            batches or in float32
            """
        case .notFinite(let phase):
            """
            \(phase): the held-out measure is not finite before any training; check the weights of \
            both models (`minima inspect --check-finite`)
            """
        case .otherTraining(let path, let what):
            """
            \(path) is the state of a training with \(what); ask for the same again, or remove it
            """
        case .otherProcess(let operation):
            "another process of this training could not \(operation); its own message says why"
        }
    }
}
