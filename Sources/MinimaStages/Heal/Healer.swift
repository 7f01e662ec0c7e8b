import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Heals a compressed model: block by block, then end to end, towards the dense model it came from.
///
/// Ranks and formats stay. What is done is kept in ``WorkDirectory`` beside the output, so that a run
/// that was killed goes on; with several processes, the first one writes for all.
public struct Healer {
    /// What to do.
    public struct Request: Sendable {
        /// What is trained and measured on.
        public var text: HealingText
        /// What trains.
        public var training = TrainingOptions()
        /// What is minimised end to end.
        public var loss = DistillationLoss()
        /// Residual streams that are matched, too, end to end.
        public var hidden: HiddenLoss?
        /// How blocks are healed; `nil` leaves them out.
        public var blocks: BlockSettings? = .init()
        /// How the whole model is healed; `nil` leaves that out.
        public var endToEnd: EndToEndSettings?
        /// Where the teacher's distributions are kept instead of being computed each time.
        public var cache: TeacherCacheSettings?
        /// Where to compute.
        public var device: Device
        /// The type that the models compute in; `nil` takes `WeightSource.defaultDType(on:)`.
        public var dtype: DType?
        /// The processes that train together.
        public var group: ProcessGroup?
        /// Version of Minima, for the record.
        public var version: String
        /// Bytes up to which the output's weights are one file.
        public var largestFile = 2 << 30

        /// A request with everything but the end-to-end phase as usual.
        public init(text: HealingText, device: Device, version: String) {
            self.text = text
            self.device = device
            self.version = version
        }

        /// By option, for the record and for what unfinished work depends on.
        var settings: [String: String] {
            var settings = [
                "context": "\(text.settings.context)", "seed": "\(text.settings.seed)",
                "train": training.roles.map(\.rawValue).sorted().joined(separator: " "),
                "loss": "\(loss.klWeight) KL + \(loss.crossEntropyWeight) cross-entropy",
            ]
            if let share = text.settings.taskShare { settings["task share"] = "\(share)" }
            if loss.temperature != 1 { settings["temperature"] = "\(loss.temperature)" }
            if let rank = training.adapterRank {
                settings["train"] = "adapters of rank \(rank)"
                settings["adapters"] = training.mergesAdapters ? "merged" : "kept"
            }
            if let hidden {
                settings["hidden"] = "\(hidden.weight) at \(hidden.boundaries)"
            }
            if let blocks { settings["blocks"] = "\(blocks)" }
            if let endToEnd { settings["end to end"] = "\(endToEnd)" }
            if let cache { settings["teacher cache"] = "top \(cache.count)" }
            return settings
        }
    }

    private let student: Checkpoint
    private let teacher: any WeightSource
    private let request: Request
    private let dtype: DType
    private let blocks: BlockHealing?
    private var isFirst: Bool { request.group?.rank ?? 0 == 0 }

    /// Checks that the models and the text belong together; nothing is computed or written yet.
    ///
    /// - Parameters:
    ///   - student: The model to heal.
    ///   - teacher: The dense model that it was compressed from.
    /// - Throws: `BlockHealingError` for models of different sizes, `StageError` for too little text.
    public init(_ student: Checkpoint, teacher: any WeightSource, _ request: Request) throws {
        self.student = student
        self.teacher = teacher
        self.request = request
        dtype = try request.dtype ?? student.defaultDType(on: request.device)
        try HealingError.check(student, teacher)
        blocks = try request.blocks.map { settings in
            try BlockHealing(
                student: student, teacher: teacher,
                settings: BlockHealing.Settings(
                    layersPerBlock: settings.layersPerBlock, epochs: settings.epochs,
                    windowsPerStep: settings.batch, learningRate: settings.learningRate,
                    options: request.training, seed: request.text.settings.seed,
                    checkpointInterval: settings.checkpointInterval),
                windows: request.text.inputs(count: settings.windows),
                heldOut: request.text.heldOut.map { Array($0.dropLast()) },
                device: request.device, dtype: request.dtype, group: request.group,
                originals: Self.originals(student, teacher))
        }
    }

    /// What block-wise healing takes at its peak; `nil` without blocks.
    public var requirements: String? { blocks.map { "\($0.requirements)" } }

    /// Heals and writes the model to `output`, which appears when it is complete.
    ///
    /// - Parameter progress: Called between batches; throws to stop, after which the same request
    ///   goes on where it was.
    /// - Returns: The account that is also stored as `minima.json`.
    public func run(output: String, progress: ProgressHandler = { _ in }) throws -> HealingResult {
        // The output's place is claimed before an hour of training.
        let directory = try isFirst ? AtomicDirectory(destination: output) : nil
        let hashes = try fingerprints(progress)
        let work = try open(output, key: key(hashes))
        var record = try HealingRecord.load(work)
        var last = ContinuousClock.now
        // The seconds of all runs are kept with what they led to.
        func keep() throws {
            record.seconds += (ContinuousClock.now - last).totalSeconds
            last = .now
            if isFirst { try record.save(work) }
        }
        if record.before == nil {
            record.before = try measure(student, "before", progress)
            try keep()
        }
        var healed = try HealedWeights(student, files: [])
        if let blocks {
            let result = try blocks.run(work: work, progress: progress)
            healed = result.source
            record.blocks = result.phases
            try keep()
        }
        if let settings = request.endToEnd {
            if record.endToEnd == nil {
                record.endToEnd = try train(healed, settings, work, hashes, progress)
                try keep()
            }
            if let part = record.endToEnd { healed = try part.applied(to: healed, work) }
        }
        if let directory {
            try HealedModel(healed, student).write(
                to: directory, largestFile: request.largestFile, progress)
        }
        try request.group?.barrier()
        // What is stored is what counts.
        let written: any WeightSource =
            try directory.map { try Checkpoint(path: $0.path) } ?? healed
        record.after = try measure(written, "after", progress)
        try keep()
        // What another process than the first returns is shown to nobody.
        let size = try directory.map { try InspectionResult(Checkpoint(path: $0.path)) }
        let result = try account(record, hashes, (size?.parameters ?? 0, size?.bytes ?? 0))
        if let directory {
            try directory.write(result.json(), to: "minima.json")
            try directory.commit()
            try work.remove()
        }
        try request.group?.barrier()
        return result
    }

    // MARK: Phases

    /// Trains the whole model and keeps its tensors in `work`.
    private func train(
        _ source: HealedWeights, _ settings: EndToEndSettings, _ work: WorkDirectory,
        _ hashes: Hashes, _ progress: ProgressHandler
    ) throws -> HealingRecord.Part {
        func loading(_ what: String) throws {
            try progress(StageProgress(stage: "load \(what)", done: 0, total: 1, unit: "models"))
        }
        let (device, group, text) = (request.device, request.group, request.text)
        try device.resetPeakMemory()
        let model = try teacher.loadModel(
            device: device, dtype: dtype, onTensor: { try loading("the teacher") })
        let pass = device == .cpu ? 4096 : 32_768
        let heldOut = try HeldOutText(
            text.heldOut, teacher: model, tokensPerPass: pass, group: group,
            onBatch: { try loading("the teacher") })
        let reference = try cached(model, hashes.teacher, progress).map {
            EndToEnd.Teacher.cached($0)
        }
        let parts = TrainableModelParts(
            request.training, originals: Self.originals(student, teacher))
        let student = try source.loadModel(
            device: device, dtype: dtype, adapter: parts,
            onTensor: { try loading("the student") })
        var own = EndToEnd.Settings(batch: settings.batch)
        (own.loss, own.hidden) = (request.loss, request.hidden)
        own.checkpointing = settings.checkpointing
        let objective = try EndToEnd(
            student: student, parameters: parts.tensors, sites: source.sites(),
            teacher: reference ?? .model(model), text: text, heldOut: heldOut, settings: own,
            group: group)
        let training = settings.training(context: text.settings.context)
        try progress(
            StageProgress(
                stage: "end to end", done: 0, total: training.steps, unit: "steps",
                note: "at its peak \(objective.memory)"))
        let store = TrainingStore(work.path, name: "end-to-end", key: work.key, group: group)
        let phase = try TrainingLoop("end to end", training, store: store, group: group)
            .run(objective, progress: progress)
        let part = try HealingRecord.Part(phase, parts.stored(), in: work, isWriter: isFirst)
        try group?.barrier()
        return part
    }

    /// The teacher's distributions, computed where they are not there yet.
    private func cached(
        _ model: any LanguageModel, _ hashes: [String: String], _ progress: ProgressHandler
    ) throws -> TeacherCache? {
        guard let settings = request.cache else { return nil }
        var key = TeacherCache.Key(
            request.text, teacher: hashes, vocabulary: model.dimensions.vocabulary)
        key.temperature = request.loss.temperature
        key.count = min(settings.count, model.dimensions.vocabulary)
        try TeacherCache.write(
            key, text: request.text, teacher: model, to: settings.directory,
            rank: request.group?.rank ?? 0, of: request.group?.size ?? 1, progress: progress)
        try request.group?.barrier()
        return try TeacherCache(key, directory: settings.directory)
    }

    /// The dense weights that quantised modules were made from.
    private static func originals(_ student: Checkpoint, _ teacher: any WeightSource)
        -> (String) throws -> Tensor?
    {
        { name in
            for site in try teacher.sites() {
                if site.name == name { return try teacher.stackedWeight(site, on: .cpu) }
                guard let member = site.members.first(where: { $0.name == name }) else { continue }
                return try teacher.tensor(
                    "\(name).weight", shape: [member.outputs, member.inputs], on: .cpu)
            }
            return nil
        }
    }

    /// The held-out measurement of a model, over all processes.
    private func measure(
        _ source: any WeightSource, _ what: String, _ progress: ProgressHandler
    ) throws -> HealingRecord.Measurement {
        let own = request.text.heldOut.enumerated().filter {
            $0.offset % (request.group?.size ?? 1) == request.group?.rank ?? 0
        }
        var sums = [0.0, 0, 0, 0]
        if !own.isEmpty {
            let found = try StreamedEvaluation(
                source, against: teacher, device: request.device, dtype: dtype
            )
            .measure(own.map(\.element)) { step in
                var step = step
                step.stage = "measure \(what)"
                try progress(step)
            }
            sums = [
                Double(found.tokens), found.negativeLogLikelihood, found.divergence ?? 0,
                found.denseNegativeLogLikelihood ?? 0,
            ]
        }
        if let group = request.group { sums = try group.sum(sums) }
        return HealingRecord.Measurement(
            model: HealingResult.Measurement(
                kl: sums[2] / sums[0], perplexity: exp(sums[1] / sums[0])),
            teacherPerplexity: exp(sums[3] / sums[0]))
    }

    // MARK: Provenance

    private typealias Hashes = (student: [String: String], teacher: [String: String])

    private func fingerprints(_ progress: ProgressHandler) throws -> Hashes {
        func hash(_ source: any WeightSource) throws -> [String: String] {
            try source.fingerprints { done, total in
                try progress(StageProgress(stage: "hash", done: done, total: total, unit: "files"))
            }
        }
        return (try hash(student), try hash(teacher))
    }

    /// SHA-256 of everything that the output depends on.
    private func key(_ hashes: Hashes) -> String {
        var hash = SHA256()
        func add(_ text: String) {
            Array("\(text.utf8.count) \(text)".utf8).withUnsafeBytes { hash.update($0) }
        }
        for part in [hashes.student, hashes.teacher, request.settings] {
            for (name, value) in part.sorted(by: { $0.key < $1.key }) { add(name + value) }
            add("")
        }
        add(student.config.json.text(sortedKeys: true))
        add(request.text.hash)
        add("\(request.device.isCUDA) \(dtype) \(request.group?.size ?? 1)")
        add("\(Torch.neededVersion) \(request.version)")
        return hash.hexadecimalDigest()
    }

    /// The directory of unfinished work, which the first process opens for all.
    private func open(_ output: String, key: String) throws -> WorkDirectory {
        let path = try AtomicDirectory.place(of: output) + ".minima-work"
        guard let group = request.group else { return try WorkDirectory(path, key: key) }
        let own = try isFirst ? WorkDirectory(path, key: key) : nil
        try group.barrier()
        return try own ?? WorkDirectory(joining: path, key: key)
    }

    private func account(
        _ record: HealingRecord, _ hashes: Hashes, _ size: (parameters: Int, bytes: Int)
    ) throws -> HealingResult {
        guard let before = record.before, let after = record.after else {
            throw StageError.notFinite(what: "the held-out measurement")
        }
        return HealingResult(
            version: request.version, model: student.path, modelHashes: hashes.student,
            teacher: teacher.path, teacherHashes: hashes.teacher, texts: request.text.texts,
            settings: request.settings, device: "\(request.device)", dtype: "\(dtype)",
            torch: Torch.neededVersion, processes: request.group?.size ?? 1,
            heldOutTokens: request.text.heldOut.reduce(0) { $0 + $1.count - 1 },
            before: before.model, after: after.model, teacherPerplexity: after.teacherPerplexity,
            parameters: size.parameters, bytes: size.bytes, seconds: record.seconds,
            phases: record.blocks + (record.endToEnd.map { [$0.phase] } ?? []),
            compression: try student.compression())
    }
}
