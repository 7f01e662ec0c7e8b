import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor
import MinimaTokenizer

struct Compress: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes a smaller model: every linear layer at one ratio, in one format.",
        discussion: """
            The output is a Hugging Face directory with the factors in place of the weights. It \
            appears when it is complete; an interrupted run leaves nothing behind.
            """)

    @Argument(help: "Dense model directory.", completion: .directory)
    var model: String

    @Option(help: "Directory to write; must not exist or be empty.", completion: .directory)
    var out: String

    @Option(help: "Share of the linear layers' parameters to remove, between 0 and 1.")
    var ratio: Double

    /// Formats that make a weight smaller.
    private static var formats: [String] {
        FormatRegistry.all.map { $0.name }.filter { $0 != Dense.name }
    }

    @Option(help: .init("One of: \(Compress.formats.joined(separator: ", ")).")) var format =
        LowRank.name

    @Option(
        parsing: .upToNextOption,
        help: "Text files to calibrate on, or `self`: text that the model writes itself.",
        completion: .file())
    var calibration: [String]

    @Option(help: "Calibration windows.")
    var samples = 64

    @Option(help: "Tokens per calibration window. Default: 512, or the model's context if shorter.")
    var context: Int?

    @Option(help: "Seed of text that the model writes itself.")
    var seed: UInt64 = 0

    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard ratio > 0, ratio < 1 else {
            throw ValidationError("--ratio must be between 0 and 1, found \(ratio)")
        }
        guard Compress.formats.contains(format) else {
            throw ValidationError(
                "--format must be one of \(Compress.formats.joined(separator: ", ")), found \(format)"
            )
        }
        guard (1...1 << 20).contains(samples) else {
            throw ValidationError("--samples must be between 1 and \(1 << 20)")
        }
        if let context, !(1...1 << 24).contains(context) {
            throw ValidationError("--context must be between 1 and \(1 << 24)")
        }
        guard !calibration.isEmpty else {
            throw ValidationError("--calibration needs text files, or `self`")
        }
        guard calibration == ["self"] || !calibration.contains("self") else {
            throw ValidationError("--calibration takes either `self` or files, not both")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let checkpoint = try Checkpoint(path: model)
        // The plan and the output's place are checked before anything takes time.
        _ = try Compressor(checkpoint, request(device, windows: [], context: 0))
        try AtomicDirectory(destination: out).discard()
        let progress = ProgressLine()
        let (windows, context) = try calibrationWindows(checkpoint, device, progress)
        if windows.count < samples {
            Terminal.write(
                "minima: warning: the calibration text gives \(windows.count) windows of \(context) "
                    + "tokens, \(samples) were asked for")
        }
        let compressor = try Compressor(
            checkpoint, request(device, windows: windows, context: context))
        let result = try compressor.run(output: out, progress: progress.show)
        if json { return try result.printJSON() }
        let removed =
            1 - Double(result.linearParametersAfter) / Double(result.linearParametersBefore)
        let errors = result.modules.map(\.outputError)
        try Terminal.output(
            """
            \(out): \(result.modules.count) layers as \(format)
            linear layers  \(grouped(result.linearParametersBefore)) → \
            \(grouped(result.linearParametersAfter)) parameters (−\(fixed(100 * removed, 1))%)
            whole model    \(grouped(result.parametersBefore)) → \
            \(grouped(result.parametersAfter)) parameters, \(byteText(result.bytesBefore)) → \
            \(byteText(result.bytesAfter))
            output error   mean \(fixed(100 * errors.reduce(0, +) / Double(max(errors.count, 1)), 1))%, \
            largest \(fixed(100 * (errors.max() ?? 0), 1))% of a layer's output
            took           \(duration(result.seconds))
            """)
    }

    private func request(_ device: Device, windows: [[Int32]], context: Int) -> Compressor.Request {
        Compressor.Request(
            ratio: ratio, format: format, windows: windows,
            calibration: .init(
                sources: calibration, samples: windows.count, context: context, seed: seed),
            device: device, dtype: compute.dtype, version: Minima.versionNumber)
    }

    private func calibrationWindows(
        _ checkpoint: Checkpoint, _ device: Device, _ progress: ProgressLine
    ) throws -> (windows: [[Int32]], context: Int) {
        let limit = try checkpoint.config.int("max_position_embeddings")
        if let context, context > limit {
            throw ModelError.contextExceeded(length: context, context: limit)
        }
        let length = context ?? min(512, limit)
        if calibration == ["self"] {
            let loaded = try checkpoint.loadModel(
                device: device, dtype: compute.dtype, onTensor: checkInterrupt)
            let windows = try TextGenerator(loaded).sample(
                count: samples, length: length, start: try checkpoint.documentStart(),
                sampling: SamplingParameters(temperature: 1, seed: seed), batch: min(samples, 64),
                progress: progress.show)
            return (windows, length)
        }
        let texts = try readTokens(calibration, Tokenizer(directory: model))
        let all = TokenWindows.split(texts, context: length, keepRest: false)
        guard !all.isEmpty else {
            throw StageError.tooLittleText(
                tokens: texts.reduce(0) { $0 + $1.count }, needed: length,
                purpose: "calibration with windows of \(length)")
        }
        return (TokenWindows.spread(all, count: samples), length)
    }
}
