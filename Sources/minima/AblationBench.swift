import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaStages
import MinimaTensor
import MinimaTokenizer

/// A way to compress.
struct AblationWay {
    /// `parameters` or `bytes`: what is equal among the ways it is compared with.
    var equal: String
    var name: String
    var target: PlanTarget
    /// Formats of a learned plan; `nil` for a uniform one.
    var formats: [String]?
    /// The format of a uniform plan.
    var uniform = LowRank.name
    var cuts: [String] = []
    /// Whether modules are fitted under the gradients' moments, too, and make up for each other.
    var isFittedTogether = true
    /// Bits that the cores of the plan are then quantised to.
    var coreBits: Int?
    /// The target whose size the way has where it is not its own.
    var size: PlanTarget?

    /// The paper's ablation and its rivals.
    static func all(ratio: Double, dtype: DType) -> [AblationWay] {
        let equal = PlanTarget.ratio(ratio)
        let bits = Double(dtype.byteCount * 8) * (1 - ratio)
        let rivals = [LowRank.name, Interpolative.name]
        let mixed = ["tn"] + rivals
        func parameters(_ name: String, _ formats: [String]?, cuts: [String] = []) -> AblationWay {
            AblationWay(
                equal: "parameters", name: name, target: equal, formats: formats, cuts: cuts)
        }
        func bytes(_ bits: Double) -> [AblationWay] {
            let size = PlanTarget.bitsPerWeight(bits)
            let learned = [
                ("tensor networks", ["tn"]), ("all factored", mixed), ("quantised dense", ["int"]),
                ("everything", []),
            ].map { name, formats in
                AblationWay(
                    equal: "bytes", name: "\(name) at \(fixed(bits, 2)) bits", target: size,
                    formats: formats)
            }
            // int8 codes in groups of 64 take 8.125 bits, pivots a little.
            let kept = bits / 8.2
            guard kept < 1 else { return learned }
            return [
                AblationWay(
                    equal: "bytes", name: "factored, int8 cores, at \(fixed(bits, 2)) bits",
                    target: .ratio(1 - kept), formats: rivals, coreBits: 8, size: size)
            ] + learned
        }
        // Rounding the cores of a tensor network takes minutes per weight; these are as good.
        var quantized = parameters("+ quantised cores (int8)", rivals)
        quantized.coreBits = 8
        return [
            AblationWay(
                equal: "parameters", name: "uniform ranks", target: equal, isFittedTogether: false),
            parameters("uniform ranks, two-sided and compensated", nil),
            AblationWay(
                equal: "parameters", name: "uniform ranks, interpolative", target: equal,
                uniform: Interpolative.name, isFittedTogether: false),
            parameters("+ sensitivity", [LowRank.name], cuts: ["members"]),
            parameters("+ mixed families (tensor networks)", ["tn"]),
            parameters("+ mixed families (all factored)", mixed),
        ]
            + [Tucker.name, TensorTrain.name, TensorRing.name, Interpolative.name]
            .map { parameters("only \($0)", [$0]) } + [quantized]
            + bytes(bits) + [4.5, 3.5].filter { $0 < bits }.flatMap(bytes)
    }
}

/// Plans, compresses and measures one model again and again.
struct AblationBench {
    let analysis: Analysis
    private let options: Ablate
    private let device: Device
    private let source: Checkpoint
    private let dense: any LanguageModel
    private let fingerprints: [String: String]
    private let sources: [CalibrationSource]
    private let statistics: StatisticsStore
    private let context: Int
    private let texts: [(name: String, windows: [[Int32]])]
    private let progress = ProgressLine()
    private let baseline: [String: Evaluator.Measurement]

    init(_ options: Ablate, _ device: Device) throws {
        self.options = options
        self.device = device
        source = try Checkpoint(path: options.model)
        if let keep = options.keep {
            try FileManager.default.createDirectory(
                atPath: keep, withIntermediateDirectories: true)
        }
        analysis = try readResult(Analysis.self, analysisFile(options.analysis))
        let progress = progress
        fingerprints = try source.fingerprints { done, total in
            try progress.show(
                StageProgress(stage: "hash", done: done, total: total, unit: "files"))
        }
        statistics = try openStatistics(options.analysis, source, fingerprints)
        sources = try options.calibration.read(source, options.compute, device, progress).sources
        let window = try options.window ?? min(1024, source.config.int("max_position_embeddings"))
        context = window
        let tokenizer = try Tokenizer(directory: options.model)
        texts = try options.text.map { path in
            let ids = try readTokens([path], tokenizer)
            let windows = TokenWindows.split(ids, context: window, keepRest: true)
            return (path, Array(windows.prefix(options.windows ?? .max)))
        }
        let dense = try source.loadModel(
            device: device, dtype: options.compute.dtype, onTensor: checkInterrupt)
        self.dense = dense
        var baseline: [String: Evaluator.Measurement] = [:]
        for (name, windows) in texts {
            baseline[name] = try Evaluator(dense).measure(windows, progress: progress.show)
        }
        self.baseline = baseline
    }

    /// Measures one way; `nil` where its target cannot be met.
    func measure(_ way: AblationWay) throws -> AblationResult.Row? {
        let clock = ContinuousClock()
        let start = clock.now
        let plan: CompressionPlan
        do {
            plan = try self.plan(way)
        } catch {
            guard case .infeasible? = error as? StageError else { throw error }
            Terminal.write("minima: \(way.equal), \(way.name): \(error)")
            return nil
        }
        let root = options.keep ?? FileManager.default.temporaryDirectory.path
        let label = "\(way.equal) \(way.name)".filter { $0.isLetter || $0.isNumber || $0 == " " }
        let output =
            options.keep == nil
            ? "\(root)/minima-ablate-\(UUID().uuidString)"
            : "\(root)/" + label.split(separator: " ").joined(separator: "-")
        defer {
            // The second one is what a run that failed would go on from.
            for path in [output, output + ".minima-work"] where options.keep == nil {
                try? FileManager.default.removeItem(atPath: path)
            }
        }
        let result = try Compressor(
            source,
            Compressor.Request(
                plan: plan, sources: sources, seed: options.calibration.seed,
                compensation: way.isFittedTogether ? options.compensation : .off,
                statistics: way.isFittedTogether ? statistics : nil, device: device,
                dtype: options.compute.dtype, version: Minima.versionNumber)
        ).run(output: output, fingerprints: fingerprints, progress: progress.show)
        let seconds = (clock.now - start).totalSeconds
        let model = try Checkpoint(path: output).loadModel(
            device: device, dtype: options.compute.dtype, onTensor: checkInterrupt)
        var row = AblationResult.Row(
            equal: way.equal, name: way.name, target: "\(way.size ?? way.target)", formats: [:],
            parameters: result.totals.linearParametersAfter, bytes: result.totals.linearBytesAfter,
            predicted: plan.damage, perplexity: [:], divergence: [:], seconds: seconds)
        for module in result.modules { row.formats[module.spec.title, default: 0] += 1 }
        for (name, windows) in texts {
            let sum = try Evaluator(model, against: dense).measure(
                windows, progress: progress.show)
            row.perplexity[name] = sum.perplexity
            row.divergence[name] = sum.kl
        }
        return row
    }

    private func plan(_ way: AblationWay) throws -> CompressionPlan {
        guard let formats = way.formats else {
            return try .uniform(
                source, ratio: options.ratio, format: way.uniform, version: Minima.versionNumber)
        }
        var plan = try Planner(analysis).plan(
            Planner.Request(
                target: way.target, formats: FormatFilter(formats), cuts: way.cuts,
                version: Minima.versionNumber)
        ).plan
        guard let bits = way.coreBits else { return plan }
        for index in plan.modules.indices {
            var module = plan.modules[index]
            let before = (module.parameters, module.bytes)
            module.spec = module.spec.quantized(bits: bits)
            let format = try FormatRegistry.format(module.spec.format)
            module.parameters = try format.parameterCount(
                module.spec, outputs: module.outputs, inputs: module.inputs)
            module.bytes = try format.byteCount(
                module.spec, outputs: module.outputs, inputs: module.inputs, dtype: analysis.dtype)
            module.damage = nil
            plan.linearParametersAfter += module.parameters - before.0
            plan.linearBytesAfter += module.bytes - before.1
            plan.modules[index] = module
        }
        plan.damage = nil
        return plan
    }

    /// One line for a terminal.
    func line(_ row: AblationResult.Row) -> String {
        let measured = texts.map { name, _ in
            "\(fixed(row.perplexity[name] ?? .nan, 3)) (KL \(fixed(row.divergence[name] ?? .nan, 4)))"
        }.joined(separator: "  ")
        let formats = row.formats.sorted { ($1.value, $0.key) < ($0.value, $1.key) }.prefix(4)
            .map { "\($0.value) × \($0.key)" }.joined(separator: ", ")
        let bits = Double(row.bytes) * 8 / Double(analysis.linearParameters)
        return "equal \(row.equal): \(row.name): \(measured), \(grouped(row.parameters)) numbers, "
            + "\(fixed(bits, 2)) bits per weight; \(formats)"
    }

    func result(_ rows: [AblationResult.Row]) -> AblationResult {
        AblationResult(
            model: options.model, ratio: options.ratio,
            linearParameters: analysis.linearParameters,
            linearBytes: analysis.linearParameters * analysis.dtype.byteCount, context: context,
            tokens: baseline.mapValues(\.tokens), densePerplexity: baseline.mapValues(\.perplexity),
            device: "\(device)", dtype: "\(dense.dtype)", rows: rows)
    }
}

extension FormatSpec {
    /// This format with its cores quantised; what is dense or quantised already stays.
    fileprivate func quantized(bits: Int) -> FormatSpec {
        switch format {
        case Dense.name, Quantized.name: return self
        case Blocks.name, Sum.name:
            var spec = self
            spec.parts = parts.map { $0.quantized(bits: bits) }
            return spec
        default:
            return FormatSpec(format: Quantized.name, bits: bits, groupSize: 64, parts: [self])
        }
    }
}

/// What an analysis kept beside its account, for the weights that it was made of.
func openStatistics(_ path: String, _ source: any WeightSource, _ fingerprints: [String: String])
    throws -> StatisticsStore
{
    let analysis = try readResult(Analysis.self, analysisFile(path))
    guard analysis.fingerprints == fingerprints else {
        throw FileError(
            path: path,
            reason: "an analysis of \(analysis.model), not of \(source.path); analyze this model")
    }
    let file = analysisFile(path)
    let directory = file.lastIndex(of: "/").map { String(file[..<$0]) } ?? "."
    let sites = try source.sites()
    let store = StatisticsStore(
        directory: directory + "/statistics", key: analysis.statisticsKey, sites: sites)
    // Without this, a layer whose file is gone would be fitted without H, in silence.
    for layer in Set(sites.map(\.layer)).sorted() where !store.holds(layer: layer) {
        throw FileError(
            path: store.directory,
            reason: "the statistics of layer \(layer) are missing or of another analysis; "
                + "analyze this model again")
    }
    return store
}
