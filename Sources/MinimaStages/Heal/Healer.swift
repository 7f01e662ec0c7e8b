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
        /// Passes over all blocks in turn, each with blocks of another size; empty for none.
        public var blocks = [BlockSettings()]
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

        /// By option, for the record.
        var settings: [String: String] {
            blockSettings.merging(endToEndSettings) { $1 }
        }

        /// Those that healed blocks depend on.
        var blockSettings: [String: String] {
            var settings = [
                "context": "\(text.settings.context)", "seed": "\(text.settings.seed)",
                "train": training.roles.map(\.rawValue).sorted().joined(separator: " "),
            ]
            if let share = text.settings.taskShare { settings["task share"] = "\(share)" }
            if let rank = training.adapterRank {
                settings["train"] = "adapters of rank \(rank)"
                settings["adapters"] = training.mergesAdapters ? "merged" : "kept"
            }
            for (index, pass) in blocks.enumerated() {
                settings["blocks, pass \(index + 1)"] = pass.summary
            }
            return settings
        }

        /// Those that only the end-to-end phase depends on.
        private var endToEndSettings: [String: String] {
            guard let endToEnd else { return [:] }
            var settings = [
                "end to end": endToEnd.summary,
                "loss": "\(loss.klWeight) KL + \(loss.crossEntropyWeight) cross-entropy",
            ]
            if loss.temperature != 1 { settings["temperature"] = "\(loss.temperature)" }
            if let hidden {
                settings["hidden"] = "\(hidden.weight) at \(hidden.boundaries)"
            }
            if let cache { settings["teacher cache"] = "top \(cache.count)" }
            return settings
        }
    }

    private let student: Checkpoint
    private let teacher: any WeightSource
    private let request: Request
    private let dtype: DType
    /// What block-wise healing takes at its peak; `nil` without blocks.
    public private(set) var requirements: String?
    /// The account of the compression that made the student, where it has one.
    private let compression: CompressionResult?
    private var isFirst: Bool { request.group?.rank ?? 0 == 0 }

    /// Checks that the models and the text belong together; nothing is computed or written yet.
    ///
    /// - Parameters:
    ///   - student: The model to heal.
    ///   - teacher: The dense model that it was compressed from.
    /// - Throws: `HealingError` for models that are not of one kind and size, `TrainingError` for
    ///   hidden states that a cached teacher does not have, `StageError` for too little text.
    public init(_ student: Checkpoint, teacher: any WeightSource, _ request: Request) throws {
        self.student = student
        self.teacher = teacher
        self.request = request
        dtype = try request.dtype ?? student.defaultDType(on: request.device)
        try HealingError.check(student, teacher)
        if request.endToEnd != nil, request.hidden != nil, request.cache != nil {
            throw TrainingError.noHiddenStates
        }
        compression = try student.compression()
        let sizes = request.blocks.map(\.layersPerBlock)
        guard Set(sizes).count == sizes.count else {
            throw HealingError.blocksTwice(sizes: sizes)
        }
        // The largest blocks take most.
        let largest = request.blocks.max { $0.layersPerBlock < $1.layersPerBlock }
        requirements = try largest.map { "\(try blockHealing(student, $0).requirements)" }
        try checkEndToEnd()
    }

    private func blockHealing(_ source: any WeightSource, _ settings: BlockSettings) throws
        -> BlockHealing
    {
        try BlockHealing(
            student: source, teacher: teacher, settings: settings, training: request.training,
            windows: request.text.inputs(count: settings.windows),
            heldOut: request.text.heldOut.map { Array($0.dropLast()) },
            seed: request.text.settings.seed, device: request.device, dtype: request.dtype,
            group: request.group, originals: Self.originals(student, teacher))
    }

    /// Throws `StageError.notEnoughMemory` where even the weights of both models and the optimiser of
    /// the end-to-end phase do not fit the device: before hours of healing blocks.
    private func checkEndToEnd() throws {
        guard request.endToEnd != nil, let memory = try request.device.memory() else { return }
        let family = try FamilyRegistry.family(student.config)
        let layers = try Set(student.sites().map(\.layer)).map { family.layerPrefix($0) }
        func count(_ requests: [TensorRequest]) -> Int {
            Saturating.sum(requests.map { Saturating.product($0.shape) })
        }
        let own = try student.checkModel()
        var needed = Saturating.product([
            Saturating.sum([count(own), count(try teacher.checkModel())]), dtype.byteCount,
        ])
        if request.training.adapterRank == nil {
            let trained = count(own.filter { item in layers.contains { item.name.hasPrefix($0) } })
            // Sums of gradients; masters and two moments, which processes share.
            let perNumber = 4 + 12 / (request.group?.size ?? 1)
            needed = Saturating.sum([needed, Saturating.product([trained, perNumber])])
        }
        guard needed > memory.available else { return }
        throw StageError.notEnoughMemory(
            purpose: """
                end-to-end healing on \(request.device) (both models and the optimiser; blocks \
                alone, adapters or more processes take less)
                """, neededBytes: needed, availableBytes: memory.available)
    }

    /// Heals and writes the model to `output`, which appears when it is complete.
    ///
    /// - Parameter progress: Called between batches; throws to stop, after which the same request
    ///   goes on where it was.
    /// - Returns: The account that is also stored as `minima.json`.
    public func run(output: String, progress: ProgressHandler = { _ in }) throws -> HealingResult {
        // The output's place is claimed before an hour of training.
        let directory = try isFirst ? AtomicDirectory(destination: output) : nil
        let hashes = try fingerprints(progress)
        // Blocks that are healed serve whatever end-to-end phase follows.
        let work = try open(output, key: key(hashes, request.blockSettings))
        let key = key(hashes, request.settings)
        var record = try HealingRecord.load(work)
        var last = ContinuousClock.now
        // The seconds of all runs beside the phases.
        func keep() throws {
            record.seconds += (ContinuousClock.now - last).totalSeconds
            last = .now
            if isFirst { try record.save(work) }
        }
        let before = try record.before ?? measure(student, "before", progress)
        if record.before == nil {
            record.before = before
            try keep()
        }
        var healed = try HealedWeights(student, files: [])
        record.blocks = []
        for settings in request.blocks {
            let result = try blockHealing(healed, settings).run(work: work, progress: progress)
            healed = result.source
            record.blocks += result.phases
        }
        // Phases keep their own seconds.
        last = .now
        // A phase with other options is none.
        if record.endToEnd?.key != key { record.endToEnd = nil }
        if let settings = request.endToEnd {
            if record.endToEnd == nil {
                record.endToEnd = try train(healed, settings, work, key, hashes, progress)
                last = .now
                try keep()
            }
            if let part = record.endToEnd { healed = try part.applied(to: healed, work) }
        }
        if let directory {
            try HealedModel(healed, student).write(
                to: directory, largestFile: request.largestFile, progress)
            record.written = directory.path
            try keep()
        }
        try request.group?.barrier()
        // What is stored is what counts, in every process.
        guard let path = try directory?.path ?? HealingRecord.load(work).written else {
            throw TrainingError.otherProcess(operation: "write the healed model")
        }
        let after = try measure(Checkpoint(path: path), "after", progress)
        try keep()
        // What another process than the first returns is shown to nobody.
        let size = try directory.map { try InspectionResult(Checkpoint(path: $0.path)) }
        let result = account(
            record, before, after, hashes, (size?.parameters ?? 0, size?.bytes ?? 0))
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
        _ key: String, _ hashes: Hashes, _ progress: ProgressHandler
    ) throws -> HealingRecord.Part {
        func loading(_ what: String) throws {
            try progress(StageProgress(stage: "load \(what)", done: 0, total: 1, unit: "models"))
        }
        let (device, group, text) = (request.device, request.group, request.text)
        let (reference, heldOut) = try self.reference(hashes.teacher, progress) {
            try loading("the teacher")
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
            teacher: reference, text: text, heldOut: heldOut, settings: own,
            group: group)
        let training = settings.training(context: text.settings.context)
        try progress(
            StageProgress(
                stage: "end to end", done: 0, total: training.steps, unit: "steps",
                note: "at its peak \(objective.memory)"))
        let store = TrainingStore(work.path, name: "end-to-end", key: key, group: group)
        let phase = try TrainingLoop("end to end", training, store: store, group: group)
            .run(objective, progress: progress)
        let part = try HealingRecord.Part(
            phase, parts.stored(), key: key, in: work, isWriter: isFirst)
        try group?.barrier()
        return part
    }

    /// The teacher, or what is cached of it, and what it says about the held-out windows. With a
    /// cache no more of it than its head stays on the device.
    private func reference(
        _ hashes: [String: String], _ progress: ProgressHandler, onBatch: () throws -> Void
    ) throws -> (EndToEnd.Teacher, HeldOutText) {
        let (device, text) = (request.device, request.text)
        let model = try teacher.loadModel(device: device, dtype: dtype, onTensor: onBatch)
        let cache = try cached(model, hashes, progress)
        let head = try cache.map { _ in
            try teacher.loadPart(.ends, device: device, dtype: dtype, onTensor: onBatch)
        }
        let heldOut = try HeldOutText(
            text.heldOut, teacher: model, head: head,
            tokensPerPass: device == .cpu ? 4096 : 32_768, group: request.group,
            onBatch: onBatch)
        return (cache.map { .cached($0) } ?? .model(model), heldOut)
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
        sums = try request.group.sum(sums)
        guard sums.allSatisfy(\.isFinite) else {
            throw StageError.notFinite(what: "the held-out measurement \(what) healing")
        }
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

    /// SHA-256 of everything that what is computed with these settings depends on.
    private func key(_ hashes: Hashes, _ settings: [String: String]) -> String {
        var hash = SHA256()
        func add(_ text: String) {
            Array("\(text.utf8.count) \(text)".utf8).withUnsafeBytes { hash.update($0) }
        }
        for part in [hashes.student, hashes.teacher, settings] {
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
        _ record: HealingRecord, _ before: HealingRecord.Measurement,
        _ after: HealingRecord.Measurement, _ hashes: Hashes, _ size: (parameters: Int, bytes: Int)
    ) -> HealingResult {
        let phases = record.blocks + (record.endToEnd.map { [$0.phase] } ?? [])
        return HealingResult(
            version: request.version, model: student.path, modelHashes: hashes.student,
            teacher: teacher.path, teacherHashes: hashes.teacher, texts: request.text.texts,
            settings: request.settings, device: "\(request.device)", dtype: "\(dtype)",
            torch: Torch.neededVersion, processes: request.group?.size ?? 1,
            heldOutTokens: request.text.heldOut.reduce(0) { $0 + $1.count - 1 },
            before: before.model, after: after.model, teacherPerplexity: after.teacherPerplexity,
            parameters: size.parameters, bytes: size.bytes,
            seconds: phases.reduce(record.seconds) { $0 + $1.seconds }, phases: phases,
            compression: compression)
    }
}
