import ArgumentParser
import MinimaCheckpoint
import MinimaFormats
import MinimaStages
import MinimaTensor

/// What of a model is healed.
struct HealingScopeOptions: ParsableArguments {
    @Flag(
        name: .customLong("blocks"), inversion: .prefixedNo,
        help: "Heal block after block first, each towards the dense model's residual stream.")
    var hasBlocks = true

    @Flag(
        name: .customLong("end-to-end"), inversion: .prefixedNo,
        help: "Heal the whole model towards the dense model's distribution.")
    var hasEndToEnd = true

    @Option(
        parsing: .upToNextOption,
        help: "Neighbouring decoder layers of a block; several numbers are passes in turn.")
    var layersPerBlock = [1]

    @Option(help: "Training windows that blocks see. Default: 256.")
    var blockWindows: Int?

    @Option(help: "Times that blocks see them. Default: 4.")
    var blockEpochs: Int?

    @Option(
        parsing: .upToNextOption,
        help: """
            What trains: core, dense, quantised, scale, norm, bias, embedding. Default: core, dense, \
            quantised, norm.
            """)
    var train: [TrainedTensor.Role] = []

    @Option(help: "Train adapters of this rank beside frozen weights (LoRA) and nothing else.")
    var lora: Int?

    @Flag(help: "Keep adapters as parts of sums; they are merged into the weights otherwise.")
    var keepAdapters = false

    func validate() throws {
        try checkCounts([
            ("--layers-per-block", layersPerBlock.min()), ("--block-windows", blockWindows),
            ("--block-epochs", blockEpochs), ("--lora", lora),
        ])
        guard !keepAdapters || lora != nil else {
            throw ValidationError("--keep-adapters needs --lora")
        }
        guard train.isEmpty || lora == nil else {
            throw ValidationError("--train and --lora exclude each other")
        }
        guard !train.contains(.adapter) else {
            throw ValidationError("adapters train with --lora RANK")
        }
    }

    func options(seed: UInt64) -> TrainingOptions {
        TrainingOptions(
            roles: train.isEmpty ? TrainingOptions.usualRoles : Set(train), adapterRank: lora,
            mergesAdapters: !keepAdapters, seed: seed)
    }

    func blocks(_ training: HealingTrainingOptions) -> [BlockSettings] {
        guard hasBlocks else { return [] }
        return layersPerBlock.map { size in
            var settings = BlockSettings()
            settings.layersPerBlock = size
            settings.windows = blockWindows ?? settings.windows
            settings.epochs = blockEpochs ?? settings.epochs
            settings.checkpointInterval = training.checkpointMinutes * 60
            return settings
        }
    }

    func endToEnd(
        _ training: HealingTrainingOptions, _ text: HealingText, _ student: Checkpoint,
        _ device: Device
    ) throws -> EndToEndSettings? {
        guard hasEndToEnd else { return nil }
        let hidden = try student.config.int("hidden_size")
        let context = text.settings.context
        let batch = training.batch ?? max((device == .cpu ? 4096 : 49_152) / context, 1)
        var settings = EndToEndSettings(
            tokens: training.tokens ?? text.count * context, batch: batch,
            learningRate: training.learningRate
                ?? EndToEndSettings.learningRate(hidden: hidden, tokensPerStep: batch * context))
        settings.patience = training.patience
        settings.timeLimit = training.minutes.map { $0 * 60 }
        settings.optimiser = training.optimiser ?? EndToEndSettings.optimiser(hidden: hidden)
        settings.checkpointInterval = training.checkpointMinutes * 60
        settings.checkpointing = training.recompute
        return settings
    }
}

/// How it is trained.
struct HealingTrainingOptions: ParsableArguments {
    @Option(help: "Tokens per window. Default: 1024, or the model's context if shorter.")
    var context: Int?

    @Option(help: "Training tokens of the end-to-end phase. Default: all of the text once.")
    var tokens: Int?

    @Option(
        help: "Windows per step of the optimiser. Default: 49152 tokens, on the CPU 4096.")
    var batch: Int?

    @Option(
        help: """
            Largest step size, as a share of each tensor's root mean square. Default: 0.08/√hidden, less for \
            steps of fewer than 49152 tokens.
            """)
    var learningRate: Double?

    @Option(
        help: """
            What takes the steps: adamw, or muon for matrices and adamw for the rest. Default: muon up \
            to a hidden size of 2048.
            """)
    var optimiser: TrainingSettings.Optimiser?

    @Option(help: "Measurements without a new best, in its second half, after which training ends.")
    var patience = 6

    @Option(help: "Minutes after which the end-to-end phase ends.")
    var minutes: Double?

    @Option(help: "Share of the windows that come from prompts with completions.")
    var taskShare: Double?

    @Option(help: "With --text self: windows that the dense model writes.")
    var selfWindows = 512

    @Option(help: "Minutes from one checkpoint to the next.")
    var checkpointMinutes = 5.0

    @Option(help: "Run layers twice to keep fewer activations: auto, on or off.")
    var recompute = ActivationCheckpointing.automatic

    @Option(help: "Seed of the order of the windows.")
    var seed: UInt64 = 0

    func validate() throws {
        for (name, value) in [("--tokens", tokens ?? 1), ("--patience", patience)]
        where value < 1 {
            throw ValidationError("\(name) must be at least 1, found \(value)")
        }
        try checkCounts([
            ("--batch", batch), ("--self-windows", selfWindows), ("--context", context),
        ])
        if let learningRate, !(learningRate > 0 && learningRate < 1) {
            throw ValidationError("--learning-rate must be between 0 and 1, found \(learningRate)")
        }
        if let taskShare, !(0...1).contains(taskShare) {
            throw ValidationError("--task-share must be between 0 and 1, found \(taskShare)")
        }
        if let minutes, !(minutes > 0 && minutes <= 1e6) {
            throw ValidationError("--minutes must be positive, found \(minutes)")
        }
        guard checkpointMinutes > 0, checkpointMinutes <= 1e6 else {
            throw ValidationError(
                "--checkpoint-minutes must be positive, found \(checkpointMinutes)")
        }
    }
}

/// What is minimised.
struct HealingLossOptions: ParsableArguments {
    @Option(help: "Weight of KL(dense ‖ model) per token.")
    var kl = 1.0

    @Option(help: "Weight of the cross-entropy with the next token.")
    var crossEntropy = 0.1

    @Option(help: "Temperature of both distributions in the KL.")
    var temperature = 1.0

    @Option(help: "Weight of the residual streams' relative squared distance; 0 for none.")
    var hiddenWeight = 0.0

    @Option(help: "Layer boundaries where residual streams are compared, spread evenly.")
    var hiddenBoundaries = 4

    @Option(
        help: "Directory of the dense model's distributions, written once and reused.",
        completion: .directory)
    var teacherCache: String?

    @Option(help: "Probabilities per token in that cache; the others count as one.")
    var topK = 64

    func validate() throws {
        for (name, value) in [
            ("--kl", kl), ("--cross-entropy", crossEntropy), ("--hidden-weight", hiddenWeight),
        ] where !(0...1e6).contains(value) {
            throw ValidationError("\(name) must be between 0 and 1000000, found \(value)")
        }
        guard (0.01...100).contains(temperature) else {
            throw ValidationError(
                "--temperature must be between 0.01 and 100, found \(temperature)")
        }
        guard kl + crossEntropy + hiddenWeight > 0 else {
            throw ValidationError("all weights of the loss are 0")
        }
        try checkCounts(
            [("--top-k", topK), ("--hidden-boundaries", hiddenBoundaries)], most: 1 << 20)
    }

    var distillation: DistillationLoss {
        var loss = DistillationLoss()
        loss.klWeight = kl
        loss.crossEntropyWeight = crossEntropy
        loss.temperature = temperature
        return loss
    }

    func hidden(layers: Int) -> HiddenLoss? {
        guard hiddenWeight > 0 else { return nil }
        return HiddenLoss(
            boundaries: HiddenLoss.spread(layers: layers, count: hiddenBoundaries),
            weight: hiddenWeight)
    }

    var cache: TeacherCacheSettings? {
        teacherCache.map { TeacherCacheSettings(directory: $0, count: topK) }
    }
}

/// Refuses numbers of things below 1 and above `most`; what is not given is right.
private func checkCounts(_ counts: [(option: String, count: Int?)], most: Int = 1 << 24) throws {
    for case (let option, let count?) in counts where !(1...most).contains(count) {
        throw ValidationError("\(option) must be between 1 and \(most), found \(count)")
    }
}

extension TrainedTensor.Role: ExpressibleByArgument {}

extension ActivationCheckpointing: ExpressibleByArgument {}

extension TrainingSettings.Optimiser: ExpressibleByArgument {}
