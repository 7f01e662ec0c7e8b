import ArgumentParser
import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaReport
import MinimaRuntime
import MinimaTensor
import MinimaTokenizer

struct Speed: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract:
            "Compares dense, compressed, and compressed with a draft: the paper's section 5.2.",
        discussion: """
            Each is loaded, answers 1 and then 50 requests at a time, and makes room for the next, all in \
            one process. Given models, requests go through the engine that serves them, on a GPU or the \
            CPU; their prompts are windows of --text, their tokens greedy. With --shape the weights are \
            random and decode steps are timed behind a prompt, on a GPU; --acceptance says how many tokens \
            a step with a draft makes then, and results say that it is simulated.
            """)

    @Argument(help: "The dense model, and its compressed form.", completion: .directory)
    var models: [String] = []

    @Option(help: .init("Random weights of these sizes in place of models: \(ModelShape.names)."))
    var shape: String?

    @Option(help: "The same with the sizes of a directory's config.json.", completion: .directory)
    var sizes: String?

    @Option(
        parsing: .upToNextOption,
        help: """
            With --shape or --sizes, how the two are stored, see `minima bench`. Default: dense \
            interpolative:0.383, which is 35% less with the embeddings.
            """)
    var weights: [WeightChoice] = []

    @Option(
        help: """
            What proposes tokens: ngram, the directory of a head or of a smaller model, or with --shape \
            or --sizes random[:SHAPE][:CODES], see `minima bench`. Default: nothing; with --shape and \
            --sizes random.
            """)
    var draft: String?

    @Option(
        help: """
            Tokens that a step proposes: 1 to 15, or auto. Default: auto, which with --shape and --sizes \
            measures 3 and 5 and keeps the faster.
            """)
    var speculate: SpeculationChoice?

    @Option(
        help: """
            With a random draft, tokens that a step makes on average. Default: 2.8, which is published for \
            chains of 3.
            """)
    var acceptance: Double?

    @Option(parsing: .upToNextOption, help: "Requests at one time, measured in turn.")
    var requests = [1, 50]

    @Option(help: "Tokens of each prompt.")
    var context = 8192

    @Option(help: "New tokens of each request in a repetition; with --shape and --sizes, steps.")
    var tokens = 128

    @Option(help: "Repetitions, after one that does not count.")
    var repeats = 3

    @Option(parsing: .upToNextOption, help: "UTF-8 files that prompts are taken from.")
    var text: [String] = []

    @OptionGroup var compute: ComputeOptions
    @OptionGroup var engine: DeviceEngineOptions

    @Option(help: "What computes: kernels (a GPU's), libtorch, or auto.")
    var backend = BackendChoice.auto

    @Option(help: "Seed of random weights and tokens.")
    var seed: UInt64 = 0

    @Option(help: "File to write the account to, for `minima report`.", completion: .file())
    var out: String?

    @Flag(help: "Print JSON.")
    var json = false

    private var isRandom: Bool { shape != nil || sizes != nil }

    func validate() throws {
        guard models.isEmpty == isRandom, shape == nil || sizes == nil else {
            throw ValidationError(
                "give a dense and a compressed model, or one of --shape and --sizes")
        }
        guard isRandom || models.count == 2 else {
            throw ValidationError(
                "two models are compared, the dense one first, found \(models.count)")
        }
        if let shape, ModelShape.all[shape] == nil {
            throw ValidationError("--shape must be one of \(ModelShape.names), found \(shape)")
        }
        for (name, values, range) in [
            ("--requests", requests, 1...256), ("--context", [context], 1...1 << 24),
            ("--tokens", [tokens], 2...1 << 16), ("--repeats", [repeats], 1...1000),
        ] {
            if let value = values.first(where: { !range.contains($0) }) {
                throw ValidationError(
                    "\(name) must be between \(range.lowerBound) and \(range.upperBound), "
                        + "found \(value)")
            }
        }
        try isRandom ? checkShape() : checkModels()
        if let speculate, speculate.speculation == .off {
            throw ValidationError("--speculate off measures nothing; leave out --draft")
        }
    }

    private func checkShape() throws {
        guard text.isEmpty else {
            throw ValidationError("--text goes with models; random weights read random tokens")
        }
        guard compute.device != .cpu, compute.dtype ?? .bfloat16 == .bfloat16,
            backend != .libtorch
        else {
            throw ValidationError(
                "--shape and --sizes time the decoding kernels, which need a GPU and bfloat16")
        }
        guard weights.isEmpty || weights.count == 2 else {
            throw ValidationError(
                "--weights names two ways, the dense one first, found \(weights.count)")
        }
        for choice in choices {
            do { try choice.check() } catch { throw ValidationError("\(error)") }
        }
        guard let choice = randomDraft else {
            throw ValidationError(
                "--draft must be ngram, random[:SHAPE][:CODES] or a directory, found "
                    + (draft ?? "none"))
        }
        try choice.check()
        let most = Double((draftTokens.max() ?? 0) + 1)
        if let acceptance, !(1...most).contains(acceptance) {
            throw ValidationError(
                "--acceptance must be between 1 and \(most), one more than --speculate proposes, "
                    + "found \(acceptance)")
        }
    }

    private func checkModels() throws {
        guard weights.isEmpty else {
            throw ValidationError("--weights goes with --shape or --sizes; models are as they are")
        }
        guard acceptance == nil else {
            throw ValidationError("--acceptance goes with a random draft; others are compared")
        }
        guard !text.isEmpty else {
            throw ValidationError("--text needs files that prompts are taken from")
        }
        guard draft != nil || speculate == nil else {
            throw ValidationError("--speculate goes with --draft")
        }
        if let draft, draft == "random" || draft.hasPrefix("random:") {
            throw ValidationError("--draft random goes with --shape or --sizes")
        }
    }

    func run() throws {
        let results = isRandom ? try measureShape() : try measureModels()
        if json { return try results.printJSON() }
        try Terminal.output(results.table(), terminator: "")
    }

    private var commandLine: String {
        CommandLine.arguments.dropFirst().reduce("minima") { "\($0) \($1)" }
    }

    /// Adds a row to the account, which is complete at any time, and says what was found.
    private func add(_ row: SpeedResult.Row, to result: inout SpeedResult) throws {
        result.rows.append(row)
        if let out { try AtomicFile.write(result.json() + "\n", to: out) }
        Terminal.write(
            "minima: \(row.configuration.title), \(row.requests) at a time: "
                + "\(short(row.tokensPerSecond.median)) tokens/s each")
    }

    // MARK: Models

    private func measureModels() throws -> SpeedResult {
        let checkpoints = try models.map { try Checkpoint(path: $0) }
        let tokenizer = try Tokenizer(directory: models[0])
        let words = try readTokens(text, tokenizer).flatMap { $0 }
        guard !words.isEmpty else { throw SpeedError.noText(text) }
        let drafting = try draft.map { try GenerateDraft($0, width: 1, for: checkpoints[1]) }
        let longest = try checkpoints[0].config.int("max_position_embeddings")
        guard context < longest, tokens < longest - context else {
            throw SpeedError.tooLong(context: context, tokens: tokens, longest: longest)
        }
        let device = try compute.open()
        catchInterrupts()
        let dtype = try compute.dtype ?? checkpoints[0].defaultDType(on: device)
        var result = SpeedResult(
            version: Minima.versionNumber, model: models[0], device: try name(of: device),
            dtype: "\(backend == .kernels ? .bfloat16 : dtype)",
            cacheType: engine.kvDtype == .float8 ? "float8" : "\(dtype)", method: .requests,
            context: context, tokens: tokens, seed: seed, command: commandLine, rows: [])
        let bench = EngineBench(text: words, context: context, tokens: tokens, repeats: repeats)
        // What is compared is measured one behind the other.
        for count in requests {
            for configuration in SpeedResult.Configuration.allCases {
                if configuration == .speculation, drafting == nil { continue }
                let row = try measure(
                    bench, configuration, checkpoints[configuration == .dense ? 0 : 1],
                    configuration == .speculation ? drafting : nil, count, device)
                try add(row, to: &result)
            }
        }
        return result
    }

    private func measure(
        _ bench: EngineBench, _ configuration: SpeedResult.Configuration,
        _ checkpoint: Checkpoint, _ draft: GenerateDraft?, _ count: Int, _ device: Device
    ) throws -> SpeedResult.Row {
        try EngineBench.beginMemory(on: device)
        let speculation = draft == nil ? .off : speculate?.speculation ?? .automatic
        var maker = try EngineMaker(
            checkpoint, device: device, dtype: compute.dtype, backend: backend, options: engine,
            parallel: count, deterministic: false, draft: draft, speculation: speculation)
        // Every prompt is computed.
        maker.prefixCaching = false
        let places = maker.mostDraftTokens + 1
        let longest = bench.longest(
            requests: count, chunk: max(maker.chunk - count * places, EngineMaker.pageTokens),
            places: places)
        let engine = try maker.open(
            EngineMaker.Size(
                slots: count, maxWaiting: count, longest: min(longest, maker.context) - 1),
            onReady: { times in
                Terminal.write("minima: loaded in \(fixed(times.seconds, 1)) s: \(times.words)")
            })
        defer { engine.shutDown(.cancel) }
        let progress = ProgressLine()
        let found = try bench.measure(
            engine, requests: count, on: device,
            onProgress: { state in
                try checkInterrupt()
                try progress.show(state)
            })
        let label = draft.map { "\(checkpoint.path), draft \($0.name)" } ?? checkpoint.path
        return SpeedResult.Row(
            configuration: configuration, label: label, requests: count,
            tokensPerSecond: found.tokensPerSecond, firstToken: found.firstToken,
            peakBytes: found.peakBytes,
            weightBytes: checkpoint.weightBytes(maker.dtype)
                + (draft?.weightBytes(maker.dtype) ?? 0),
            acceptanceLength: draft == nil ? nil : found.acceptanceLength,
            proposals: draft == nil ? nil : speculate?.text ?? "auto")
    }

    private func name(of device: Device) throws -> String {
        guard device.isCUDA else { return "CPU, \(try Torch.threads()) threads" }
        return try engine.kernels(on: device).name
    }

    // MARK: Random weights

    private var choices: [WeightChoice] {
        guard weights.isEmpty else { return weights }
        var compressed = WeightChoice(format: Interpolative.name)
        compressed.ratio = 0.383
        return [WeightChoice(format: Dense.name), compressed]
    }

    private var randomDraft: DraftChoice? { DraftChoice(argument: draft ?? "random") }

    /// Numbers of proposals to be measured.
    private var draftTokens: [Int] {
        guard case .fixed(let count) = speculate?.speculation else { return [3, 5] }
        return [count]
    }

    private func measureShape() throws -> SpeedResult {
        let config =
            try sizes.map { try ModelConfig(path: $0 + "/config.json") }
            ?? ModelShape.config(shape ?? "")
        let name = shape ?? sizes ?? ""
        let dense = try RandomWeights(config, path: name, seed: seed)
        let device = try ComputeOptions.open(compute.device ?? .cuda(0))
        catchInterrupts()
        let kernels = try engine.kernels(on: device)
        var result = SpeedResult(
            version: Minima.versionNumber, model: name, device: kernels.name, dtype: "bfloat16",
            cacheType: "\(engine.kvDtype)", method: .steps, context: context,
            tokens: tokens, seed: seed, command: commandLine, rows: [])
        let progress = ProgressLine()
        let isSimulated = randomDraft.map { $0.label.hasPrefix("random") } ?? false
        let lengths = acceptance.map { [$0] } ?? (isSimulated ? [2.8] : [])
        for (choice, configuration) in zip(choices, SpeedResult.Configuration.allCases) {
            let speculation =
                configuration == .dense
                ? nil
                : try randomDraft?.speculation(
                    draftTokens: draftTokens, lengths: lengths, seed: seed)
            let bench = DecodeBench(
                kernels: kernels, context: context, requests: requests,
                format: engine.kvDtype.format, steps: tokens, repeats: repeats, chunk: 2048,
                seed: seed, tunesKernels: false, speculation: speculation,
                progress: progress.show)
            let source = try RandomWeights(
                config, path: name, seed: seed, plan: choice.plan(dense).modules)
            var drafted: [BenchResult.Run] = []
            try bench.run(source, label: choice.label) { run in
                guard run.speculation != nil else {
                    return try add(
                        SpeedResult.Row(run, configuration: configuration), to: &result)
                }
                drafted.append(run)
            }
            for count in requests {
                let fastest = drafted.filter { $0.requests == count }
                    .min { $0.step.median < $1.step.median }
                guard let fastest else { continue }
                try add(SpeedResult.Row(fastest, configuration: .speculation), to: &result)
            }
        }
        return result
    }
}

extension SpeedResult.Row {
    /// A run of decode steps.
    fileprivate init(_ run: BenchResult.Run, configuration: SpeedResult.Configuration) {
        func rate(_ seconds: Double) -> Double { 1 / max(seconds, .leastNormalMagnitude) }
        self.init(
            configuration: configuration, label: run.label, requests: run.requests,
            tokensPerSecond: BenchResult.Spread(
                median: rate(run.step.median), lowest: rate(run.step.highest),
                highest: rate(run.step.lowest), repetitions: run.step.repetitions),
            firstToken: run.firstToken, peakBytes: run.peakBytes, weightBytes: run.weightBytes,
            acceptanceLength: run.speculation?.acceptanceLength,
            simulatedLength: run.speculation?.simulatedLength,
            proposals: run.speculation.map { "\($0.draftTokens)" })
    }
}

/// Why speeds cannot be compared.
enum SpeedError: Error, CustomStringConvertible {
    case noText([String])
    case tooLong(context: Int, tokens: Int, longest: Int)

    var description: String {
        switch self {
        case .noText(let paths):
            "\(paths.joined(separator: ", ")): no token to make prompts of; give a longer --text"
        case .tooLong(let context, let tokens, let longest):
            """
            prompts of \(context) tokens and \(tokens) new ones do not fit the model's context of \
            \(longest); lower --context or --tokens
            """
        }
    }
}
