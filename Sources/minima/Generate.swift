import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTemplate
import MinimaTensor
import MinimaTokenizer

struct Generate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Continues a text, printing it as it is written.")

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(help: "Text to continue; with --chat, what the user says.")
    var prompt: String

    @Option(help: "New tokens at most.")
    var maxTokens = 256

    @Option(help: "0 takes the likeliest token each time.")
    var temperature = 0.0

    @Option(help: "Keep the likeliest tokens whose probabilities reach this sum.")
    var topP = 1.0

    @Option(help: "Keep this many of the likeliest tokens; 0 keeps all.")
    var topK = 0

    @Option(help: "Seed of the draws.")
    var seed: UInt64 = 0

    @Flag(help: "Put the prompt into the model's chat template.")
    var chat = false

    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON at the end instead of the text as it comes.")
    var json = false

    func validate() throws {
        guard maxTokens >= 1 else { throw ValidationError("--max-tokens must be at least 1") }
        do {
            _ = try SamplingParameters(temperature: temperature, topP: topP, topK: topK)
        } catch {
            throw ValidationError("\(error)")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let checkpoint = try Checkpoint(path: model)
        let tokenizer = try Tokenizer(directory: model)
        let text = chat ? try chatPrompt() : prompt
        var ids = try tokenizer.encode(text, addSpecialTokens: !chat)
        // A model needs something to start from: an empty prompt begins a document.
        if ids.isEmpty { ids = [try checkpoint.config.documentStart()] }
        let loaded = try checkpoint.loadModel(
            device: device, dtype: compute.dtype, onTensor: checkInterrupt)
        var stream = tokenizer.makeStream(skipSpecialTokens: true)
        var written = ""
        func emit(_ piece: String) throws {
            written += piece
            if json { return }
            try Terminal.output(piece, terminator: "")
            Terminal.hasOpenLine.store(true, ordering: .relaxed)
        }
        let outcome = try TextGenerator(loaded).generate(
            ids, maxTokens: maxTokens,
            sampling: SamplingParameters(
                temperature: temperature, topP: topP, topK: topK, seed: seed),
            stop: try checkpoint.stopTokens()
        ) { id in
            try checkInterrupt()
            try emit(stream.append(id))
        }
        try emit(stream.finish())
        let result = GenerationResult(
            model: model, prompt: text, text: written, promptTokens: ids.count,
            tokens: outcome.tokens.count, finishReason: outcome.reason.rawValue,
            tokensPerSecond: Double(outcome.decodeSteps) / max(outcome.decodeSeconds, 1e-9),
            temperature: temperature, seed: seed)
        if json { return try result.printJSON() }
        try Terminal.output("")
        Terminal.hasOpenLine.store(false, ordering: .relaxed)
        Terminal.write(
            "[\(result.tokens) tokens, \(short(result.tokensPerSecond)) tokens/s, "
                + "ended by \(result.finishReason)]")
    }

    private func chatPrompt() throws -> String {
        guard let templates = try CheckpointTemplates.find(in: model) else {
            throw GenerateError.noTemplate(path: model)
        }
        return try templates.template().render(
            messages: [ChatMessage(role: "user", content: prompt)], addGenerationPrompt: true,
            variables: templates.specialTokens, now: TemplateDate(unixSeconds: time(nil)))
    }
}

/// Why a generation cannot begin.
enum GenerateError: Error, CustomStringConvertible {
    case noTemplate(path: String)

    var description: String {
        switch self {
        case .noTemplate(let path):
            "\(path) has no chat template; leave out --chat, or give a chat model"
        }
    }
}
