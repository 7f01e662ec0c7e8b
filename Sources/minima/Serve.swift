import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaServer
import MinimaTemplate
import MinimaTensor
import MinimaTokenizer
import Synchronization

struct Serve: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Answers requests over HTTP as OpenAI's interface does.",
        discussion: """
            /v1/chat/completions, /v1/completions, /v1/models, /tokenize, /detokenize, /health, \
            /metrics, and a chat page with live figures at /. Listens on this machine only unless \
            --host says otherwise. SIGTERM or Ctrl-C takes no more requests and ends when those that \
            run have ended; a second one ends at once.

            In browsers every site's pages could ask a server on this machine, so theirs get 403. \
            The server's own page is known by its address: an IP address, a name without a dot or \
            under .localhost or .internal, this machine's name, or --host; with API keys any name. \
            --allow-origin lets in other sites, and the page behind a proxy with a name of its \
            own. Requests that come from no page are answered, but a server without keys that \
            listens on this machine only wants them, too, under such a name.
            """)

    @Argument(help: "Model directory.", completion: .directory)
    var model: String

    @Option(help: "Address to listen on; 0.0.0.0 is every address of this machine.")
    var host = "127.0.0.1"

    @Option(help: "Port; 0 takes a free one.")
    var port = 8000

    @Option(help: "Name of the model in requests. Default: the directory's.")
    var name: String?

    @Option(help: "File of API keys, one per line, of which requests must show one.")
    var apiKeyFile: String?

    @Option(
        help: ArgumentHelp(
            """
            Site whose pages in browsers may use the server, such as https://chat.example.org; * \
            is every site. May be given several times.
            """, valueName: "origin"))
    var allowOrigin: [String] = []

    @Flag(help: "Leave out the chat page at /.")
    var noPage = false

    @Option(help: "Requests computed at one time, at most.")
    var maxRequests = 32

    @Option(help: "Requests that may wait; one more is refused with status 429.")
    var maxWaiting = 1024

    @Option(help: "Tokens of the longest request, prompt and new ones. Default: the model's.")
    var context: Int?

    @Option(
        help: ArgumentHelp(
            """
            Form in which the model calls functions: \(ToolParser.all.map(\.name).joined(separator: ", ")), \
            none, or auto: by the chat template.
            """, valueName: "name"))
    var toolParser = "auto"

    @Option(
        help: ArgumentHelp(
            """
            Marks of what the model thinks before it answers: \
            \(ReasoningParser.all.map(\.name).joined(separator: ", ")), none, or auto: by the chat template.
            """, valueName: "name"))
    var reasoningParser = "auto"

    @Option(help: "Seconds that a request may take, 0: any time.")
    var requestSeconds = 600

    @Option(help: "Seconds that running requests have to end when the server is stopped.")
    var drainSeconds = 30

    @OptionGroup var compute: ComputeOptions
    @OptionGroup var engine: DeviceEngineOptions
    @OptionGroup var drafting: DraftingOptions

    @Option(help: "What computes: kernels (a GPU's), libtorch, or auto.")
    var backend = BackendChoice.auto

    @Flag(help: "Give each answer the same tokens whatever is computed beside it; slower.")
    var deterministic = false

    @Flag(help: "Compute every prompt from its first token, also where an earlier one began alike.")
    var noPrefixCaching = false

    @Option(
        help: """
            Milliseconds that a step may take for prompts while requests decode, 0: any time. Long \
            prompts are read in parts that keep it, of 64 tokens at least, so that answers beside them \
            keep coming; through libtorch by the times measured. Kernels of a GPU read 2,048 tokens \
            less what decodes at a time.
            """)
    var stepMilliseconds = 200

    @Flag(help: "Print how many requests of which length fit beside the model, and end.")
    var explainMemory = false

    @Flag(help: "Print no line for each request.")
    var quiet = false

    func validate() throws {
        guard (0...65535).contains(port) else {
            throw ValidationError("--port must be between 0 and 65535")
        }
        guard (1...256).contains(maxRequests) else {
            throw ValidationError("--max-requests must be between 1 and 256")
        }
        guard (1...1 << 20).contains(maxWaiting) else {
            throw ValidationError("--max-waiting must be between 1 and \(1 << 20)")
        }
        guard (0...60_000).contains(stepMilliseconds) else {
            throw ValidationError("--step-milliseconds must be 0 to 60000")
        }
        try drafting.check(deterministic: deterministic)
        try Self.check(toolParser, "--tool-parser", ToolParser.all.map(\.name))
        try Self.check(reasoningParser, "--reasoning-parser", ReasoningParser.all.map(\.name))
        guard context ?? 2 >= 2 else { throw ValidationError("--context must be at least 2") }
        guard (0...86400).contains(requestSeconds), (0...86400).contains(drainSeconds) else {
            throw ValidationError("--request-seconds and --drain-seconds must be 0 to 86400")
        }
    }

    private static func check(_ name: String, _ option: String, _ names: [String]) throws {
        let known = ["auto", "none"] + names
        guard known.contains(name) else {
            throw ValidationError("\(option) must be one of \(known.joined(separator: ", "))")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let origins = try allowOrigin.map { try AllowedOrigin($0) }
        let keys = try apiKeyFile.map { try APIKey.keys(in: readText($0)) } ?? []
        let checkpoint = try Checkpoint(path: model)
        let served = try servedModel(checkpoint)
        var maker = try EngineMaker(
            checkpoint, device: device, dtype: compute.dtype, backend: backend, options: engine,
            parallel: maxRequests, deterministic: deterministic,
            draft: drafting.open(for: checkpoint), speculation: drafting.speculation)
        if explainMemory {
            let longest = try maker.longestServed(context, maxWaiting: maxWaiting) { size in
                try maker.check(size)
                return size.longest + 1
            }
            let table = try maker.memoryTable(longest: longest, option: "--max-requests")
            return try Terminal.output(table, terminator: "")
        }
        maker.prefixCaching = !noPrefixCaching
        maker.stepSeconds = stepMilliseconds == 0 ? nil : Double(stepMilliseconds) / 1000
        let engine = try open(maker)
        defer { engine.shutDown(.cancel) }
        let isQuiet = quiet
        let server = InferenceServer(
            model: served, engine: engine,
            options: ServerOptions(
                host: host, port: port, keys: keys, allowedOrigins: origins, hasPage: !noPage,
                context: context,
                deadline: requestSeconds == 0 ? nil : .seconds(requestSeconds),
                drainTime: .seconds(drainSeconds), packageFolders: [try Torch.packageFolder()]),
            deviceMemory: {
                guard let memory = try? device.memory() else { return nil }
                return DeviceMemory(used: memory.total - memory.free, total: memory.total)
            },
            log: { line in if !isQuiet { Terminal.write("minima: \(line)") } })
        try Self.serve(server, host: host)
    }

    /// An engine with pages for as many of the longest requests as run at one time, or as there is
    /// memory for; without --context, the longest is what fits.
    private func open(_ maker: EngineMaker) throws -> Engine {
        try maker.longestServed(context, maxWaiting: maxWaiting) { size in
            try maker.open(
                size,
                onReady: { times in
                    Terminal.write("minima: ready in \(fixed(times.seconds, 1)) s: \(times.words)")
                })
        }
    }

    /// Runs the server on Swift's threads; this one watches for Ctrl-C.
    private static func serve(_ server: InferenceServer, host: String) throws {
        let outcome = ServeOutcome()
        Task {
            do {
                try await server.run { port in
                    let name = host.contains(":") ? "[\(host)]" : host
                    Terminal.write("minima: listening on http://\(name):\(port)")
                }
                outcome.result.withLock { $0 = .success(()) }
            } catch {
                outcome.result.withLock { $0 = .failure(error) }
            }
        }
        var isStopping = false
        while true {
            if let result = outcome.result.withLock({ $0 }) { return try result.get() }
            usleep(20_000)
            guard !isStopping else { continue }
            do {
                try checkInterrupt()
            } catch {
                isStopping = true
                Terminal.write("minima: stopping; running requests are being completed")
                server.drain()
            }
        }
    }

    private func servedModel(_ checkpoint: Checkpoint) throws -> ServedModel {
        let templates = try CheckpointTemplates.find(in: checkpoint.path)
        var chat = try templates.map {
            ServedModel.Chat(
                template: try $0.template(), toolTemplate: try $0.template(withTools: true),
                variables: $0.specialTokens)
        }
        if toolParser != "auto" {
            chat?.toolParser = ToolParser.all.first { $0.name == toolParser }
        }
        if reasoningParser != "auto" {
            chat?.reasoningParser = ReasoningParser.all.first { $0.name == reasoningParser }
        }
        let folder = model.split(separator: "/").last.map(String.init) ?? "model"
        let generation = checkpoint.generationConfig
        // A checkpoint that says not to sample gives no parameters of sampling either.
        let samples = generation?.doSample != false
        return ServedModel(
            name: name ?? folder, aliases: name == nil ? [model] : [],
            tokenizer: try Tokenizer(directory: checkpoint.path), chat: chat,
            documentStart: try? checkpoint.config.documentStart(),
            stop: try checkpoint.stopTokens(),
            defaults: SamplingDefaults(
                temperature: samples ? generation?.temperature ?? 1 : 1,
                topP: samples ? generation?.topP ?? 1 : 1,
                topK: samples ? generation?.topK ?? 0 : 0,
                repetitionPenalty: samples ? generation?.repetitionPenalty ?? 1 : 1),
            created: time(nil), fingerprint: "minima-\(Minima.versionNumber)")
    }
}

/// How a server's run ended; `nil` while it runs.
private final class ServeOutcome: Sendable {
    let result = Mutex<Result<Void, any Error>?>(nil)
}
