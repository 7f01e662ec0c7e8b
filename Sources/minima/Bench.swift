import ArgumentParser
import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaReport
import MinimaRuntime
import MinimaStages
import MinimaTensor

struct Bench: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Measures how fast models decode on this GPU, against what it could do.",
        discussion: """
            Every way of storing the weights is loaded, read a prompt and decodes, one after the \
            other in one process, beside the card's own ceilings. With --shape the weights are \
            random, made on the device at the exact sizes; nothing is read but their names. The \
            other requests of a batch get random keys and values. With --draft each is measured \
            again with steps that propose tokens and verify them; a draft of random weights guesses \
            nothing, so --acceptance prescribes how many tokens a step makes, and results say so.
            """)

    @Argument(help: "Model directories.", completion: .directory)
    var models: [String] = []

    @Option(help: .init("Random weights of these sizes in place of a model: \(ModelShape.names)."))
    var shape: String?

    @Option(help: "The same with the sizes of a directory's config.json.", completion: .directory)
    var sizes: String?

    @Option(
        parsing: .upToNextOption,
        help: """
            With --shape or --sizes, how the weights are stored: \
            FORMAT[/split][:SHARE[@PART]][:intBITS[u]|:fp8][+headBITS[u]|+headfp8], as dense, \
            interpolative:0.383, tt:0.383@mlp:int8, dense:int4u, dense:fp8, dense:int4+head8. Tensor \
            formats keep modes whole, so that they are products of two matrices, unless they are \
            written as tt/split:0.383. SHARE of the linear layers' parameters is removed, from those \
            with PART in their names; codes share a scale in groups of 64, and with u their levels are \
            equally spaced, with fp8 those of float8 (e4m3); the output projection is in bfloat16 or in \
            codes of its own. Default: dense.
            """)
    var weights: [WeightChoice] = []

    @Option(
        parsing: .upToNextOption,
        help: "With --shape or --sizes, plans to measure, after --weights where these are given.",
        completion: .file())
    var plan: [String] = []

    @Option(help: "Tokens in the cache when the timed steps begin.")
    var context = 8192

    @Option(parsing: .upToNextOption, help: "Requests at once; several are measured in turn.")
    var requests = [1]

    @Option(help: "Decode steps of a repetition.")
    var steps = 32

    @Option(help: "Repetitions.")
    var repeats = 5

    @Option(help: "Tokens of a prompt read at once.")
    var chunk = 2048

    @Option(
        help: """
            Also measure speculative decoding: ngram, random[:CODES] (an EAGLE-3 head of the model's \
            sizes with random weights, in bfloat16 or codes as intBITS[u] or fp8), random:SHAPE[:CODES] (a \
            model of a --shape with random weights), \
            or the directory of a head or of a smaller model with the same vocabulary.
            """)
    var draft: DraftChoice?

    @Option(
        parsing: .upToNextOption,
        help: """
            With --draft, tokens that are proposed and verified per step; fewer where steps of that many \
            requests verify no more. auto: as many as an engine chooses before each step, none included, \
            up to the largest number beside it, or \(Self.mostChosen) as it does. Default: \
            \(Self.defaultProposals).
            """)
    var speculate: [ProposalChoice] = []

    @Option(
        parsing: .upToNextOption,
        help: """
            With --draft, tokens that a step makes on average, with auto one of the most proposals: these \
            are accepted at random so that this many come out, fewer of a tree that is not as deep. With 1 \
            none is. Simulated, and named so in results.
            """)
    var acceptance: [Double] = []

    @Option(
        help: ArgumentHelp(
            """
            With a head as --draft, propose trees instead of chains: up to this many candidates after each \
            token, 2 to 8.
            """, valueName: "width"))
    var draftTree: Int?

    @OptionGroup var engine: DeviceEngineOptions

    @Option(help: "Account of another engine on the same card to show beside.", completion: .file())
    var peer: [String] = []

    @Option(help: "File to write the account to.", completion: .file())
    var out: String?

    @Option(
        help: """
            With --shape or --sizes: time the linear layers of each of --weights alone, at each number \
            of --requests up to 128, and write what `minima plan --costs` reads.
            """,
        completion: .file())
    var costs: String?

    @Option(help: "Seed of random weights and tokens.")
    var seed: UInt64 = 0

    @Option(help: "cuda or cuda:N.")
    var device = Device.cuda(0)

    @Flag(help: "Search for the fastest cut of each linear kernel first; found ones are kept.")
    var tune = false

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        if costs != nil, !models.isEmpty || !plan.isEmpty {
            throw ValidationError("--costs times --weights at the sizes of --shape or --sizes")
        }
        guard models.isEmpty == (shape != nil || sizes != nil), shape == nil || sizes == nil else {
            throw ValidationError("give model directories, or one of --shape and --sizes")
        }
        if !models.isEmpty, !weights.isEmpty || !plan.isEmpty {
            throw ValidationError(
                "--weights and --plan go with --shape or --sizes; models are stored as they are")
        }
        if device == .cpu {
            throw ValidationError("--device must be cuda or cuda:N, found cpu: kernels need a GPU")
        }
        if let shape, ModelShape.all[shape] == nil {
            throw ValidationError("--shape must be one of \(ModelShape.names), found \(shape)")
        }
        for (name, values, range) in [
            ("--context", [context], 1...1 << 24), ("--requests", requests, 1...256),
            ("--steps", [steps], 1...1 << 16), ("--repeats", [repeats], 1...1000),
            ("--chunk", [chunk], 16...1 << 16),
        ] {
            if let value = values.first(where: { !range.contains($0) }) {
                throw ValidationError(
                    "\(name) must be between \(range.lowerBound) and \(range.upperBound), "
                        + "found \(value)")
            }
        }
        try checkSpeculation()
        guard costs == nil || choices.allSatisfy({ $0.head == nil }) else {
            throw ValidationError("--costs times layers, no output projection; leave +head out")
        }
        for choice in choices {
            do { try choice.check() } catch { throw ValidationError("\(error)") }
        }
    }

    private func checkSpeculation() throws {
        guard let draft else {
            guard speculate.isEmpty, acceptance.isEmpty, draftTree == nil else {
                throw ValidationError("--speculate, --acceptance and --draft-tree go with --draft")
            }
            return
        }
        if let draftTree, !(2...8).contains(draftTree) {
            throw ValidationError(
                "--draft-tree takes 2 to 8 candidates, found \(draftTree); leave it out for chains")
        }
        guard costs == nil else { throw ValidationError("--costs times no --draft") }
        try draft.check()
        let counts = speculate.compactMap(\.count)
        if let count = counts.first(where: { !(1...15).contains($0) }) {
            throw ValidationError("--speculate must be between 1 and 15, found \(count)")
        }
        let most = Double(mostDraftTokens) + 1
        if let length = acceptance.first(where: { !(1...most).contains($0) }) {
            throw ValidationError(
                "--acceptance must be between 1 and \(most), one more than --speculate proposes, "
                    + "found \(length)")
        }
    }

    /// Proposals of a step where no number is given.
    private static let defaultProposals = 5

    /// The most that an engine chooses from.
    private static let mostChosen = CUDALayout.chosenDraftTokens.max() ?? defaultProposals

    /// Numbers of proposals that are measured.
    private var draftTokens: [Int] {
        speculate.isEmpty ? [mostDraftTokens] : Set(speculate.compactMap(\.count)).sorted()
    }

    private var mostDraftTokens: Int {
        speculate.compactMap(\.count).max()
            ?? (speculate.contains(.automatic) ? Self.mostChosen : Self.defaultProposals)
    }

    /// What ``weights`` name.
    private var choices: [WeightChoice] {
        weights.isEmpty && plan.isEmpty ? [WeightChoice(format: Dense.name)] : weights
    }

    func run() throws {
        // What can be wrong with files is found before anything is measured.
        let candidates = try candidates()
        let speculation = try draft?.speculation(
            draftTokens: draftTokens,
            automatic: speculate.contains(.automatic) ? mostDraftTokens : nil, lengths: acceptance,
            width: draftTree ?? 1, seed: seed)
        let peers = try peer.map { try readResult(BenchResult.self, $0) }
        let device = try ComputeOptions.open(device)
        catchInterrupts()
        let progress = ProgressLine()
        let kernels = try engine.kernels(on: device)
        let bench = DecodeBench(
            kernels: kernels, context: context, requests: requests.sorted(),
            format: engine.kvDtype.format, steps: steps, repeats: repeats, chunk: chunk, seed: seed,
            tunesKernels: tune, speculation: speculation, progress: progress.show)
        let card = try BenchResult.Card(measuring: kernels)
        if let costs { return try measureCosts(bench, card, to: costs) }
        var result: BenchResult?
        for candidate in candidates {
            let source = candidate.source
            if result == nil {
                result = BenchResult(
                    version: Minima.versionNumber, model: shape ?? sizes ?? models[0],
                    dimensions: try CUDABackend.architecture(of: source).dimensions, card: card,
                    seed: seed,
                    command: commandLine,
                    versions: ["libtorch": Torch.neededVersion], runs: [])
            }
            try bench.run(source, label: candidate.label) { run in
                var run = run
                run.plan = candidate.plan
                result?.runs.append(run)
                // A later run that fails, or is stopped, does not take the earlier ones with it.
                if let result { try save(result) }
                let tokens = 1 / max(run.step.median, .leastNormalMagnitude)
                let words = run.speculation.map { ", \($0.words)" } ?? ""
                let plain = result?.runs.last {
                    $0.speculation == nil && $0.requests == run.requests
                }
                let ratio = plain.map { $0.step.median * tokens } ?? 1
                let gain =
                    run.speculation == nil ? "" : ", \(fixed(ratio, 3)) times without a draft"
                Terminal.write(
                    "minima: \(run.label)\(words), \(run.requests) requests: "
                        + "\(fixed(tokens, 1)) tokens/s each\(gain)")
            }
        }
        guard var result else { return }
        for peer in peers { try result.add(peer: peer) }
        try save(result)
        if json { return try result.printJSON() }
        try Terminal.output(result.table(), terminator: "")
    }

    /// Times the sites of models of a few layers.
    private func measureCosts(_ bench: DecodeBench, _ card: BenchResult.Card, to path: String)
        throws
    {
        let config =
            try sizes.map { try ModelConfig(path: $0 + "/config.json") }
            ?? ModelShape.config(shape ?? "")
        var members = config.json.object ?? [:]
        members["num_hidden_layers"] = .integer(Int64(DecodeBench.timedLayers))
        let few = try ModelConfig(json: .object(members), path: config.path)
        let dense = try RandomWeights(few, path: config.path, seed: seed)
        var account = DecodeCosts(
            version: Minima.versionNumber, card: card.name, readBandwidth: card.readBandwidth,
            command: commandLine, rows: [])
        for choice in choices {
            let modules = try choice.plan(dense).modules
            let source = try RandomWeights(few, path: config.path, seed: seed, plan: modules)
            for tokens in requests.sorted() where tokens <= 128 {
                account.rows += try bench.costs(
                    of: source, modules: modules, label: choice.label, tokens: tokens)
                try AtomicFile.write(account.json() + "\n", to: path)
            }
        }
        if json { return try account.printJSON() }
        try Terminal.output(account.table(), terminator: "")
    }

    private var commandLine: String {
        CommandLine.arguments.dropFirst().reduce("minima") { "\($0) \($1)" }
    }

    private func save(_ result: BenchResult) throws {
        if let out { try AtomicFile.write(result.json() + "\n", to: out) }
    }

    /// One way of storing the weights.
    private struct Candidate {
        let label: String
        let plan: String?
        let source: any WeightSource
    }

    private func candidates() throws -> [Candidate] {
        guard models.isEmpty else {
            return try models.map {
                Candidate(label: $0, plan: nil, source: try Checkpoint(path: $0))
            }
        }
        let config =
            try sizes.map { try ModelConfig(path: $0 + "/config.json") }
            ?? ModelShape.config(shape ?? "")
        let name = shape ?? sizes ?? ""
        let dense = try RandomWeights(config, path: name, seed: seed)
        func candidate(
            _ label: String, plan: String?, _ modules: [CompressionPlan.Module]
        ) throws -> Candidate {
            Candidate(
                label: label, plan: plan,
                source: try RandomWeights(config, path: name, seed: seed, plan: modules))
        }
        return try choices.map { try candidate($0.label, plan: nil, $0.plan(dense).modules) }
            + plan.map {
                try candidate($0, plan: $0, readResult(CompressionPlan.self, $0).modules)
            }
    }
}
