import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaModels
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

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
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
        let result = EvaluationResult(
            model: model, against: against, text: text, context: context, tokens: sum.tokens,
            perplexity: sum.perplexity, kl: sum.kl,
            parameters: try InspectionResult(checkpoint).parameters,
            bytes: checkpoint.byteCount, device: "\(device)", dtype: "\(loaded.dtype)",
            seconds: elapsed, tokensPerSecond: Double(sum.tokens) / max(elapsed, 1e-9))
        if json { return try result.printJSON() }
        try Terminal.output("perplexity  \(fixed(result.perplexity, 3))")
        if let kl = result.kl { try Terminal.output("KL          \(fixed(kl, 5)) nats per token") }
        try Terminal.output(
            """
            tokens      \(grouped(result.tokens)) in windows of \(context)
            speed       \(short(result.tokensPerSecond)) tokens/s on \(device) in \(loaded.dtype)
            """)
    }
}
