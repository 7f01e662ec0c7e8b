import ArgumentParser
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaRuntime
import MinimaTensor
import MinimaTokenizer

/// What proposes tokens, and how many.
struct DraftingOptions: ParsableArguments {
    /// Tokens that a step may propose at most.
    static let mostTokens = 15

    @Option(
        help: """
            What proposes tokens, to be faster; what comes out stays the same: ngram (what followed the \
            last tokens before), or the directory of an EAGLE-3 draft for this model or of a smaller \
            model with the same tokens.
            """, completion: .directory)
    var draft: String?

    @Option(
        help: """
            With --draft, how many tokens a step proposes: 1 to 15, off, or auto, which measures \
            what is fastest. Default: auto.
            """)
    var speculate: SpeculationChoice?

    @Option(
        help: ArgumentHelp(
            """
            With an EAGLE-3 draft, propose trees instead of chains: up to this many candidates after \
            each token, 2 to 8, of which a step verifies as many as --speculate says.
            """, valueName: "width"))
    var draftTree: Int?

    func check(deterministic: Bool) throws {
        if let draftTree {
            guard (2...8).contains(draftTree) else {
                throw ValidationError(
                    "--draft-tree takes 2 to 8 candidates, found \(draftTree); leave it out for chains"
                )
            }
            guard draft != nil else {
                throw ValidationError("--draft-tree needs --draft, which says what proposes tokens")
            }
        }
        guard let speculate else {
            if draft != nil, deterministic { try needsNumber() }
            return
        }
        guard draft != nil || speculate.speculation == .off else {
            throw ValidationError("--speculate needs --draft, which says what proposes tokens")
        }
        if deterministic, speculate.speculation == .automatic { try needsNumber() }
    }

    private func needsNumber() throws {
        throw ValidationError(
            "--deterministic leaves no choice to measured times; give --speculate a number, or off")
    }

    /// What the engine is told.
    var speculation: Speculation { speculate?.speculation ?? (draft == nil ? .off : .automatic) }

    /// The draft for a model; `nil` without one.
    func open(for target: Checkpoint) throws -> GenerateDraft? {
        guard let draft, speculation != .off else { return nil }
        return try GenerateDraft(draft, width: draftTree ?? 1, for: target)
    }
}

/// `auto`, `off` or a number.
struct SpeculationChoice: Hashable, ExpressibleByArgument {
    let speculation: Speculation

    /// As it was given.
    var text: String {
        switch speculation {
        case .automatic: "auto"
        case .off: "off"
        case .fixed(let count): "\(count)"
        }
    }

    init?(argument: String) {
        switch argument {
        case "auto": speculation = .automatic
        case "off": speculation = .off
        default:
            guard let count = Int(argument), (1...DraftingOptions.mostTokens).contains(count) else {
                return nil
            }
            speculation = .fixed(count)
        }
    }
}

/// A draft that was found.
struct GenerateDraft: Sendable {
    enum Kind: Sendable {
        case ngram
        case eagle(Checkpoint)
        case model(Checkpoint)
    }

    /// As it was given.
    let name: String
    let kind: Kind
    /// Candidates after each token at most; 1 for chains.
    let width: Int

    /// Finds out what `name` is; reads no weight.
    ///
    /// - Throws: `DraftError` for an EAGLE-3 draft of another model, `DraftingError` and
    ///   ``GenerateError/otherTokens(draft:model:id:)`` for a model of other tokens,
    ///   ``GenerateError/noTree(_:)`` for a `width` above 1 with what is no EAGLE-3 draft.
    init(_ name: String, width: Int, for target: Checkpoint) throws {
        self.name = name
        self.width = width
        guard name != "ngram" else {
            kind = .ngram
            guard width == 1 else { throw GenerateError.noTree(name) }
            return
        }
        guard access(name, F_OK) == 0 else { throw GenerateError.noDraft(name) }
        let checkpoint = try Checkpoint(path: name)
        if try EagleConfiguration.describes(checkpoint.config) {
            let sizes = target.config
            try DraftError.check(
                EagleConfiguration(checkpoint.config), path: checkpoint.path,
                hidden: sizes.int("hidden_size"), vocabulary: sizes.int("vocab_size"),
                layers: sizes.int("num_hidden_layers"))
            kind = .eagle(checkpoint)
        } else {
            try checkpoint.checkModel()
            kind = .model(checkpoint)
            guard width == 1 else { throw GenerateError.noTree(name) }
            try requireTokens(of: target, in: checkpoint)
        }
    }

    /// Throws unless both have the same token for each id.
    private func requireTokens(of target: Checkpoint, in draft: Checkpoint) throws {
        try CUDADraft.checkVocabulary(of: draft, for: target)
        // A draft without a tokenizer is taken at its word.
        guard access("\(draft.path)/tokenizer.json", F_OK) == 0 else { return }
        let (own, wanted) = (
            try Tokenizer(directory: draft.path), try Tokenizer(directory: target.path)
        )
        let count = min(
            max(own.vocabularySize, wanted.vocabularySize), try target.config.int("vocab_size"))
        for id in 0..<Int32(clamping: count) where own.token(for: id) != wanted.token(for: id) {
            throw GenerateError.otherTokens(draft: draft.path, model: target.path, id: id)
        }
    }

    private var checkpoint: Checkpoint? {
        switch kind {
        case .ngram: nil
        case .eagle(let checkpoint), .model(let checkpoint): checkpoint
        }
    }

    /// What the kernels' memory depends on; `nil` where nothing of it is on the device.
    ///
    /// - Throws: `RuntimeError` for a model whose layers the kernels do not know.
    func memory() throws -> CUDAMemory.Draft? {
        guard let checkpoint else { return nil }
        let bytes = checkpoint.weightBytes(.bfloat16)
        let formats = try CompressionManifest(checkpoint.config).modules.values
        switch kind {
        case .ngram: return nil
        case .eagle:
            return try CUDAMemory.Draft(
                head: EagleConfiguration(checkpoint.config), weightBytes: bytes,
                isQuantized: !formats.isEmpty, width: width)
        case .model:
            return try CUDAMemory.Draft(
                model: CUDABackend.architecture(of: checkpoint), formats: Array(formats),
                weightBytes: bytes)
        }
    }

    /// Bytes of its weights when numbers are of type `dtype`; codes stay as they are stored.
    func weightBytes(_ dtype: DType) -> Int { checkpoint?.weightBytes(dtype) ?? 0 }

    /// Bytes of one token's keys and values.
    func keyValueBytes(_ dtype: DType) throws -> Int {
        switch kind {
        case .ngram: return 0
        case .eagle(let checkpoint):
            let config = try EagleConfiguration(checkpoint.config)
            return 2 * config.keyValueHeads * config.headDim * dtype.byteCount
        case .model(let checkpoint): return try checkpoint.keyValueBytes(dtype)
        }
    }

    /// Loads it for libtorch.
    func libtorch(
        for target: any LanguageModel, onTensor: @escaping () throws -> Void
    ) throws -> TorchDraft {
        switch kind {
        case .ngram: .ngram()
        case .eagle(let checkpoint):
            .eagle(
                try EagleDraft(checkpoint, target: target, onTensor: onTensor), width: width)
        case .model(let checkpoint):
            .model(
                try checkpoint.loadModel(
                    device: target.device, dtype: target.dtype, onTensor: onTensor))
        }
    }

    /// What the kernels load.
    func kernels() -> CUDADraft {
        switch kind {
        case .ngram: .ngram()
        case .eagle(let checkpoint): .head(checkpoint, width: width)
        case .model(let checkpoint): .model(checkpoint)
        }
    }
}

extension Checkpoint {
    /// Bytes of the weights when numbers are of type `dtype`; codes stay as they are stored.
    func weightBytes(_ dtype: DType) -> Int {
        tensors.reduce(0) { sum, tensor in
            sum
                + (tensor.dtype.isFloatingPoint
                    ? tensor.elementCount * dtype.byteCount : tensor.byteCount)
        }
    }

    /// Bytes of one token's keys and values in all layers.
    func keyValueBytes(_ dtype: DType) throws -> Int {
        try sites().reduce(0) { sum, site in
            let members = site.members.filter { ["k_proj", "v_proj"].contains($0.role) }
            return sum + members.reduce(0) { $0 + $1.outputs } * dtype.byteCount
        }
    }
}

extension GenerationResult.Speculation {
    /// What a draft has done so far.
    init(_ name: String, _ metrics: SpeculationMetrics) {
        self.init(
            draft: name, acceptanceLength: metrics.acceptanceLength,
            accepted: zip(metrics.accepted, metrics.reached).map {
                $1 > 0 ? Double($0) / Double($1) : 0
            },
            steps: Dictionary(
                uniqueKeysWithValues: metrics.steps.map { ("\($0.key)", $0.value.count) }),
            plainTokensPerSecond: metrics.steps[0]?.timed.tokensPerSecond)
    }

    /// For people: `2.31 tokens per step with up to 5 proposed, 41 tokens/s without`.
    var summary: String {
        guard let acceptanceLength else { return "draft: nothing was proposed" }
        let most = steps.keys.compactMap { Int($0) }.max() ?? 0
        let plain = plainTokensPerSecond.map { ", \(short($0)) tokens/s in steps without" } ?? ""
        return
            "draft: \(fixed(acceptanceLength, 2)) tokens per step with up to \(most) proposed\(plain)"
    }
}
