import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaRuntime
import MinimaTensor
import MinimaTokenizer

struct Generate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Continues texts, printing them as they are written.",
        discussion: """
            On a GPU, models in bfloat16 run on Minima's decoding kernels; others, and all on the \
            CPU, run through libtorch. Several prompts or answers are computed together: a draw \
            depends on the seed, the answer's number and the token's place only.
            """)

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(help: "Text to continue; with --chat, what the user says.")
    var prompt: String?

    @Option(
        help: """
            File of prompts, one per line; in a .jsonl file each line is a JSON string. Answers \
            come out in order, each when it is complete.
            """, completion: .file())
    var prompts: String?

    @Option(help: "Answers to each prompt; several need a --temperature above 0.")
    var count = 1

    @Option(help: "New tokens at most, of each answer.")
    var maxTokens = 256

    @OptionGroup var sampling: SamplingOptions

    @Flag(help: "Put the prompt into the model's chat template.")
    var chat = false

    @OptionGroup var compute: ComputeOptions
    @OptionGroup var engine: DeviceEngineOptions
    @OptionGroup var drafting: DraftingOptions

    @Option(help: "What computes: kernels (a GPU's), libtorch, or auto.")
    var backend = BackendChoice.auto

    @Option(help: "Answers computed at one time, at most.")
    var parallel = 32

    @Flag(help: "Give each answer the same tokens whatever is computed beside it; slower.")
    var deterministic = false

    @Flag(help: "Print how many requests of which length fit beside the model, and end.")
    var explainMemory = false

    @Flag(
        help: """
            Print JSON at the end instead of the text as it comes; one line per answer where there \
            are several.
            """)
    var json = false

    @Option(
        help: """
            With --json, add log-probabilities of the answer's tokens and of this many likeliest \
            ones beside each.
            """)
    var logprobs: Int?

    func validate() throws {
        guard maxTokens >= 1 else { throw ValidationError("--max-tokens must be at least 1") }
        guard (1...1 << 16).contains(count) else {
            throw ValidationError("--count must be between 1 and \(1 << 16)")
        }
        guard (1...256).contains(parallel) else {
            throw ValidationError("--parallel must be between 1 and 256")
        }
        guard count == 1 || sampling.temperature > 0 else {
            throw ValidationError(
                "--count \(count) gives the same answer \(count) times at temperature 0; give "
                    + "--temperature")
        }
        guard logprobs == nil || json else {
            throw ValidationError("--logprobs needs --json, where they are printed")
        }
        if let logprobs, !(0...SamplingParameters.mostLogprobs).contains(logprobs) {
            throw ValidationError(
                "--logprobs must be between 0 and \(SamplingParameters.mostLogprobs)")
        }
        try drafting.check(deterministic: deterministic)
        if explainMemory {
            guard prompt == nil, prompts == nil, !json else {
                throw ValidationError(
                    "--explain-memory generates nothing; leave out --prompt, --prompts and --json")
            }
        } else {
            guard (prompt == nil) != (prompts == nil) else {
                throw ValidationError("give one of --prompt and --prompts")
            }
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let checkpoint = try Checkpoint(path: model)
        let maker = try EngineMaker(
            checkpoint, device: device, dtype: compute.dtype, backend: backend, options: engine,
            parallel: parallel, deterministic: deterministic,
            draft: drafting.open(for: checkpoint), speculation: drafting.speculation)
        if explainMemory {
            return try Terminal.output(maker.memoryTable(option: "--parallel"), terminator: "")
        }
        let tokenizer = try Tokenizer(directory: model)
        let encoder = try PromptEncoder(checkpoint, tokenizer, usesTemplate: chat)
        let texts = try prompt.map { [$0] } ?? readPrompts(prompts ?? "")
        let parameters = try sampling.parameters(logprobs: logprobs)
        let stop = try checkpoint.stopTokens()
        var answers: [Answer] = []
        for (index, text) in texts.enumerated() {
            try checkInterrupt()
            let prompt = try encoder.encode(text)
            guard prompt.tokens.count < maker.context else {
                throw GenerateError.promptTooLong(
                    number: texts.count > 1 ? index + 1 : nil, tokens: prompt.tokens.count,
                    context: maker.context)
            }
            for number in 0..<count {
                let request = GenerationRequest(
                    prompt: prompt.tokens, maxTokens: maxTokens,
                    sampling: parameters.forSequence(number), stop: stop)
                answers.append(
                    Answer(
                        prompt: prompt.text, promptNumber: index, number: number, request: request)
                )
            }
        }
        try write(answers, maker, tokenizer)
    }

    /// An answer to be computed.
    private struct Answer {
        let prompt: String
        let promptNumber: Int
        let number: Int
        let request: GenerationRequest
    }

    /// Computes all answers at once and prints them in order, a single one as it comes.
    private func write(_ answers: [Answer], _ maker: EngineMaker, _ tokenizer: Tokenizer) throws {
        // The last token is never read, so its keys and values are not held.
        let lengths = answers.map {
            let length = $0.request.prompt.count
            return length + min($0.request.maxTokens, maker.context - length) - 1
        }.sorted(by: >)
        let slots = min(maker.parallel, lengths.count)
        let engine = try maker.open(
            EngineMaker.Size(
                slots: slots, maxWaiting: lengths.count, longest: lengths.first ?? 1,
                pages: lengths.prefix(slots).reduce(0) { $0 + maker.pages(for: $1) }))
        defer { engine.shutDown(.cancel) }
        let clock = ContinuousClock()
        let started = clock.now
        let handles = try answers.map { try engine.submit($0.request) }
        let isSingle = answers.count == 1
        // Two lines that are redrawn would not fit one terminal.
        let progress = ProgressLine(isSilent: isSingle || isatty(STDOUT_FILENO) == 1)
        var isComputed = false
        var total = 0
        var last: GenerationResult?
        for (answer, handle) in zip(answers, handles) {
            var stream = tokenizer.makeStream(skipSpecialTokens: true)
            var written = ""
            func emit(_ piece: String) throws {
                written += piece
                guard isSingle, !json else { return }
                try Terminal.output(piece, terminator: "")
                Terminal.hasOpenLine.store(true, ordering: .relaxed)
            }
            let outcome = try handle.wait { token in
                try checkInterrupt()
                try emit(stream.append(token.id))
                guard !isSingle, !isComputed else { return }
                let state = engine.progress(of: answers.count)
                isComputed = state.done == state.total
                try progress.show(state)
            }
            if case .failed(let error) = outcome.reason {
                throw GenerateError.failed(error, model: model)
            }
            try emit(stream.finish())
            total += outcome.tokens.count
            // Its last step counts once it has ended.
            if isSingle { engine.shutDown(.drain) }
            let result = result(
                answer, outcome, written, maker, tokenizer, engine.metrics.speculation)
            last = result
            if isSingle {
                try Terminal.output(json ? result.json() : "")
            } else if json {
                try Terminal.output(result.jsonLine())
            } else {
                try Terminal.output("\(title(answer))\n\(written)")
            }
            Terminal.hasOpenLine.store(false, ordering: .relaxed)
        }
        if json { return }
        let draft = last?.speculation.map { "; " + $0.summary } ?? ""
        if isSingle, let last {
            return Terminal.write(
                "[\(last.tokens) tokens, \(short(last.tokensPerSecond)) tokens/s, "
                    + "ended by \(last.finishReason)\(draft)]")
        }
        let seconds = (clock.now - started).totalSeconds
        Terminal.write(
            "[\(answers.count) answers, \(total) tokens, "
                + "\(short(Double(total) / max(seconds, 1e-9))) tokens/s in all\(draft)]")
    }

    /// As `head` parts files.
    private func title(_ answer: Answer) -> String {
        var parts: [String] = []
        if prompts != nil { parts.append("prompt \(answer.promptNumber + 1)") }
        if count > 1 { parts.append("answer \(answer.number + 1)") }
        return "==> \(parts.joined(separator: ", ")) <=="
    }

    private func result(
        _ answer: Answer, _ outcome: GenerationOutcome, _ text: String, _ maker: EngineMaker,
        _ tokenizer: Tokenizer, _ metrics: SpeculationMetrics
    ) -> GenerationResult {
        GenerationResult(
            model: model, prompt: answer.prompt, text: text, promptTokens: outcome.promptTokens,
            tokens: outcome.tokens.count, finishReason: outcome.reason.name,
            tokensPerSecond: outcome.timings.perToken.map { 1 / max($0, 1e-9) } ?? 0,
            temperature: sampling.temperature, seed: sampling.seed,
            answer: count > 1 ? answer.number : nil,
            sampling: .init(answer.request.sampling),
            logprobs: logprobs == nil
                ? nil : outcome.tokens.map { GenerationResult.Token($0.token, tokenizer) },
            firstTokenSeconds: outcome.timings.firstToken, device: "\(maker.device)",
            dtype: "\(maker.dtype)",
            speculation: maker.draft.map { GenerationResult.Speculation($0.name, metrics) })
    }
}

extension Engine {
    /// How many of `total` requests have ended.
    fileprivate func progress(of total: Int) -> StageProgress {
        let metrics = metrics
        return StageProgress(
            stage: "generate", done: metrics.finished.values.reduce(0, +), total: total,
            unit: "answers", note: "\(grouped(metrics.generatedTokens)) tokens")
    }
}

extension GenerationResult.Token {
    fileprivate init(_ token: SampledToken, _ tokenizer: Tokenizer) {
        func text(_ id: Int32) -> String { tokenizer.token(for: id) ?? "" }
        self.init(
            id: token.id, token: text(token.id), logprob: token.logprob ?? .nan,
            alternatives: token.alternatives.map {
                Alternative(id: $0.id, token: text($0.id), logprob: $0.logprob)
            })
    }
}

/// Why a generation cannot begin or go on.
enum GenerateError: Error, CustomStringConvertible {
    case noTemplate(path: String)
    case noPrompts(path: String)
    case badPrompt(path: String, line: Int, found: String)
    case promptTooLong(number: Int?, tokens: Int, context: Int)
    case modelTooLarge(bytes: Int, available: Int, device: Device, isLimited: Bool)
    case noMemory(tokens: Int, needed: Int, available: Int, fitting: Int, device: Device)
    case kernelsNeedGPU(device: Device)
    case kernelsComputeIn(DType, asked: DType)
    case cacheNeedsKernels(CacheChoice)
    case noDraft(String)
    case otherTokens(draft: String, model: String, id: Int32)
    case noTree(String)
    case failed(EngineError, model: String)

    var description: String {
        switch self {
        case .noTemplate(let path):
            "\(path) has no chat template; leave out --chat, or give a chat model"
        case .noPrompts(let path): "\(path) holds no prompt; write one per line"
        case .badPrompt(let path, let line, let found):
            """
            \(path): line \(line) is not a JSON string (\(found)); quote each prompt, or name a file \
            of plain lines other than .jsonl
            """
        case .promptTooLong(let number, let tokens, let context):
            """
            \(number.map { "prompt \($0)" } ?? "the prompt") has \(tokens) tokens and the model's \
            context is \(context), which leaves no room for a new one; shorten it
            """
        case .modelTooLarge(let bytes, let available, let device, let isLimited):
            """
            the model takes about \(byteText(bytes)) and \
            \(isLimited ? "--vram allows" : "\(device) has") \(byteText(available))\
            \(isLimited ? "" : " free"); compress it further, or give \
            \(isLimited ? "a larger --vram" : "another --device or --dtype")
            """
        case .noMemory(let tokens, let needed, let available, let fitting, let device):
            """
            the longest request has \(tokens) tokens, new ones included, which takes \
            \(byteText(needed)) with the model, and \(device) has \(byteText(available)) for it, enough \
            for \(fitting) tokens; lower --max-tokens, --context or the number of requests at one time, \
            or raise --vram where it was given (`minima generate --explain-memory` shows what fits)
            """
        case .kernelsNeedGPU(let device):
            "--backend kernels needs a GPU, found \(device); give --device cuda or --backend libtorch"
        case .kernelsComputeIn(let dtype, let asked):
            """
            the kernels compute in \(dtype), asked for is \(asked); leave out --dtype or give \
            --backend libtorch
            """
        case .cacheNeedsKernels(let choice):
            """
            --kv-dtype \(choice) needs the decoding kernels, and this model runs through libtorch \
            here; leave it out
            """
        case .noDraft(let name):
            """
            --draft \(name): there is no such directory; give that of an EAGLE-3 draft or of a smaller \
            model, or ngram, which needs none
            """
        case .otherTokens(let draft, let model, let id):
            """
            token \(id) of \(draft) is another than that of \(model); a draft proposes tokens of the \
            model's own vocabulary, so take a smaller model of the same family, or --draft ngram
            """
        case .noTree(let draft):
            "\(draft) proposes chains; leave out --draft-tree, or give an EAGLE-3 draft"
        case .failed(.notFinite(let position), let model):
            """
            \(EngineError.notFinite(position: position)); `minima inspect \(model) --check-finite` \
            looks for NaN in the weights
            """
        case .failed(let error, _): error.description
        }
    }
}
