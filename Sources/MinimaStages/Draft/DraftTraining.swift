import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Trains an EAGLE-3 draft for a target, dense or compressed.
///
/// What is done is kept in ``WorkDirectory`` beside the output, so that a run that was killed goes on
/// to the same bytes.
public struct DraftTraining {
    /// The longest row of guesses that is trained: memory grows with it, and the paper stops there.
    public static let longestUnroll = 7

    /// What to do.
    public struct Request: Sendable {
        /// What is trained and measured on.
        public var text: HealingText
        /// The target's ids of the tokens that the draft can propose; ``DraftVocabulary``.
        public var vocabulary: [Int32]
        /// Share of the training tokens that are among them.
        public var coverage: Double
        /// How it is trained.
        public var settings: DraftSettings
        /// Where to compute.
        public var device: Device
        /// The type to compute in; `nil` takes `WeightSource.defaultDType(on:)`.
        public var dtype: DType?
        /// Version of Minima, for the record.
        public var version: String

        /// A request.
        public init(
            text: HealingText, vocabulary: [Int32], coverage: Double, settings: DraftSettings,
            device: Device, version: String
        ) {
            self.text = text
            self.vocabulary = vocabulary
            self.coverage = coverage
            self.settings = settings
            self.device = device
            self.version = version
        }

        /// By option, for the record.
        var summary: [String: String] {
            [
                "training": settings.summary, "window": "\(text.settings.context)",
                "order": "\(text.settings.seed)",
            ]
        }
    }

    private let source: any WeightSource
    private let request: Request
    private let dtype: DType

    /// Checks what can be checked without computing.
    ///
    /// - Parameter target: The model that the draft is for.
    /// - Throws: `DraftTrainingError`, `CheckpointError` for a configuration from which no draft can
    ///   be made.
    public init(_ target: any WeightSource, _ request: Request) throws {
        source = target
        self.request = request
        dtype = try request.dtype ?? target.defaultDType(on: request.device)
        let unroll = request.settings.unroll
        guard (1...Self.longestUnroll).contains(unroll) else {
            throw DraftTrainingError.badUnroll(unroll)
        }
        guard request.text.settings.context >= 2 * unroll else {
            throw DraftTrainingError.windowTooShort(
                tokens: request.text.settings.context, unroll: unroll)
        }
        _ = try EagleConfiguration(
            target: target.config, draftVocabulary: request.vocabulary.count)
    }

    /// Trains and writes the draft to `output`, which appears when it is complete.
    ///
    /// - Parameter progress: Called between steps; throws to stop, after which the same request goes
    ///   on where it was.
    /// - Returns: The account that is also stored as `minima.json`.
    public func run(output: String, progress: ProgressHandler = { _ in }) throws -> DraftResult {
        // The output's place is claimed before an hour of training.
        let directory = try AtomicDirectory(destination: output)
        let began = ContinuousClock.now
        let hashes = try source.fingerprints { done, total in
            try progress(StageProgress(stage: "hash", done: done, total: total, unit: "files"))
        }
        let key = key(hashes)
        let work = try WorkDirectory(
            AtomicDirectory.place(of: output) + ".minima-work", key: key)
        func loading() throws {
            try progress(
                StageProgress(stage: "load the target", done: 0, total: 1, unit: "models"))
        }
        let target = try source.loadModel(
            device: request.device, dtype: dtype, onTensor: loading)
        let first = try DraftWeights(
            for: target, source, vocabulary: request.vocabulary, seed: request.settings.seed)
        let parts = TrainableModelParts(
            TrainingOptions(roles: [.dense, .norm], seed: request.settings.seed))
        let draft = try EagleDraft(first, target: target, adapter: parts)
        let objective = try objective(draft, parts.tensors, first, target)
        let training = request.settings.training(window: request.text.settings.context)
        try progress(
            StageProgress(
                stage: "draft", done: 0, total: training.steps, unit: "steps",
                note: "at its peak \(objective.memory)"))
        let loop = TrainingLoop(
            "draft", training, store: TrainingStore(work.path, name: "draft", key: key))
        let phase = try loop.run(objective, progress: progress)
        let trained = try first.replacing(parts.stored())
        try trained.write(to: directory)
        // What is stored is what counts.
        let written = try Checkpoint(path: directory.path)
        let stored = try EagleDraft(written, target: target)
        let after = try self.objective(stored, [], written, target).measure()
        guard let start = phase.points.first, let loss = start.heldOut,
            let acceptance = start.acceptance, after.loss.isFinite
        else { throw StageError.notFinite(what: "the held-out loss of the draft") }
        let result = DraftResult(
            version: request.version, target: source.path, targetHashes: hashes,
            texts: request.text.texts, settings: request.summary, device: "\(request.device)",
            dtype: "\(dtype)", torch: Torch.neededVersion,
            draftVocabulary: request.vocabulary.count, coverage: request.coverage,
            featureLayers: draft.featureLayers,
            heldOutTokens: request.text.heldOut.reduce(0) { $0 + $1.count - 1 },
            before: .init(loss: loss, acceptance: acceptance),
            after: .init(loss: after.loss, acceptance: after.acceptance),
            parameters: phase.parameters, bytes: written.byteCount,
            seconds: max((ContinuousClock.now - began).totalSeconds, phase.seconds), phase: phase)
        try directory.write(result.json(), to: "minima.json")
        try directory.commit()
        try work.remove()
        return result
    }

    private func objective(
        _ draft: EagleDraft, _ leaves: [TrainedTensor], _ weights: any WeightSource,
        _ target: any LanguageModel
    ) throws -> DraftObjective {
        try DraftObjective(
            draft, parameters: leaves,
            sites: (draft: EagleDraft.sites(weights), target: source.sites()), target: target,
            text: request.text, settings: request.settings)
    }

    /// SHA-256 of everything that the training depends on.
    private func key(_ hashes: [String: String]) -> String {
        var hash = SHA256()
        func add(_ text: String) {
            Array("\(text.utf8.count) \(text)".utf8).withUnsafeBytes { hash.update($0) }
        }
        for part in [hashes, request.summary] {
            for (name, value) in part.sorted(by: { $0.key < $1.key }) { add(name + value) }
            add("")
        }
        add(source.config.json.text(sortedKeys: true))
        add(request.text.hash)
        request.vocabulary.withUnsafeBytes { hash.update($0) }
        add("\(request.device.isCUDA) \(dtype) \(Torch.neededVersion) \(request.version)")
        return hash.hexadecimalDigest()
    }
}
