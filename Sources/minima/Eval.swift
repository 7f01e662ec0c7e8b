import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor
import MinimaTokenizer

struct Eval: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures perplexity on a text, and the distance from a dense model.",
        discussion: """
            Each text is cut into windows that do not overlap; every token but the first of a \
            window is predicted from the window's beginning. No special tokens are added.
            """)

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(
        parsing: .upToNextOption, help: "Text files (UTF-8).", completion: .file())
    var text: [String]

    @Option(help: "Tokens per window. Default: 1024, or the model's context if shorter.")
    var context: Int?

    @Option(help: "Measure only the first windows, this many.")
    var windows: Int?

    @Option(help: "Dense model; adds the mean KL(dense ‖ model) per token.", completion: .directory)
    var against: String?

    @OptionGroup var compute: ComputeOptions
    @OptionGroup var engine: DeviceEngineOptions

    @Flag(help: "Decode token by token through the kernels that serve the model; needs a GPU.")
    var decode = false

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        if decode, against != nil {
            throw ValidationError("--decode measures perplexity only; leave out --against")
        }
        if decode, compute.dtype != nil {
            throw ValidationError("--decode computes in bfloat16; leave out --dtype")
        }
        if decode, compute.device == .cpu {
            throw ValidationError("--decode needs a GPU; leave out --decode or --device cpu")
        }
        if let context, !(2...1 << 24).contains(context) {
            throw ValidationError("--context must be between 2 and \(1 << 24)")
        }
        if let windows, windows < 1 { throw ValidationError("--windows must be at least 1") }
        guard !text.isEmpty else { throw ValidationError("--text needs at least one file") }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let checkpoint = try Checkpoint(path: model)
        let limit = try checkpoint.config.int("max_position_embeddings")
        let context = context ?? min(1024, limit)
        let tokenizer = try Tokenizer(directory: model)
        let texts = try readTokens(text, tokenizer)
        var pieces = TokenWindows.split(texts, context: context, keepRest: true)
        if let windows { pieces = Array(pieces.prefix(windows)) }
        if decode { return try measureDecoding(checkpoint, pieces, context, device) }
        let loaded = try checkpoint.loadModel(
            device: device, dtype: compute.dtype, onTensor: checkInterrupt)
        let dense = try against.map {
            try Checkpoint(path: $0).loadModel(
                device: device, dtype: compute.dtype, onTensor: checkInterrupt)
        }
        let evaluator = try Evaluator(loaded, against: dense)
        let progress = ProgressLine()
        let clock = ContinuousClock()
        let started = clock.now
        let sum = try evaluator.measure(pieces, progress: progress.show)
        let elapsed = (clock.now - started).totalSeconds
        try show(
            EvaluationResult(
                model: model, against: against, text: text, context: context, tokens: sum.tokens,
                perplexity: sum.perplexity, kl: sum.kl,
                parameters: try InspectionResult(checkpoint).parameters,
                bytes: checkpoint.byteCount, device: "\(device)", dtype: "\(loaded.dtype)",
                seconds: elapsed, tokensPerSecond: Double(sum.tokens) / max(elapsed, 1e-9)))
    }

    /// Windows that are decoded at one time.
    private static let decodedWindows = 64

    private func measureDecoding(
        _ checkpoint: Checkpoint, _ windows: [[Int32]], _ context: Int, _ device: Device
    ) throws {
        let given = windows.reduce(0) { $0 + $1.count }
        let windows = windows.filter { $0.count >= 2 }
        guard !windows.isEmpty else {
            throw StageError.tooLittleText(tokens: given, needed: 2, purpose: "evaluation")
        }
        let progress = ProgressLine()
        let kernels = try engine.kernels(on: device)
        let backend = try CUDABackend(
            checkpoint,
            layout: CUDALayout(
                slots: min(windows.count, Self.decodedWindows), context: context,
                format: engine.kvDtype.format),
            kernels: kernels, onProgress: progress.show)
        let vocabulary = backend.capacity.vocabulary
        if let id = windows.joined().first(where: { !(0..<vocabulary).contains(Int($0)) }) {
            throw ModelError.tokenOutOfRange(id: id, vocabulary: vocabulary)
        }
        let clock = ContinuousClock()
        let started = clock.now
        let (nats, tokens) = try DecodeEvaluator(backend).measure(windows, progress: progress.show)
        let elapsed = (clock.now - started).totalSeconds
        try show(
            EvaluationResult(
                model: model, against: nil, text: text, context: context, tokens: tokens,
                perplexity: exp(nats / Double(tokens)), kl: nil,
                parameters: try InspectionResult(checkpoint).parameters,
                bytes: checkpoint.byteCount, device: "\(device)",
                dtype: "\(DType.bfloat16), KV \(engine.kvDtype)", seconds: elapsed,
                tokensPerSecond: Double(tokens) / max(elapsed, 1e-9)))
    }

    private func show(_ result: EvaluationResult) throws {
        if json { return try result.printJSON() }
        try Terminal.output("perplexity  \(fixed(result.perplexity, 3))")
        if let kl = result.kl { try Terminal.output("KL          \(fixed(kl, 5)) nats per token") }
        try Terminal.output(
            """
            tokens      \(grouped(result.tokens)) in windows of \(result.context)
            speed       \(short(result.tokensPerSecond)) tokens/s on \(result.device) in \(result.dtype)
            """)
    }
}
