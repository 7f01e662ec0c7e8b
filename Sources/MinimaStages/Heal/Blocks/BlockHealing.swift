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
    /// How blocks are healed.
    struct Settings: Sendable, Hashable {
        /// Neighbouring layers that train together.
        var layersPerBlock = 1
        /// Times that each block sees the training windows.
        var epochs = 4
        /// Windows of a step of the optimiser, over all processes.
        var windowsPerStep = 8
        /// Adam's step size, in units of the root mean square of each tensor; `nil` chooses it for
        /// each block.
        var learningRate: Double?
        /// What trains.
        var options = TrainingOptions()
        /// Seed of the order of the steps.
        var seed: UInt64 = 0
        /// Tokens that run through a block at once; `nil`: 2048 on the CPU, 8192 elsewhere.
        var tokensPerPass: Int?
        /// Seconds from one checkpoint to the next, about.
        var checkpointInterval = 300.0
    }

    let student: any WeightSource
    let teacher: any WeightSource
    let settings: Settings
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
    ///   - dtype: The type to compute in; `nil` takes `WeightSource.defaultDType(on:)`.
    ///   - originals: The dense weight that a module was quantised from, where it is known.
    /// - Throws: `BlockHealingError`, `StageError.tooLittleText`, and `CheckpointError` for tensors
    ///   that are not those of the configuration's model.
    init(
        student: any WeightSource, teacher: any WeightSource, settings: Settings = .init(),
        windows: [[Int32]], heldOut: [[Int32]], device: Device, dtype: DType? = nil,
        group: ProcessGroup? = nil, originals: @escaping (String) throws -> Tensor? = { _ in nil }
    ) throws {
        self.student = student
        self.teacher = teacher
        self.settings = settings
        self.device = device
        self.dtype = try dtype ?? student.defaultDType(on: device)
        self.group = group
        self.originals = originals
        for (windows, purpose) in [(windows, "training"), (heldOut, "the held-out measure")]
        where windows.allSatisfy(\.isEmpty) {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "healing: \(purpose)")
        }
        let layers = try Self.layers(of: student, like: teacher)
        let size = max(settings.layersPerBlock, 1)
        blocks = stride(from: 0, to: layers, by: size).map { $0..<min($0 + size, layers) }
        self.windows = BlockWindows(
            training: windows, heldOut: heldOut, windowsPerStep: settings.windowsPerStep,
            tokensPerPass: settings.tokensPerPass ?? (device == .cpu ? 2048 : 8192),
            seed: settings.seed, rank: group?.rank ?? 0, processes: group?.size ?? 1)
        requirements = try BlockRequirements(
            student: student, teacher: teacher, blocks: blocks, windows: self.windows,
            dtype: self.dtype, processes: group?.size ?? 1)
    }

    /// The number of decoder layers, the same in both models.
    private static func layers(of student: any WeightSource, like teacher: any WeightSource) throws
        -> Int
    {
        try student.checkModel()
        try teacher.checkModel()
        func size(_ key: String) throws -> Int {
            let (own, dense) = (try student.config.int(key), try teacher.config.int(key))
            guard own == dense else {
                throw BlockHealingError.otherSize(key: key, student: own, teacher: dense)
            }
            return own
        }
        for key in ["hidden_size", "vocab_size"] { _ = try size(key) }
        return try size("num_hidden_layers")
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
                            total: blocks[blocks.count - 1].upperBound, unit: "layers", note: note))
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

/// Why a model cannot be healed block by block.
public enum BlockHealingError: Error, Hashable, CustomStringConvertible {
    case otherSize(key: String, student: Int, teacher: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .otherSize(let key, let student, let teacher):
            """
            the model's \(key) is \(student), the teacher's \(teacher); name the dense model that \
            the model was compressed from
            """
        }
    }
}
