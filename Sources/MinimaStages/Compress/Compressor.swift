import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Executes a compression plan on a dense model.
///
/// Layer by layer: the device holds one decoder layer, the moments of one site's inputs and the
/// fit of one module; the machine's memory holds the activations of the calibration windows at the
/// layer boundary. What is done is kept in ``WorkDirectory``, so that a run that was killed goes on
/// and writes the same bytes.
public struct Compressor {
    /// What to do.
    public struct Request: Sendable {
        /// Which module takes which format.
        public var plan: CompressionPlan
        /// Windows of calibration tokens; may be empty where `statistics` hold the moments of all
        /// inputs and nothing is compensated.
        public var sources: [CalibrationSource]
        /// Seed of text that the model wrote itself, for the record.
        public var seed: UInt64
        /// How earlier layers' errors are made up for.
        public var compensation: Compensation
        /// Damping of the compensated targets, relative to the mean diagonal of the input moment.
        public var ridge: Double
        /// Moments that an analysis of the same model kept: of outputs, which are not taken
        /// otherwise, and of inputs, which save passes.
        public var statistics: StatisticsStore?
        /// Where to compute.
        public var device: Device
        /// The type that the model computes in while it is calibrated; `nil` takes
        /// `WeightSource.defaultDType(on:)`. Fits are computed in float64.
        public var dtype: DType?
        /// Version of Minima, for the record.
        public var version: String
        /// Tokens that run through a layer at once.
        public var tokensPerPass: Int
        /// Bytes up to which the output's weights are one file; above, every decoder layer has its
        /// own.
        public var largestFile = 2 << 30

        /// A request.
        public init(
            plan: CompressionPlan, sources: [CalibrationSource], seed: UInt64 = 0,
            compensation: Compensation = .off, ridge: Double = 0.01,
            statistics: StatisticsStore? = nil, device: Device, dtype: DType? = nil,
            version: String, tokensPerPass: Int? = nil
        ) {
            self.plan = plan
            self.sources = sources
            self.seed = seed
            self.compensation = compensation
            self.ridge = ridge
            self.statistics = statistics
            self.device = device
            self.dtype = dtype
            self.version = version
            self.tokensPerPass = max(tokensPerPass ?? (device == .cpu ? 2048 : 32_768), 1)
        }
    }

    private let source: any WeightSource
    private let request: Request
    private let dtype: DType
    private let planned: PlannedModel
    /// What this takes at its peak.
    public let requirements: CompressionRequirements

    /// Checks the plan against the model; nothing is computed or written yet.
    ///
    /// - Throws: `StageError` for a model that is compressed already and for missing calibration
    ///   text, `CompressionError` for a plan that is not for this model, `CheckpointError` for
    ///   tensors that are not those of the configuration's model.
    public init(_ source: any WeightSource, _ request: Request) throws {
        self.source = source
        self.request = request
        dtype = try request.dtype ?? source.defaultDType(on: request.device)
        planned = try PlannedModel(request.plan, source)
        if request.compensation != .off || request.statistics == nil,
            request.sources.allSatisfy({ $0.windows.allSatisfy(\.isEmpty) })
        {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "calibration")
        }
        requirements = try CompressionRequirements(planned, request, dtype: dtype)
    }

    /// Compresses and writes the model to `output`, which appears when it is complete.
    ///
    /// - Parameters:
    ///   - fingerprints: The weights' own, where the caller has taken them already.
    ///   - progress: Called between passes, fits and files; throws to stop, after which the same
    ///     request goes on where it was.
    /// - Returns: The account that is also stored as `minima.json`.
    public func run(
        output: String, fingerprints: [String: String]? = nil,
        progress: ProgressHandler = { _ in }
    ) throws -> CompressionResult {
        let clock = ContinuousClock()
        let start = clock.now
        // The output's place is claimed before an hour of computing.
        let directory = try AtomicDirectory(destination: output)
        let fingerprints = try fingerprints ?? self.fingerprints(progress)
        try checkPlan(fingerprints)
        let hashing = (clock.now - start).totalSeconds
        let workPath = directory.destination + ".minima-work"
        try requirements.check(on: request.device, disk: directory.path, work: workPath)
        let work = try WorkDirectory(workPath, key: key(fingerprints))
        let parts = WorkParts<LayerRecord>(in: work)
        let records: [LayerRecord]
        do {
            records = try compress(into: parts, progress)
        } catch {
            // Nothing is worth keeping before the first layer is done.
            if let done = try? parts.records(), done.isEmpty { try? work.remove() }
            throw error
        }
        let writing = clock.now
        try writeWeights(from: parts, to: directory, progress)
        try writeConfiguration(to: directory)
        var result = account(fingerprints, records)
        result.phases["hash"] = hashing
        result.phases["write", default: 0] += (clock.now - writing).totalSeconds
        result.seconds = result.phases.values.sorted().reduce(0, +)
        try directory.write(result.json(), to: "minima.json")
        try directory.commit()
        try work.remove()
        return result
    }

    // MARK: Layers

    private func compress(into parts: WorkParts<LayerRecord>, _ progress: ProgressHandler) throws
        -> [LayerRecord]
    {
        var records = try parts.records()
        let total = planned.modules.count
        return try withoutActuallyEscaping(progress) { progress in
            let resumed = records.reduce(0) { $0 + $1.modules.count }
            let done = Counter(resumed)
            func report(_ note: String) throws {
                try progress(
                    StageProgress(
                        stage: "decompose", done: done.value, total: total, resumed: resumed,
                        unit: "layers", note: note))
            }
            var compressor = try LayerCompressor(planned, request, dtype: dtype) { note in
                try report(note)
            }
            try compressor.resume(
                dense: parts.chain(
                    "dense", boundary: records.count, batches: compressor.batches),
                compressed: parts.chain(
                    "compressed", boundary: records.count, batches: compressor.batches))
            // The last part is what stands around the layers.
            for part in records.count..<planned.parts.count {
                let isLayer = part < planned.layers.count
                let name = isLayer ? "layer \(part)" : "the rest"
                var result =
                    try isLayer
                    ? compressor.compress(part) { done.value += $0 }
                    : compressor.compressHead { done.value += $0 }
                try report("writing \(name)")
                let clock = ContinuousClock()
                let start = clock.now
                try writePart(part, result.tensors, to: parts)
                result.record.phases["write"] = (clock.now - start).totalSeconds
                let chains = [
                    ("dense", compressor.dense), ("compressed", compressor.compressed),
                ].compactMap { name, chain in chain.map { (name: name, chain: $0) } }
                try parts.save(chains)
                try parts.finish(part, result.record)
                parts.forget(before: chains)
                records.append(result.record)
                try report("\(name) done")
            }
            return records
        }
    }

    /// Modules done, shared with the closure that reports them.
    private final class Counter {
        var value: Int
        init(_ value: Int) { self.value = value }
    }

    /// Writes part `index` of the output: compressed modules from `tensors`, the rest bit by bit.
    private func writePart(
        _ index: Int, _ tensors: [(name: String, tensor: Tensor)],
        to parts: WorkParts<LayerRecord>
    ) throws {
        let compressed = Dictionary(
            tensors.map { (JSON.Name($0.name), $0.tensor) }, uniquingKeysWith: { $1 })
        try parts.writeTensors(index, planned.parts[index]) { writer in
            for item in planned.parts[index] {
                let tensor =
                    try compressed[JSON.Name(item.name)]
                    ?? source.tensor(item.name, shape: item.shape, on: request.device)
                try tensor.withBytes { (bytes) throws(CheckpointError) in
                    try writer.write(bytes, to: item.name)
                }
            }
        }
    }

    // MARK: Output

    private func writeWeights(
        from parts: WorkParts<LayerRecord>, to directory: AtomicDirectory,
        _ progress: ProgressHandler
    ) throws {
        let count = planned.parts.count
        func report(_ done: Int) throws {
            try progress(StageProgress(stage: "write", done: done, total: count, unit: "files"))
        }
        try report(0)
        let size = StoredModel.size(planned.parts.joined())
        guard size.bytes > request.largestFile else {
            let writer = try SafetensorsWriter(
                in: directory, tensors: Array(planned.parts.joined()), maxShardBytes: .max)
            for index in planned.parts.indices {
                let file = try SafetensorsFile(path: parts.tensorsPath(index))
                for tensor in file.tensors {
                    try file.withUnsafeBytes(of: tensor.name) { bytes in
                        try writer.write(bytes, to: tensor.name)
                    }
                }
                try report(index + 1)
            }
            return try writer.finish()
        }
        var places: [(JSON.Name, JSON)] = []
        for index in planned.parts.indices {
            let name = SafetensorsWriter.fileName(shard: index, of: count)
            try parts.directory.link(parts.tensorsPath(index), into: directory, as: name)
            places += planned.parts[index].map { (JSON.Name($0.name), .string(name)) }
            try report(index + 1)
        }
        let index = JSON.object([
            "metadata": ["total_size": .integer(Int64(size.bytes))],
            "weight_map": .object(.init(places, uniquingKeysWith: { first, _ in first })),
        ])
        try directory.write(
            index.text(sortedKeys: true) + "\n", to: "model.safetensors.index.json")
    }

    /// `config.json` with the formats of the compressed modules, and every file beside the weights.
    private func writeConfiguration(to directory: AtomicDirectory) throws {
        var manifest = CompressionManifest()
        for module in planned.modules { manifest.modules[module.entry.name] = module.entry.spec }
        // A type that is not known stays as the file names it: nothing was computed in it.
        let type = try? source.storedDType()
        let json = try type.map { try source.config.json(storing: $0) } ?? source.config.json
        var config = json.object ?? [:]
        config["quantization_config"] = manifest.json
        if planned.head != nil, try source.config.tieWordEmbeddings == true {
            config["tie_word_embeddings"] = .bool(false)
        }
        try directory.write(JSON.object(config).text() + "\n", to: "config.json")
        for name in try (source as? Checkpoint)?.companionFiles() ?? [] {
            try directory.copy("\(source.path)/\(name)", to: name)
        }
    }

    // MARK: Provenance

    private func fingerprints(_ progress: ProgressHandler) throws -> [String: String] {
        try source.fingerprints { done, total in
            try progress(StageProgress(stage: "hash", done: done, total: total, unit: "files"))
        }
    }

    private func checkPlan(_ fingerprints: [String: String]) throws {
        let planned = request.plan.fingerprints
        guard planned.isEmpty || planned == fingerprints else {
            throw CompressionError.otherWeights(
                model: source.path, planned: request.plan.model)
        }
    }

    /// SHA-256 of everything that the output depends on.
    private func key(_ fingerprints: [String: String]) throws -> String {
        var hash = SHA256()
        func add(_ text: String) {
            Array("\(text.utf8.count) \(text)".utf8).withUnsafeBytes { hash.update($0) }
        }
        add(try request.plan.json())
        for (name, value) in fingerprints.sorted(by: { $0.key < $1.key }) { add(name + value) }
        add(source.config.json.text(sortedKeys: true))
        add(TokenBatch.hash(request.sources))
        for source in request.sources { add("\(source.windows.count) \(source.weight)") }
        add("\(request.compensation) \(request.ridge) \(request.tokensPerPass)")
        add(request.statistics?.key ?? "")
        add("\(request.device) \(dtype) \(Torch.neededVersion) \(request.version)")
        return hash.hexadecimalDigest()
    }

    /// What the output projection adds to the model; a tied one stays as the embedding.
    private var headChange: (parameters: Int, bytes: Int) {
        guard let head = planned.head else { return (0, 0) }
        let bytes = StoredModel.size(head.modules.flatMap(\.tensors)).bytes
        guard planned.stored.storesHead else { return (head.site.parameters, bytes) }
        let dtype = planned.stored.dtype(of: head.site.members[0])
        return (0, bytes - head.site.parameters * dtype.byteCount)
    }

    private func account(_ fingerprints: [String: String], _ records: [LayerRecord])
        -> CompressionResult
    {
        let sites = planned.stored.sites
        let before = planned.stored.size
        let after = StoredModel.size(planned.parts.joined())
        let linear = sites.reduce(0) { $0 + $1.parameters }
        // Packed codes are counted as the numbers that they stand for.
        let modules = records.flatMap(\.modules)
        let change = modules.filter { $0.name != LinearShape.headName }
            .reduce(0) { $0 + $1.parameters - $1.outputs * $1.inputs }
        let head = headChange
        let members = sites.flatMap(\.members)
        // As they are read, which is what the output keeps of them.
        let linearBytes = members.reduce(0) {
            $0 + $1.outputs * $1.inputs * planned.stored.dtype(of: $1).byteCount
        }
        var result = CompressionResult(
            version: request.version, parent: source.path, parentHashes: fingerprints,
            plan: request.plan, device: "\(request.device)", dtype: "\(dtype)",
            torch: Torch.neededVersion,
            calibration: Calibration(
                sources: request.sources.map {
                    .init(name: $0.name, windows: $0.windows.count, weight: $0.weight)
                },
                context: request.sources.flatMap(\.windows).map(\.count).max() ?? 0,
                gradientWindows: 0, seed: request.seed, hash: TokenBatch.hash(request.sources)),
            compensation: "\(request.compensation)", ridge: request.ridge,
            totals: CompressionResult.Totals(
                linearParametersBefore: linear,
                linearParametersAfter: linear + change,
                linearBytesBefore: members.reduce(0) { $0 + planned.stored.storedBytes(of: $1) },
                linearBytesAfter: linearBytes + after.bytes - before.bytes - head.bytes,
                parametersBefore: before.parameters,
                parametersAfter: before.parameters + change + head.parameters,
                bytesBefore: planned.stored.storedBytes, bytesAfter: after.bytes),
            seconds: 0, phases: [:],
            peakDeviceBytes: records.compactMap(\.peakDeviceBytes).max(), modules: modules)
        for record in records {
            result.phases.merge(record.phases, uniquingKeysWith: +)
        }
        return result
    }
}
