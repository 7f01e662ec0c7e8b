import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// The whole model, trained to a teacher's distribution.
///
/// A step's windows are shared among the processes and run in passes that the device has room for.
/// Sums are divided by the step's tokens over all of them, so that neither changes the gradient. The
/// host waits for the device in ``validate()`` only.
final class EndToEnd: TrainingObjective {
    /// What is minimised, and how steps are cut.
    struct Settings: Sendable {
        /// Windows of a step, over all processes.
        var batch: Int
        /// KL and cross-entropy.
        var loss = DistillationLoss()
        /// Distance between residual streams; needs a teacher that runs.
        var hidden: HiddenLoss?
        /// Whether layers run twice.
        var checkpointing = ActivationCheckpointing.automatic
        /// Tokens of a pass, at most; `nil`: 4096 on the CPU, as many as fit on a GPU.
        var tokensPerPass: Int?

        /// Settings.
        init(batch: Int) { self.batch = max(batch, 1) }
    }

    /// Where the teacher's distribution comes from.
    enum Teacher {
        case model(any LanguageModel)
        case cached(TeacherCache)
    }

    let parameters: [TrainedTensor]
    let tokensPerStep: Int
    /// What it takes on the device beside the weights, and how steps are cut.
    let memory: TrainingMemory

    private(set) var perplexity: Double?

    let student: any LanguageModel
    let teacher: Teacher?
    let settings: Settings
    /// The parameters of each decoder layer, and those of none, as places in ``parameters``.
    let layerPlaces: [[Int]]
    let outerPlaces: [Int]
    private let text: HealingText
    private let heldOut: HeldOutText
    private let group: ProcessGroup?
    /// Contexts by how many windows they are for: making one waits for the device.
    private var contexts: [Int: (student: ForwardContext, teacher: ForwardContext?)] = [:]

    /// An objective.
    ///
    /// - Parameters:
    ///   - student: A model whose tensors `parameters` are.
    ///   - sites: The model's linear layers, which tell what activations take.
    ///   - teacher: `nil` where only the text counts.
    ///   - heldOut: What the student is measured on.
    /// - Throws: `StageError.notEnoughMemory`, `ModelError` for tokens or lengths that the model does
    ///   not take, `TrainingError` for hidden states that a cached teacher does not have.
    init(
        student: any LanguageModel, parameters: [TrainedTensor], sites: [Site],
        teacher: Teacher?, text: HealingText, heldOut: HeldOutText, settings: Settings,
        group: ProcessGroup? = nil
    ) throws {
        let (context, dimensions) = (text.settings.context, student.dimensions)
        guard context <= dimensions.context else {
            throw ModelError.contextExceeded(length: context, context: dimensions.context)
        }
        try text.requireTokens(of: student)
        var hasStates = false
        if case .model = teacher { hasStates = true }
        guard settings.hidden == nil || hasStates else { throw TrainingError.noHiddenStates }
        self.student = student
        self.parameters = parameters
        self.teacher = settings.loss.klWeight == 0 && settings.hidden == nil ? nil : teacher
        self.text = text
        self.heldOut = heldOut
        self.settings = settings
        self.group = group
        tokensPerStep = settings.batch * context
        let family = type(of: student)
        let prefixes = (0..<dimensions.layers).map { family.layerPrefix($0) }
        layerPlaces = prefixes.map { prefix in
            parameters.indices.filter { parameters[$0].name.hasPrefix(prefix) }
        }
        let inner = Set(layerPlaces.joined())
        outerPlaces = parameters.indices.filter { !inner.contains($0) }
        let device = student.device
        let processes = group?.size ?? 1
        let available = try device.memory()?.available ?? HostMemory.available()
        memory = try TrainingMemory(
            TrainingMemory.Sizes(
                sites: sites, hidden: dimensions.hidden, vocabulary: dimensions.vocabulary,
                context: context, dtype: student.dtype, device: device,
                trained: parameters.reduce(0) { $0 + $1.tensor.count }, processes: processes,
                boundaries: settings.hidden?.boundaries.count ?? 0,
                windows: (settings.batch + processes - 1) / processes,
                tokensPerPass: settings.tokensPerPass ?? (device == .cpu ? 4096 : .max),
                expandsHead: !(student.head.weight is Dense)),
            settings.checkpointing, available: available)
        if let free = HostMemory.available(), memory.hostBytes > free {
            throw StageError.notEnoughMemory(
                purpose: "end-to-end healing (the last good and the best state, on the host)",
                neededBytes: memory.hostBytes, availableBytes: free)
        }
    }

    /// Gradients of step `step`'s loss on this process's windows.
    func gradients(step: Int, _ accumulate: (_ gradients: [Tensor?]) throws -> Void) throws
        -> Tensor
    {
        let windows = text.windows(
            step: step, batch: settings.batch, rank: group?.rank ?? 0, of: group?.size ?? 1)
        let counts = text.counts(step: step, batch: settings.batch)
        var loss = try Tensor.zeros([], device: student.device)
        let passes = (windows.count + memory.windowsPerPass - 1) / memory.windowsPerPass
        for pass in 0..<passes {
            // Passes of about one size.
            let range = pass * windows.count / passes..<(pass + 1) * windows.count / passes
            let batch = try text.batch(Array(windows[range]))
            let (own, others) = try contexts(windows: range.count)
            loss = try loss + gradients(batch, counts, own, others, accumulate)
        }
        return loss
    }

    /// Held-out KL per token, in nats.
    func validate() throws -> Double {
        let measurement = try measure()
        perplexity = measurement.perplexity
        return measurement.kl
    }

    /// Held-out KL and perplexity.
    func measure() throws -> HealingResult.Measurement { try heldOut.measure(student) }

    private func contexts(windows: Int) throws -> (ForwardContext, ForwardContext?) {
        if let (student, teacher) = contexts[windows] { return (student, teacher) }
        func context(_ model: any LanguageModel) throws -> ForwardContext {
            try ForwardContext(
                batch: windows, tokens: text.settings.context, cache: nil, padding: nil,
                rotary: model.rotary, device: model.device, dtype: model.dtype)
        }
        var reference: ForwardContext?
        if case .model(let model) = teacher { reference = try context(model) }
        let made = (student: try context(student), teacher: reference)
        contexts[windows] = made
        return made
    }
}
