import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor
import MinimaTokenizer

/// Which model is worked on.
struct SourceOptions: ParsableArguments {
    @Argument(help: "Dense model directory.", completion: .directory)
    var model: String

    @Option(
        help: """
            Seed of random weights in place of the model's: only config.json is read, to measure time \
            and memory at its size.
            """)
    var randomWeights: UInt64?

    func open() throws -> any WeightSource {
        if let randomWeights { return try RandomWeights(path: model, seed: randomWeights) }
        return try Checkpoint(path: model)
    }
}

/// What a model is calibrated on.
struct CalibrationOptions: ParsableArguments {
    @Option(
        parsing: .upToNextOption,
        help: """
            Text files to calibrate on; `self`: text that the model writes itself; `random`: random \
            tokens.
            """,
        completion: .file())
    var calibration: [String]

    @Option(
        parsing: .upToNextOption,
        help: "Share of each text in the statistics, in the order of --calibration. Default: equal."
    )
    var shares: [Double] = []

    @Option(help: "Calibration windows.")
    var samples = 64

    @Option(help: "Tokens per calibration window. Default: 512, or the model's context if shorter.")
    var context: Int?

    @Option(help: "Seed of sampled text and labels.")
    var seed: UInt64 = 0

    func validate() throws {
        guard (1...1 << 20).contains(samples) else {
            throw ValidationError("--samples must be between 1 and \(1 << 20)")
        }
        if let context, !(2...1 << 24).contains(context) {
            throw ValidationError("--context must be between 2 and \(1 << 24)")
        }
        guard !calibration.isEmpty else {
            throw ValidationError("--calibration needs text files, `self` or `random`")
        }
        for word in ["self", "random"] where calibration.contains(word) {
            guard calibration == [word] else {
                throw ValidationError("--calibration takes either `\(word)` or files, not both")
            }
        }
        guard shares.isEmpty || shares.count == calibration.count else {
            throw ValidationError(
                "--shares needs a number for each of the \(calibration.count) texts, found "
                    + "\(shares.count)")
        }
        guard shares.allSatisfy({ (1e-6...1e6).contains($0) }) else {
            throw ValidationError("--shares must be between 0.000001 and 1000000")
        }
    }

    /// Windows of tokens, and how many each has.
    func read(
        _ source: any WeightSource, _ compute: ComputeOptions, _ device: Device,
        _ progress: ProgressLine
    ) throws -> (sources: [CalibrationSource], context: Int) {
        let limit = try source.config.int("max_position_embeddings")
        if let context, context > limit {
            throw ModelError.contextExceeded(length: context, context: limit)
        }
        let length = context ?? min(512, limit)
        switch calibration {
        case ["self"]:
            let loaded = try source.loadModel(
                device: device, dtype: compute.dtype, onTensor: checkInterrupt)
            let windows = try TextGenerator(loaded).sample(
                count: samples, length: length, start: try source.config.documentStart(),
                sampling: SamplingParameters(temperature: 1, seed: seed), batch: min(samples, 64),
                progress: progress.show)
            return ([CalibrationSource(name: "self", windows: windows)], length)
        case ["random"]:
            let windows = TokenWindows.random(
                count: samples, length: length, vocabulary: try source.config.int("vocab_size"),
                seed: seed)
            return ([CalibrationSource(name: "random", windows: windows)], length)
        default: return (try texts(source.path, length), length)
        }
    }

    /// Windows of each text in proportion to its share; a text that is too short for its share has
    /// its tokens weigh more.
    private func texts(_ model: String, _ length: Int) throws -> [CalibrationSource] {
        let tokens = try readTokens(calibration, Tokenizer(directory: model))
        let shares = shares.isEmpty ? calibration.map { _ in 1 } : shares
        let total = shares.reduce(0, +)
        var sources: [CalibrationSource] = []
        for (position, (name, ids)) in zip(calibration, tokens).enumerated() {
            let all = TokenWindows.split([ids], context: length, keepRest: false)
            guard !all.isEmpty else {
                throw FileError(
                    path: name,
                    reason:
                        "\(ids.count) tokens do not fill one window of \(length); give a longer "
                        + "text or a smaller --context")
            }
            let wanted = Double(samples) * shares[position] / total
            let windows = TokenWindows.spread(all, count: max(Int(wanted.rounded()), 1))
            sources.append(
                CalibrationSource(
                    name: name, windows: windows, weight: wanted / Double(windows.count)))
        }
        let count = sources.reduce(0) { $0 + $1.windows.count }
        if count < samples {
            Terminal.write(
                "minima: warning: the calibration texts give \(count) windows of \(length) "
                    + "tokens, \(samples) were asked for")
        }
        return sources
    }
}
