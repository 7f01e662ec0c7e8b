import ArgumentParser
import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor
import MinimaTokenizer

struct Draft: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Makes the small models that guess what a model will say.",
        subcommands: [DraftTrain.self, DraftCompress.self])
}

struct DraftTrain: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "train",
        abstract: "Trains an EAGLE-3 draft for a model, dense or compressed.",
        discussion: """
            The draft is one decoder layer that reads three of the model's and guesses its next tokens. \
            It is written in the layout that SGLang and vLLM read. While it trains, the shares of \
            guesses that are right are shown place by place, and τ, the tokens that a step of the model \
            would make. A run that was killed goes on where it was.
            """)

    @Argument(help: "Directory of the model that the draft is for.", completion: .directory)
    var target: String

    @Option(
        parsing: .upToNextOption,
        help: """
            Texts to train on: UTF-8 with NUL bytes between documents, JSON Lines (.jsonl) of "text" or \
            of "prompt" and "completion"; or `self`: text that the model writes itself.
            """,
        completion: .file())
    var text: [String]

    @Option(help: "Directory to write.", completion: .directory)
    var out: String

    @OptionGroup(title: "Text") var data: DraftTextOptions
    @OptionGroup(title: "Training") var training: DraftTrainingOptions
    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        try checkTexts(text)
        guard text != ["self"] || data.regenerate == nil else {
            throw ValidationError("--regenerate needs texts to begin with, not `self`")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let progress = ProgressLine()
        let target = try Checkpoint(path: target)
        // The output's place is claimed before a text is written.
        try AtomicDirectory(destination: out).discard()
        let texts = try readText(target, device, progress)
        var windows = HealingText.Settings(context: try data.window(target))
        windows.heldOutWindows = 1...Self.measuredWindows
        windows.seed = training.seed
        let text = try HealingText(texts.training, heldOut: texts.heldOut, settings: windows)
        let known = try target.config.int("vocab_size")
        let vocabulary = DraftVocabulary.mostFrequent(
            of: texts.training, count: training.vocabulary ?? DraftVocabulary.usualSize,
            vocabulary: known)
        var request = DraftTraining.Request(
            text: text, vocabulary: vocabulary,
            coverage: DraftVocabulary.coverage(of: texts.training, by: vocabulary),
            settings: training.settings(
                text, hidden: try target.config.int("hidden_size"), device), device: device,
            version: Minima.versionNumber)
        request.dtype = compute.dtype
        let result = try DraftTraining(target, request).run(output: out, progress: progress.show)
        if json { return try result.printJSON() }
        try Terminal.output(result.summary(out))
    }

    /// Windows that are measured of each held-out text, at most.
    private static let measuredWindows = 64

    private func readText(_ target: Checkpoint, _ device: Device, _ progress: ProgressLine) throws
        -> (training: [TokenizedText], heldOut: [TokenizedText]?)
    {
        let start = try target.config.documentStart()
        let tokenizer = try Tokenizer(directory: target.path)
        func read(_ paths: [String]) throws -> [TokenizedText] {
            try paths.map { path in
                try TokenizedText(file: path, documentStart: start) {
                    try tokenizer.encode($0, addSpecialTokens: false)
                }
            }
        }
        let length = try data.window(target)
        let heldOut =
            try data.heldOut.isEmpty
            ? nil
            : read(data.heldOut).map { text in
                // Measured again and again: some windows of it are enough.
                let windows = TokenWindows.split([text.tokens], context: length, keepRest: false)
                guard windows.count > Self.measuredWindows else { return text }
                let some = TokenWindows.spread(windows, count: Self.measuredWindows)
                return TokenizedText(
                    name: text.name, documents: text.documents, tokens: some.joined() + [start])
            }
        let isOwn = text == ["self"]
        let texts = isOwn ? [] : try read(text)
        guard isOwn || data.regenerate != nil else { return (texts, heldOut) }
        let model = try target.loadModel(
            device: device, dtype: compute.dtype, onTensor: checkInterrupt)
        let writer = TextGenerator(model)
        let sampling = try SamplingParameters(temperature: data.temperature, seed: training.seed)
        func written(_ prompts: [[Int32]], _ name: String) throws -> TokenizedText {
            let windows = try writer.sample(
                continuing: prompts, length: length, sampling: sampling,
                batch: device == .cpu ? 32 : 256, progress: progress.show)
            // A window counts with the token after it.
            return TokenizedText(
                name: name, documents: windows.count, tokens: windows.joined() + [start])
        }
        guard let prompt = data.regenerate else {
            let starts = Array(repeating: [start], count: data.selfWindows)
            return ([try written(starts, "self")], heldOut)
        }
        func continued(_ texts: [TokenizedText], most: Int) throws -> [TokenizedText] {
            try texts.map { text in
                let windows = TokenWindows.split([text.tokens], context: length, keepRest: false)
                let prompts = TokenWindows.spread(windows, count: most / texts.count)
                    .map { Array($0.prefix(prompt)) }
                guard !prompts.isEmpty else {
                    throw HealingTextError.tooShort(
                        path: text.name, tokens: text.tokens.count, needed: length + 1)
                }
                return try written(prompts, "\(text.name), regenerated")
            }
        }
        // The short part first: it may turn out not to do.
        let measured = try heldOut.map {
            try continued($0, most: Self.measuredWindows * $0.count)
        }
        return (try continued(texts, most: max(data.selfWindows, texts.count)), measured)
    }
}

/// What a draft is trained on.
struct DraftTextOptions: ParsableArguments {
    @Option(help: "Tokens per window. Default: 512, or the model's context if shorter.")
    var window: Int?

    @Option(
        parsing: .upToNextOption,
        help: "Texts to measure on. Default: the last windows of each training text.",
        completion: .file())
    var heldOut: [String] = []

    @Option(
        help: """
            Keep so many tokens of each window and have the model write the rest: a draft learns best \
            what the model itself says.
            """)
    var regenerate: Int?

    @Option(help: "With --text self or --regenerate: windows that the model writes.")
    var selfWindows = 512

    @Option(help: "Temperature at which it writes; 0 always takes the likeliest token.")
    var temperature = 1.0

    func validate() throws {
        try checkCounts([
            ("--window", window), ("--regenerate", regenerate), ("--self-windows", selfWindows),
        ])
        guard (0...100).contains(temperature) else {
            throw ValidationError("--temperature must be between 0 and 100, found \(temperature)")
        }
    }

    func window(_ target: Checkpoint) throws -> Int {
        let limit = try target.config.int("max_position_embeddings")
        let length = window ?? min(512, limit)
        guard length <= limit else {
            throw ModelError.contextExceeded(length: length, context: limit)
        }
        if let regenerate, regenerate >= length {
            throw ValidationError(
                "--regenerate must be below the window of \(length) tokens, found \(regenerate)")
        }
        return length
    }
}

/// How a draft is trained.
struct DraftTrainingOptions: ParsableArguments {
    @Option(help: "Training tokens. Default: all of the text once.")
    var tokens: Int?

    @Option(help: "Windows per step of the optimiser. Default: 16384 tokens, on the CPU 2048.")
    var batch: Int?

    @Option(help: "Tokens that the draft can propose: the most frequent ones. Default: 32000.")
    var vocabulary: Int?

    @Option(help: "Tokens that are guessed in a row while it trains, 1 to 7.")
    var unroll = 5

    @Option(help: "Largest step size. Default: 3e-4, more below a hidden size of 2048.")
    var learningRate: Double?

    @Option(help: "What takes the steps: adamw, or muon for matrices and adamw for the rest.")
    var optimiser = TrainingSettings.Optimiser.adamW

    @Option(help: "Minutes after which training ends.")
    var minutes: Double?

    @Option(help: "Minutes from one checkpoint to the next.")
    var checkpointMinutes = 5.0

    @Option(help: "Seed of the first weights, of the order of the windows and of what is written.")
    var seed: UInt64 = 0

    func validate() throws {
        try checkCounts([("--batch", batch), ("--vocabulary", vocabulary)])
        if let tokens, tokens < 1 {
            throw ValidationError("--tokens must be at least 1, found \(tokens)")
        }
        guard (1...DraftTraining.longestUnroll).contains(unroll) else {
            throw ValidationError(
                "--unroll must be between 1 and \(DraftTraining.longestUnroll), found \(unroll)")
        }
        if let learningRate, !(learningRate > 0 && learningRate < 1) {
            throw ValidationError("--learning-rate must be between 0 and 1, found \(learningRate)")
        }
        for (name, value) in [
            ("--minutes", minutes ?? 1), ("--checkpoint-minutes", checkpointMinutes),
        ] where !(value > 0 && value <= 1e6) {
            throw ValidationError("\(name) must be positive, found \(value)")
        }
    }

    func settings(_ text: HealingText, hidden: Int, _ device: Device) -> DraftSettings {
        let window = text.settings.context
        var settings = DraftSettings(
            tokens: tokens ?? text.count * window,
            batch: batch ?? max((device == .cpu ? 2048 : 16_384) / window, 1))
        settings.unroll = unroll
        settings.learningRate = learningRate ?? DraftSettings.learningRate(hidden: hidden)
        settings.optimiser = optimiser
        settings.timeLimit = minutes.map { $0 * 60 }
        settings.checkpointInterval = checkpointMinutes * 60
        settings.seed = seed
        return settings
    }
}

struct DraftCompress: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "compress",
        abstract: "Writes a draft whose linear layers are in another format.",
        discussion: """
            Every layer takes the same bits, or loses the same share of its parameters, or both: first \
            the ratio, then the bits.
            """)

    @Argument(help: "Draft directory.", completion: .directory)
    var draft: String

    @Option(help: "Directory to write.", completion: .directory)
    var out: String

    @Option(help: "Bits of a code: 2 to 6, or 8.")
    var bits: Int?

    @Option(help: "Neighbouring weights that share a scale.")
    var groupSize = 64

    @Option(
        help: """
            Levels of the codes: normal; uniform, which decode with less arithmetic; or, with 8 bits, \
            float8 (e4m3).
            """)
    var levels = FormatSpec.Levels.normal

    @Option(help: "Share of the layers' parameters to remove, between 0 and 1.")
    var ratio: Double?

    @Option(help: "With --ratio, the format; as for `minima compress`.")
    var format = Interpolative.name

    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard bits != nil || ratio != nil else { throw ValidationError("give --bits or --ratio") }
        try checkCounts([("--bits", bits), ("--group-size", groupSize)])
        if let bits {
            var codes = CodeChoice(bits: bits)
            codes.levels = levels
            try codes.check(for: "--bits")
        }
        if let ratio, !(ratio > 0 && ratio < 1) {
            throw ValidationError("--ratio must be between 0 and 1, found \(ratio)")
        }
        if ratio != nil {
            do { _ = try budgetedFormat() } catch { throw ValidationError("--format: \(error)") }
        }
    }

    private func budgetedFormat() throws -> any BudgetedFormat.Type {
        guard let type = try FormatRegistry.format(format) as? any BudgetedFormat.Type else {
            throw ValidationError("\(format) has no specification for every ratio")
        }
        return type
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let source = try DraftWeights(Checkpoint(path: draft))
        let directory = try AtomicDirectory(destination: out)
        let found = try DraftCompression(source)(
            { _, outputs, inputs in try spec(outputs, inputs) }, device: device,
            progress: ProgressLine().show)
        try found.draft.write(to: directory)
        let result = DraftCompressionResult(
            version: Minima.versionNumber, draft: draft,
            bytesBefore: try Checkpoint(path: draft).byteCount,
            bytesAfter: try Checkpoint(path: directory.path).byteCount, errors: found.errors)
        try directory.write(result.json(), to: "minima.json")
        try directory.commit()
        if json { return try result.printJSON() }
        let errors = result.errors.values
        try Terminal.output(
            """
            \(out): \(byteText(result.bytesBefore)) → \(byteText(result.bytesAfter))
            weights' error  mean \
            \(fixed(100 * errors.reduce(0, +) / Double(max(errors.count, 1)), 1))%, largest \
            \(fixed(100 * (errors.max() ?? 0), 1))%
            """)
    }

    private func spec(_ outputs: Int, _ inputs: Int) throws -> FormatSpec {
        var spec = FormatSpec(format: Dense.name)
        if let ratio {
            spec = try budgetedFormat().spec(
                fitting: Int(Double(outputs * inputs) * (1 - ratio)), outputs: outputs,
                inputs: inputs)
        }
        guard let bits else { return spec }
        return FormatSpec(
            format: Quantized.name, bits: bits, groupSize: groupSize, levels: levels,
            parts: [spec])
    }
}

extension DraftResult {
    /// What a terminal shows.
    func summary(_ out: String) -> String {
        func shares(_ measurement: Measurement) -> String {
            measurement.acceptance.map { fixed($0, 3) }.joined(separator: " ")
        }
        var lines = [
            "\(out): a draft of \(grouped(parameters)) parameters, \(byteText(bytes)), trained on "
                + "\(grouped(phase.tokens)) tokens",
            "vocabulary   \(grouped(draftVocabulary)) tokens, "
                + "\(fixed(100 * coverage, 2))% of the text",
            "held out     loss \(fixed(before.loss, 3)) → \(fixed(after.loss, 3)) "
                + "(\(grouped(heldOutTokens)) tokens)",
            "acceptance   \(shares(before)) → \(shares(after)) by place",
            "τ            \(fixed(before.length, 2)) → \(fixed(after.length, 2)) with "
                + "\(after.acceptance.count) guesses",
            "speed        \(short(phase.tokensPerSecond)) tokens/s",
        ]
        if let peak = phase.peakDeviceBytes {
            lines.append("peak         \(byteText(peak)) on the device")
        }
        lines.append("took         \(duration(seconds))")
        return lines.joined(separator: "\n")
    }
}

/// Refuses numbers of things below 1 and above 2²⁴; what is not given is right.
private func checkCounts(_ counts: [(option: String, count: Int?)]) throws {
    for case (let option, let count?) in counts where !(1...1 << 24).contains(count) {
        throw ValidationError("\(option) must be between 1 and \(1 << 24), found \(count)")
    }
}
