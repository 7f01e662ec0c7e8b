import MinimaCore
import MinimaModels
import MinimaTensor

/// How a model is healed block by block.
public struct BlockSettings: Sendable, Hashable {
    /// Neighbouring decoder layers that train together.
    public var layersPerBlock = 1
    /// Training windows, spread over all of the text.
    public var windows = 256
    /// Times that each block sees them.
    public var epochs = 4
    /// Windows of a step of the optimiser, over all processes.
    public var batch = 8
    /// Adam's step size, in units of the root mean square of each tensor; `nil` chooses it by each
    /// block's error.
    public var learningRate: Double?
    /// Seconds from one checkpoint to the next, about.
    public var checkpointInterval = 300.0
    /// Tokens that run through a block at once; `nil`: 2048 on the CPU, 8192 elsewhere.
    var tokensPerPass: Int?

    /// The usual settings.
    public init() {}

    /// What the result depends on.
    var summary: String {
        let rate = learningRate.map { "\($0)" } ?? "by the error"
        return """
            layers \(layersPerBlock), windows \(windows), epochs \(epochs), batch \(batch), \
            learning rate \(rate)
            """
    }
}

/// How a model is healed end to end.
public struct EndToEndSettings: Sendable, Hashable {
    /// Training tokens, repeated ones counted again.
    public var tokens: Int
    /// Windows of a step of the optimiser, over all processes.
    public var batch: Int
    /// The largest step size, in units of the root mean square of each tensor.
    public var learningRate: Double
    /// Held-out measurements without a new best after which training ends.
    public var patience = 6
    /// Seconds after which it ends; `nil` for never.
    public var timeLimit: Double?
    /// Seconds from one checkpoint to the next, about.
    public var checkpointInterval = 300.0
    /// What takes the steps.
    public var optimiser = TrainingSettings.Optimiser.adamW
    /// Whether layers run twice, to keep fewer activations.
    public var checkpointing = ActivationCheckpointing.automatic

    /// Settings of a phase of `tokens` tokens.
    public init(tokens: Int, batch: Int, learningRate: Double) {
        self.tokens = max(tokens, 1)
        self.batch = max(batch, 1)
        self.learningRate = learningRate
    }

    /// What the result depends on.
    var summary: String {
        """
        tokens \(tokens), batch \(batch), learning rate \(learningRate), \(optimiser.rawValue), \
        patience \(patience)
        """
    }

    /// A step size that suits a model's hidden size and a step's tokens: at 384 and 49,152 tokens 0.4%
    /// of each tensor per step (measured; twice as much harms), at 5120 0.11%; of fewer tokens the
    /// root of their share of that, as noise goes.
    public static func learningRate(hidden: Int, tokensPerStep: Int) -> Double {
        let share = min(Double(tokensPerStep) / 49_152, 1)
        return 0.08 * (share / Double(max(hidden, 1))).squareRoot()
    }

    /// Muon for models whose matrices are small enough that orthogonalising them costs little beside
    /// a step's passes; it heals further per token.
    public static func optimiser(hidden: Int) -> TrainingSettings.Optimiser {
        hidden <= 2048 ? .muon : .adamW
    }

    /// The loop's settings for windows of `context` tokens.
    func training(context: Int) -> TrainingSettings {
        let steps = max(tokens / max(Saturating.product([batch, context]), 1), 1)
        var training = TrainingSettings(
            steps: steps, learningRate: learningRate, isRelative: true,
            // Adam's first steps go by the sign of few gradients; short trainings have few steps.
            warmUpShare: max(0.05, min(20 / Double(steps), 0.2)), patience: patience,
            checkpointInterval: checkpointInterval)
        training.optimiser = optimiser
        training.timeLimit = timeLimit
        return training
    }
}

/// Where a teacher's distributions are kept.
public struct TeacherCacheSettings: Sendable, Hashable {
    /// An existing or a new directory.
    public var directory: String
    /// Probabilities per token.
    public var count: Int

    /// Settings.
    public init(directory: String, count: Int) {
        self.directory = directory
        self.count = count
    }
}

/// Why a model cannot be healed by a teacher.
public enum HealingError: Error, Hashable, CustomStringConvertible {
    case notCompressed(path: String)
    case notDense(path: String)
    case blocksTwice(sizes: [Int])
    case otherFamily(student: String, teacher: String)
    case otherSize(key: String, student: Int, teacher: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .notCompressed(let path):
            "\(path) is a dense model; name the compressed one, or heal nothing"
        case .blocksTwice(let sizes):
            "passes with \(sizes) layers per block: two are the same; give each size once"
        case .notDense(let path):
            "\(path) is compressed itself; name the dense model as --teacher"
        case .otherFamily(let student, let teacher):
            """
            the model is of the family \(student), the teacher of \(teacher); name the dense model \
            that the model was compressed from
            """
        case .otherSize(let key, let student, let teacher):
            """
            the model's \(key) is \(student), the teacher's \(teacher); name the dense model that \
            the model was compressed from
            """
        }
    }

    /// Throws unless `teacher` can be the dense model that `student` was compressed from.
    static func check(_ student: any WeightSource, _ teacher: any WeightSource) throws {
        guard try !CompressionManifest(student.config).modules.isEmpty else {
            throw HealingError.notCompressed(path: student.path)
        }
        guard try CompressionManifest(teacher.config).modules.isEmpty else {
            throw HealingError.notDense(path: teacher.path)
        }
        let (own, dense) = (try student.config.modelType, try teacher.config.modelType)
        guard own == dense else { throw HealingError.otherFamily(student: own, teacher: dense) }
        try checkSizes(student, teacher)
    }

    /// Throws unless both models have the same residual stream and predict the same tokens.
    static func checkSizes(_ student: any WeightSource, _ teacher: any WeightSource) throws {
        for key in ["hidden_size", "num_hidden_layers", "vocab_size"] {
            let (own, dense) = (try student.config.int(key), try teacher.config.int(key))
            guard own == dense else {
                throw HealingError.otherSize(key: key, student: own, teacher: dense)
            }
        }
    }
}
