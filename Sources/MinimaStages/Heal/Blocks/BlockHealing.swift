import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Heals a compressed model one block of neighbouring decoder layers after the other.
///
/// A block is trained to give the dense model's residual stream from what the healed layers before it
/// have made of its inputs, so that it also makes up for their errors. The device holds one block with
/// its optimiser and the activations of a batch; the machine's memory holds the residual stream of all
/// windows in both models. What is done is kept in ``WorkParts``.
struct BlockHealing {
    let student: any WeightSource
    let teacher: any WeightSource
    let settings: BlockSettings
    /// What trains.
    let training: TrainingOptions
    let windows: BlockWindows
    let device: Device
    let dtype: DType
    let group: ProcessGroup?
    /// The layers of each block.
    let blocks: [Range<Int>]
    /// The dense weight that a module was quantised from, where it is known.
    let originals: (String) throws -> Tensor?
    /// What this takes at its peak.
    let requirements: BlockRequirements

    /// Checks that the models belong together; nothing is computed yet.
    ///
    /// - Parameters:
    ///   - windows: Windows of token ids to train on; each is run from its own beginning.
    ///   - heldOut: Windows of token ids that say how good a block is.
    ///   - seed: Of the order of the steps.
    ///   - dtype: The type to compute in; `nil` takes `WeightSource.defaultDType(on:)`.
    ///   - originals: The dense weight that a module was quantised from, where it is known.
    /// - Throws: `HealingError.otherSize`, `StageError.tooLittleText`, and `CheckpointError` for tensors
    ///   that are not those of the configuration's model.
    init(
        student: any WeightSource, teacher: any WeightSource, settings: BlockSettings = .init(),
        training: TrainingOptions = .init(), windows: [[Int32]], heldOut: [[Int32]],
        seed: UInt64 = 0, device: Device, dtype: DType? = nil,
        group: ProcessGroup? = nil, originals: @escaping (String) throws -> Tensor? = { _ in nil }
    ) throws {
        self.student = student
        self.teacher = teacher
        self.settings = settings
        self.training = training
        self.device = device
        self.dtype = try dtype ?? student.defaultDType(on: device)
        self.group = group
        self.originals = originals
        for (windows, purpose) in [(windows, "training"), (heldOut, "the held-out measure")]
        where windows.allSatisfy(\.isEmpty) {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "healing: \(purpose)")
        }
        try student.checkModel()
        try teacher.checkModel()
        try HealingError.checkSizes(student, teacher)
        let layers = try student.config.int("num_hidden_layers")
        let size = max(settings.layersPerBlock, 1)
        blocks = stride(from: 0, to: layers, by: size).map { $0..<min($0 + size, layers) }
        self.windows = BlockWindows(
            training: windows, heldOut: heldOut, windowsPerStep: settings.batch,
            tokensPerPass: settings.tokensPerPass ?? (device == .cpu ? 2048 : 8192),
            seed: seed, rank: group?.rank ?? 0, processes: group?.size ?? 1)
        requirements = try BlockRequirements(
            student: student, teacher: teacher, blocks: blocks, windows: self.windows,
            dtype: self.dtype, processes: group?.size ?? 1)
    }

    /// Heals all blocks, or those that earlier runs have left.
    ///
    /// - Parameters:
    ///   - work: Where progress is kept; its key stands for the models, the windows and the settings.
    ///   - progress: Called between batches and tensors; throws to stop, after which the same call
    ///     goes on where it was.
    /// - Returns: An account of each block that had anything to heal, and the model with the healed
    ///   tensors.
    func run(work: WorkDirectory, progress: ProgressHandler = { _ in }) throws -> (
        phases: [HealingResult.Phase], source: HealedWeights
    ) {
        let parts = WorkParts<BlockRecord>(in: work, "blocks-\(settings.layersPerBlock)")
        var records = try parts.records()
        if records.count < blocks.count {
            if records.isEmpty { try requirements.check(on: device, work: work.path) }
            var chains: BlockChains?
            for block in blocks[records.count...] {
                func report(_ note: String) throws {
                    try progress(
                        StageProgress(
                            stage: "heal blocks", done: block.lowerBound,
                            total: blocks[blocks.count - 1].upperBound,
                            // A block's training reports in between: there is no clock for a rate.
                            resumed: block.lowerBound, unit: "layers", note: note))
                }
                let source = try healed(parts, records)
                var inputs =
                    try chains
                    ?? BlockChains(
                        self, source, boundary: block.lowerBound, in: parts, report: report)
                records.append(
                    try heal(block, source, &inputs, parts, records.count, progress, report))
                chains = inputs
            }
        }
        return (records.compactMap(\.phase), try healed(parts, records))
    }

    /// The compressed model with the tensors of the finished blocks.
    func healed(_ parts: WorkParts<BlockRecord>, _ records: [BlockRecord]) throws -> HealedWeights {
        let isHealed = records.indices.filter { records[$0].isHealed }
        return try HealedWeights(
            student, files: isHealed.map(parts.tensorsPath),
            specs: isHealed.reduce(into: [:]) { $0.merge(records[$1].specs) { $1 } },
            removed: Set(isHealed.flatMap { records[$0].removed }))
    }
}

/// What was found out while one block was healed.
struct BlockRecord: StageResult {
    static let kind = "healed-block"

    /// ``StreamError`` over the held-out tokens before.
    var before: Double
    /// The same after, from the stored tensors.
    var after: Double
    /// The training; `nil` where there was nothing to heal.
    var phase: HealingResult.Phase?
    /// Whether the part's tensors take the place of the compressed model's: they do where they are
    /// better.
    var isHealed = false
    /// Formats of its linear modules that are not dense.
    var specs: [String: FormatSpec] = [:]
    /// Names of the compressed model's tensors that the healed one does not have.
    var removed: [String] = []
}
