import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Compresses every linear layer of a dense checkpoint at one ratio and in one format.
///
/// Weights are read, decomposed and written one by one: besides the second moments, memory holds
/// one matrix and its factors.
public struct Compressor {
    /// What to do.
    public struct Request: Sendable {
        /// Share of each layer's parameters to remove, between 0 and 1.
        public var ratio: Double
        /// Registered format.
        public var format: String
        /// Windows of calibration tokens.
        public var windows: [[Int32]]
        /// Where those came from, for the record.
        public var calibration: CompressionResult.Calibration
        /// Where to compute.
        public var device: Device
        /// The type that the model computes in while it is calibrated; `nil` takes
        /// `Checkpoint.defaultDType(on:)`. Decompositions are computed in float64.
        public var dtype: DType?
        /// Version of Minima, for the record.
        public var version: String

        /// A request.
        public init(
            ratio: Double, format: String, windows: [[Int32]],
            calibration: CompressionResult.Calibration, device: Device, dtype: DType? = nil,
            version: String
        ) {
            self.ratio = ratio
            self.format = format
            self.windows = windows
            self.calibration = calibration
            self.device = device
            self.dtype = dtype
            self.version = version
        }
    }

    private let parent: Checkpoint
    private let request: Request
    private let dtype: DType
    private let format: any LinearWeight.Type
    /// Layers that are compressed, and how, by name of the weight's tensor.
    private let plan: [JSON.Name: (shape: LinearShape, spec: FormatSpec)]

    /// Plans the compression of `parent`; nothing is computed or written yet.
    ///
    /// - Throws: `StageError` for a checkpoint that is compressed already, a ratio out of range or
    ///   one that a layer cannot reach in this format; `CheckpointError` for tensors that are not
    ///   those of the configuration's model.
    public init(_ parent: Checkpoint, _ request: Request) throws {
        guard try CompressionManifest(parent.config).modules.isEmpty else {
            throw StageError.alreadyCompressed(path: parent.path)
        }
        guard request.ratio > 0, request.ratio < 1 else {
            throw StageError.badRatio(request.ratio)
        }
        self.parent = parent
        self.request = request
        dtype = try request.dtype ?? parent.defaultDType(on: request.device)
        format = try FormatRegistry.format(request.format)
        try parent.checkModel()
        var plan: [JSON.Name: (shape: LinearShape, spec: FormatSpec)] = [:]
        for shape in try FamilyRegistry.family(parent.config).linearShapes(parent.config) {
            let budget = Int((1 - request.ratio) * Double(shape.outputs * shape.inputs))
            do {
                let spec = try format.spec(
                    fitting: budget, outputs: shape.outputs, inputs: shape.inputs)
                plan[JSON.Name("\(shape.name).weight")] = (shape, spec)
            } catch {
                throw StageError.moduleTooSmall(name: shape.name, reason: "\(error)")
            }
        }
        self.plan = plan
    }

    /// Calibrates, decomposes and writes the checkpoint to `output`, which appears when complete.
    public func run(output: String, progress: ProgressHandler = { _ in }) throws
        -> CompressionResult
    {
        let clock = ContinuousClock()
        let started = clock.now
        try SecondMoments.checkMemory(parent, dtype: dtype, on: request.device)
        // The output's place is claimed before an hour of computing, which must not end at a full
        // disk.
        let directory = try AtomicDirectory(destination: output)
        let descriptions = try descriptions()
        let writer = try SafetensorsWriter(in: directory, tensors: descriptions)
        let moments = try calibrate(progress)
        var result = CompressionResult(
            version: request.version, parent: parent.path,
            parentHashes: try hashes(progress), format: request.format, ratio: request.ratio,
            device: "\(request.device)", dtype: "\(dtype)", torch: Torch.neededVersion,
            calibration: request.calibration, linearParametersBefore: 0,
            linearParametersAfter: 0,
            parametersBefore: parent.tensors.reduce(0) { $0 + $1.elementCount },
            parametersAfter: Saturating.sum(descriptions.map { Saturating.product($0.shape) }),
            bytesBefore: parent.byteCount, bytesAfter: writer.totalBytes, seconds: 0,
            modules: [])
        for tensor in parent.tensors {
            guard let (shape, spec) = plan[JSON.Name(tensor.name)] else {
                try parent.bytes(of: tensor.name).withUnsafeBytes {
                    (bytes) throws(CheckpointError) in try writer.write(bytes, to: tensor.name)
                }
                continue
            }
            let module = try compress(shape, spec, moments, to: writer)
            result.modules.append(module)
            result.linearParametersBefore += shape.outputs * shape.inputs
            result.linearParametersAfter += module.parameters
            try progress(
                StageProgress(
                    stage: "decompose", done: result.modules.count, total: plan.count,
                    unit: "layers",
                    note: "output error \(rounded(100 * module.outputError))%"))
        }
        try writer.finish()
        try writeConfiguration(to: directory)
        result.seconds = (clock.now - started).totalSeconds
        try directory.write(result.json(), to: "minima.json")
        try directory.commit()
        return result
    }

    /// All tensors of the output, in the order of the parent's.
    private func descriptions() throws -> [TensorDescription] {
        try parent.tensors.flatMap { tensor -> [TensorDescription] in
            guard let (shape, spec) = plan[JSON.Name(tensor.name)] else {
                return [
                    TensorDescription(name: tensor.name, dtype: tensor.dtype, shape: tensor.shape)
                ]
            }
            let layout = try format.layout(spec, outputs: shape.outputs, inputs: shape.inputs)
            return layout.map {
                TensorDescription(
                    name: "\(shape.name).\($0.name)", dtype: tensor.dtype, shape: $0.shape)
            }
        }
    }

    private func calibrate(_ progress: ProgressHandler) throws -> SecondMoments {
        var loaded = 0
        let model = try parent.loadModel(device: request.device, dtype: dtype) {
            try progress(
                StageProgress(
                    stage: "load", done: loaded, total: parent.tensors.count, unit: "tensors"))
            loaded += 1
        }
        let moments = SecondMoments()
        try moments.accumulate(model, request.windows, progress: progress)
        return moments
    }

    private func hashes(_ progress: ProgressHandler) throws -> [String: String] {
        var hashes: [String: String] = [:]
        for (index, file) in parent.files.enumerated() {
            let name = file.path.split(separator: "/").last.map(String.init) ?? file.path
            func report(_ done: Int) throws {
                try progress(
                    StageProgress(
                        stage: "hash", done: done, total: parent.files.count, unit: "files"))
            }
            hashes[name] = try file.sha256 { try report(index) }
            try report(index + 1)
        }
        return hashes
    }

    private func compress(
        _ shape: LinearShape, _ spec: FormatSpec, _ moments: SecondMoments,
        to writer: SafetensorsWriter
    ) throws -> CompressionResult.Module {
        let stored = try parent.tensor("\(shape.name).weight")
        let weight = try stored.to(request.device)
        guard let moment = try moments.moment(shape.name) else {
            throw StageError.tooLittleText(
                tokens: 0, needed: 1, purpose: "the calibration of \(shape.name)")
        }
        let metric = try InputMetric(secondMoment: moment)
        let compressed = try withoutGradients {
            try format.decompose(weight, spec: spec, metric: metric)
        }
        for (name, tensor) in compressed.tensors {
            // Rounding is part of the result: errors below are those of the stored numbers.
            try tensor.to(dtype: stored.dtype).withBytes { (bytes) throws(CheckpointError) in
                try writer.write(bytes, to: "\(shape.name).\(name)")
            }
        }
        let exact = try weight.to(dtype: .float64)
        let difference = try compressed.reconstruct().to(dtype: .float64) - exact
        return CompressionResult.Module(
            name: shape.name, outputs: shape.outputs, inputs: shape.inputs, spec: spec,
            parameters: compressed.parameterCount,
            weightError: try difference.norm().item() / Swift.max(exact.norm().item(), 1e-300),
            outputError: try metric.norm(difference) / Swift.max(metric.norm(exact), 1e-300))
    }

    /// `config.json` with the formats of the compressed layers, and every file beside the weights.
    private func writeConfiguration(to directory: AtomicDirectory) throws {
        var manifest = CompressionManifest()
        for (shape, spec) in plan.values { manifest.modules[shape.name] = spec }
        var config = parent.config.json.object ?? [:]
        config["quantization_config"] = manifest.json
        try directory.write(JSON.object(config).text() + "\n", to: "config.json")
        for name in try parent.companionFiles() {
            try directory.copy("\(parent.path)/\(name)", to: name)
        }
    }
}
