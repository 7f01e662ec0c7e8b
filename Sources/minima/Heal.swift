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

struct Heal: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Recovers the quality of a compressed model by a short distillation.",
        discussion: """
            Ranks, formats and bytes stay; cores, factors, codes and norms train to give the dense \
            model's distribution: first each block of layers alone, then all end to end. Ends when the \
            held-out KL no longer improves and keeps the best state. A run that was killed goes on \
            where it was. Started by torchrun, mpirun or srun, all processes train one model.
            """)

    @Argument(help: "Compressed model directory.", completion: .directory)
    var model: String

    @Option(help: "Dense model that it was compressed from.", completion: .directory)
    var teacher: String

    @Option(
        parsing: .upToNextOption,
        help: """
            Texts to train on: UTF-8 with NUL bytes between documents, JSON Lines (.jsonl) of "text" or \
            of "prompt" and "completion"; or `self`: text that the dense model writes itself.
            """,
        completion: .file())
    var text: [String]

    @Option(help: "Directory to write.", completion: .directory)
    var out: String

    @Option(
        parsing: .upToNextOption,
        help: "Texts to measure on. Default: the last windows of each training text.",
        completion: .file())
    var heldOut: [String] = []

    @OptionGroup(title: "Scope") var scope: HealingScopeOptions
    @OptionGroup(title: "Training") var training: HealingTrainingOptions
    @OptionGroup(title: "Loss") var loss: HealingLossOptions
    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        try checkTexts(text)
        guard scope.hasBlocks || scope.hasEndToEnd else {
            throw ValidationError("--no-blocks and --no-end-to-end leave nothing to do")
        }
    }

    func run() throws {
        var device = try compute.open()
        catchInterrupts()
        let group = try ProcessGroup.fromEnvironment(
            ProcessInfo.processInfo.environment, device: device)
        if let group { device = group.device }
        let isFirst = group?.rank ?? 0 == 0
        let progress = ProgressLine(isSilent: !isFirst)
        let student = try Checkpoint(path: model)
        let teacher = try Checkpoint(path: teacher)
        let text = try readText(student, teacher, device, progress)
        var request = Healer.Request(text: text, device: device, version: Minima.versionNumber)
        request.training = scope.options(seed: training.seed)
        request.loss = loss.distillation
        request.hidden = loss.hidden(layers: try student.config.int("num_hidden_layers"))
        request.blocks = scope.blocks(training)
        request.endToEnd = try scope.endToEnd(training, text, student, device)
        request.cache = loss.cache
        request.dtype = compute.dtype
        request.group = group
        let healer = try Healer(student, teacher: teacher, request)
        if isFirst, let requirements = healer.requirements {
            Terminal.write("minima: blocks take at their peak: \(requirements)")
        }
        let result = try healer.run(output: out, progress: progress.show)
        guard isFirst else { return }
        if json { return try result.printJSON() }
        try Terminal.output(result.summary(out))
    }

    private func readText(
        _ student: Checkpoint, _ teacher: Checkpoint, _ device: Device, _ progress: ProgressLine
    ) throws -> HealingText {
        let limit = try student.config.int("max_position_embeddings")
        if let context = training.context, context > limit {
            throw ModelError.contextExceeded(length: context, context: limit)
        }
        var settings = HealingText.Settings(context: training.context ?? min(1024, limit))
        settings.taskShare = training.taskShare
        settings.seed = training.seed
        let start = try teacher.config.documentStart()
        let tokenizer = try Tokenizer(directory: model)
        func read(_ paths: [String]) throws -> [TokenizedText] {
            try paths.map { path in
                try TokenizedText(file: path, documentStart: start) {
                    try tokenizer.encode($0, addSpecialTokens: false)
                }
            }
        }
        let held = try heldOut.isEmpty ? nil : read(heldOut)
        guard text == ["self"] else {
            return try HealingText(read(text), heldOut: held, settings: settings)
        }
        let model = try teacher.loadModel(
            device: device, dtype: compute.dtype, onTensor: checkInterrupt)
        let length = settings.context
        let windows = try TextGenerator(model).sample(
            count: training.selfWindows, length: length, start: start,
            sampling: SamplingParameters(temperature: 1, seed: training.seed),
            batch: min(training.selfWindows, 64), progress: progress.show)
        let own = TokenizedText(
            name: "self", documents: windows.count, tokens: windows.flatMap(\.self))
        return try HealingText([own], heldOut: held, settings: settings)
    }
}

extension HealingResult {
    /// What a terminal shows.
    func summary(_ out: String) -> String {
        var lines = [
            "\(out): healed on \(grouped(texts.reduce(0) { $0 + $1.tokens })) tokens of text",
            "held out     perplexity \(fixed(before.perplexity, 3)) → "
                + "\(fixed(after.perplexity, 3)), KL \(fixed(before.kl, 5)) → "
                + "\(fixed(after.kl, 5)) nats per token (\(grouped(heldOutTokens)) tokens)",
        ]
        for (title, isEnd) in [("blocks       ", false), ("end to end   ", true)] {
            let own = phases.filter { ($0.name == "end to end") == isEnd }
            guard !own.isEmpty else { continue }
            let tokens = own.reduce(0) { $0 + $1.tokens }
            let endings = Set(own.map(\.ending)).sorted().joined(separator: ", ")
            let rate = own.reduce(0) { $0 + $1.tokensPerSecond } / Double(own.count)
            lines.append(
                "\(title)\(grouped(tokens)) tokens in "
                    + "\(grouped(own.reduce(0) { $0 + $1.steps })) steps and "
                    + "\(duration(own.reduce(0) { $0 + $1.seconds })), \(short(rate)) tokens/s; "
                    + "ended by: \(endings)")
        }
        if let peak = phases.compactMap(\.peakDeviceBytes).max() {
            lines.append("peak         \(byteText(peak)) on the device")
        }
        lines.append("took         \(duration(seconds))")
        return lines.joined(separator: "\n")
    }
}
