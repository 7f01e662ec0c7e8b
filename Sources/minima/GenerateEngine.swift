import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaRuntime
import MinimaStages
import MinimaTensor

/// What computes the tokens.
enum BackendChoice: String, ExpressibleByArgument, CaseIterable, CustomStringConvertible {
    case auto, kernels, libtorch

    var description: String { rawValue }
}

/// Makes the engine that a model runs on: by the decoding kernels or through libtorch, with as many
/// slots and pages as the requests need.
struct EngineMaker: Sendable {
    let checkpoint: Checkpoint
    let device: Device
    let options: DeviceEngineOptions
    /// Requests at one time, at most.
    let parallel: Int
    let deterministic: Bool
    /// The type that the model computes in.
    let dtype: DType
    /// The longest sequence, prompt and new tokens.
    let context: Int
    /// What proposes tokens; `nil`: nothing.
    let draft: GenerateDraft?
    let speculation: Speculation

    /// What the kernels are made for; `nil` where libtorch computes.
    private let decoder: Decoder?
    /// Whether libtorch may take over what the kernels turn out not to do.
    private let mayFallBack: Bool

    private struct Decoder {
        let sizes: DecoderDimensions
        let attention: AttentionShape
    }

    /// Decides what computes; reads no weight.
    ///
    /// Left to choose, the kernels run what is computed in bfloat16 on a GPU, if they know the
    /// family; libtorch runs the rest.
    init(
        _ checkpoint: Checkpoint, device: Device, dtype: DType?, backend: BackendChoice,
        options: DeviceEngineOptions, parallel: Int, deterministic: Bool,
        draft: GenerateDraft? = nil, speculation: Speculation = .off
    ) throws {
        self.checkpoint = checkpoint
        self.draft = draft
        self.speculation = speculation
        self.device = device
        self.options = options
        self.parallel = parallel
        self.deterministic = deterministic
        let wanted = try dtype ?? checkpoint.defaultDType(on: device)
        self.dtype = backend == .kernels ? .bfloat16 : wanted
        context = try checkpoint.config.int("max_position_embeddings")
        mayFallBack = backend == .auto
        switch backend {
        case .libtorch: decoder = nil
        case .kernels:
            guard device.isCUDA else { throw GenerateError.kernelsNeedGPU(device: device) }
            guard dtype ?? .bfloat16 == .bfloat16 else {
                throw GenerateError.kernelsComputeIn(.bfloat16, asked: wanted)
            }
            decoder = try Self.decoder(of: checkpoint)
        case .auto:
            guard device.isCUDA, wanted == .bfloat16 else {
                decoder = nil
                break
            }
            do {
                decoder = try Self.decoder(of: checkpoint)
            } catch {
                guard Self.isBeyondKernels(error) else { throw error }
                Self.warn(error)
                decoder = nil
            }
        }
        if decoder == nil, options.kvDtype != .bfloat16 {
            throw GenerateError.cacheNeedsKernels(options.kvDtype)
        }
        if decoder != nil { _ = try draft?.kernels() }
    }

    /// Numbers of tokens that steps may propose, 0 first.
    private var draftTokens: [Int] {
        guard draft != nil else { return [0] }
        return switch speculation {
        case .off: [0]
        case .fixed(let count): [0, count]
        case .automatic: [0, 1, 2, 3, 5, 7]
        }
    }

    private var mostDraftTokens: Int { draftTokens.max() ?? 0 }

    /// Places in pages for a sequence of `length` tokens: steps queued behind its end write, too.
    private func places(_ length: Int) -> Int { min(length + 2 * mostDraftTokens, context) }

    private static func decoder(of checkpoint: Checkpoint) throws -> Decoder {
        let architecture = try CUDABackend.architecture(of: checkpoint)
        let sizes = architecture.dimensions
        return Decoder(
            sizes: sizes,
            attention: try AttentionShape(
                heads: sizes.heads, kvHeads: sizes.keyValueHeads, headDim: sizes.headDim,
                normalisesQueriesAndKeys: architecture.normalisesQueriesAndKeys))
    }

    /// Whether the kernels do not do this model, or not on this machine.
    private static func isBeyondKernels(_ error: any Error) -> Bool {
        if error is RuntimeError { return true }
        guard let error = error as? KernelError else { return false }
        switch error {
        case .driverNotFound, .compilerNotFound, .unsupportedDevice, .exceedsDevice, .invalidLaunch:
            return true
        default: return false
        }
    }

    private static func warn(_ error: any Error) {
        Terminal.write("minima: warning: decoding through libtorch: \(error)")
    }

    // MARK: Memory

    /// Tokens of a page.
    static var pageTokens: Int { PagedKeyValues.pageTokens }

    /// Tokens of a prompt that are computed at once.
    private static func chunk(_ decoder: Decoder?) -> Int { decoder == nil ? 512 : 2048 }

    /// What fits beside the model, for `slots` requests at one time of at most `longest` tokens;
    /// weights and what lies between the layers are predicted.
    func budget(slots: Int, longest: Int) throws -> KeyValueBudget {
        try budget(decoder, slots: slots, longest: longest)
    }

    private func budget(_ decoder: Decoder?, slots: Int, longest: Int) throws -> KeyValueBudget {
        let available = try device.memory()?.available ?? HostMemory.available() ?? .max
        let weights = checkpoint.weightBytes(dtype) + (draft?.weightBytes(dtype) ?? 0)
        let draftBytes = try draft?.keyValueBytes(dtype) ?? 0
        guard let decoder else {
            return KeyValueBudget(
                deviceBytes: available, weightBytes: weights,
                activationBytes: try activationBytes(slots: slots, longest: longest),
                bytesPerToken: try checkpoint.keyValueBytes(dtype) + draftBytes,
                pageTokens: Self.pageTokens)
        }
        let layout = CUDALayout(
            slots: slots, context: longest, format: options.kvDtype.format,
            isDeterministic: deterministic, draftTokens: draftTokens)
        let isCompressed = try !CompressionManifest(checkpoint.config).modules.isEmpty
        // Factored sites give their ranks' values and their outputs; no rank is larger than those.
        let largest = decoder.sizes.sites.map { $0.outputs + min($0.outputs, $0.inputs) }.max()
        let bucket = layout.buckets.last ?? slots
        // Steps that verify more rows than 256 do not exist.
        let memory = DecodeMemory(
            decoder.sizes, weightBytes: weights,
            layout: DecodeMemory.Layout(
                requests: max(bucket, min(bucket * (mostDraftTokens + 1), 256)),
                context: longest,
                pageTokens: Self.pageTokens, chunk: layout.chunk,
                largestRank: isCompressed ? largest ?? 0 : 0, expandsWeights: isCompressed,
                splits: Self.pageTokens, workspace: 64 << 20))
        let page = PagedKeyValues.bytesPerPage(
            layers: decoder.sizes.layers, shape: decoder.attention, format: layout.format)
        return KeyValueBudget(
            deviceBytes: available, weightBytes: weights,
            activationBytes: memory.activations + memory.workspace + memory.logits
                + SamplingState.bytes(
                    slots: slots, vocabulary: decoder.sizes.vocabularySize,
                    places: mostDraftTokens + 1, sequenceLength: longest),
            bytesPerToken: (page + Self.pageTokens - 1) / Self.pageTokens + draftBytes,
            pageTokens: Self.pageTokens)
    }

    /// Bytes between the layers at most, through libtorch: a layer's inputs and outputs for a chunk,
    /// twice; scores of attention over the longest sequence and their softmax; logits of all
    /// requests in float32 or int64, of which choosing tokens holds about eight, and those of a slice
    /// of a prompt that is scored about four.
    private func activationBytes(slots: Int, longest: Int) throws -> Int {
        let verified = slots * (mostDraftTokens + 1)
        let rows = max(min(Self.chunk(nil), longest), verified)
        let width = try checkpoint.sites().filter { $0.layer == 0 }
            .reduce(0) { $0 + $1.inputs + $1.outputs }
        let heads = try checkpoint.config.int("num_attention_heads")
        let vocabulary = try checkpoint.config.int("vocab_size")
        let values = 2 * Double(rows) * (Double(width) + Double(heads) * Double(longest))
        let logits =
            8 * Double(vocabulary) * Double(max(8 * verified, 4 * PromptScoring.rowsAtOnce))
        let bytes = values * Double(dtype.byteCount) + logits
        // The budget takes no more, and configurations can hold any number.
        return Int(min(bytes, 0x1p50))
    }

    /// How many requests of which length fit, for people.
    func memoryTable() throws -> String {
        let budget = try budget(slots: parallel, longest: context)
        var lengths = Array(sequence(first: 512) { $0 < context / 2 ? $0 * 2 : nil })
            .filter { $0 < context }
        lengths.append(context)
        func padded(_ cells: [String]) -> String {
            cells.map { String(repeating: " ", count: max(12 - $0.count, 0)) + $0 }.joined()
        }
        let rows = budget.table(lengths: lengths).map {
            padded([
                grouped($0.length), grouped($0.requests), grouped($0.pages), byteText($0.bytes),
            ])
        }
        return """
            \(device), free      \(byteText(budget.deviceBytes))
            weights         \(byteText(budget.weightBytes)) in \(dtype)\(try draftText())
            activations     \(byteText(budget.activationBytes)) at most, with --parallel \(parallel)
            left for pages  \(budget)

            \(padded(["tokens", "requests", "pages each", "memory"]))
            \(rows.joined(separator: "\n"))

            """
    }

    /// What the weights and the pages hold of a draft's.
    private func draftText() throws -> String {
        guard let draft else { return "" }
        let weights = draft.weightBytes(dtype)
        guard weights > 0 else { return "" }
        return """
            , of which the draft \(byteText(weights)), and \(byteText(try draft.keyValueBytes(dtype))) \
            of each token in pages
            """
    }

    // MARK: The engine

    /// Slots and pages.
    private struct Plan {
        let slots: Int
        let pages: Int
        let longest: Int
    }

    /// What requests of `lengths` tokens each need, as far as there is memory for it.
    ///
    /// - Throws: ``GenerateError`` when the longest request does not fit.
    private func plan(_ decoder: Decoder?, lengths: [Int]) throws -> Plan {
        let lengths = lengths.sorted(by: >)
        // The kernels' sums and rotary angles follow these sizes: what is asked must not change them.
        let isFixed = deterministic && decoder != nil
        let slots = isFixed ? parallel : min(parallel, max(lengths.count, 1))
        let longest = isFixed ? context : places(lengths.first ?? 1)
        let budget = try budget(decoder, slots: slots, longest: longest)
        guard budget.weightBytes < budget.deviceBytes else {
            throw GenerateError.modelTooLarge(
                bytes: budget.weightBytes, available: budget.deviceBytes, device: device)
        }
        guard budget.pages(for: lengths.first ?? 1) <= budget.pages else {
            throw GenerateError.noMemory(
                tokens: lengths.first ?? 1, fitting: try longestFitting(decoder), device: device)
        }
        let all = lengths.prefix(slots).reduce(0) { $0 + budget.pages(for: places($1)) }
        return Plan(slots: slots, pages: max(min(all, budget.pages), 1), longest: longest)
    }

    /// Tokens of the longest request that fits alone.
    private func longestFitting(_ decoder: Decoder?) throws -> Int {
        var (fits, fails) = (0, context + 1)
        while fails - fits > 1 {
            let middle = fits + (fails - fits) / 2
            let budget = try budget(decoder, slots: 1, longest: middle)
            if budget.pages(for: middle) <= budget.pages { fits = middle } else { fails = middle }
        }
        return fits
    }

    /// Loads the model into an engine for requests of `lengths` tokens each, prompt and new ones.
    func open(lengths: [Int]) throws -> Engine {
        let engineOptions = EngineOptions(
            maxWaiting: max(lengths.count, 1), deterministic: deterministic,
            speculation: speculation)
        return try Engine(engineOptions) {
            guard let decoder else { return try libtorch(lengths) }
            do {
                return try kernels(decoder, lengths)
            } catch {
                guard mayFallBack, Self.isBeyondKernels(error) else { throw error }
                Self.warn(error)
                return try libtorch(lengths)
            }
        }
    }

    private func kernels(_ decoder: Decoder, _ lengths: [Int]) throws -> any DecodeBackend {
        let plan = try plan(decoder, lengths: lengths)
        let layout = CUDALayout(
            slots: plan.slots, context: plan.longest, pages: plan.pages,
            format: options.kvDtype.format, chunk: Self.chunk(decoder),
            isDeterministic: deterministic, draftTokens: draftTokens)
        let progress = ProgressLine()
        return try CUDABackend(
            checkpoint, layout: layout, draft: draft?.kernels(),
            kernels: options.kernels(on: device), onProgress: progress.show)
    }

    private func libtorch(_ lengths: [Int]) throws -> any DecodeBackend {
        let plan = try plan(nil, lengths: lengths)
        let model = try checkpoint.loadModel(
            device: device, dtype: dtype, onTensor: checkInterrupt)
        return try TorchBackend(
            model, slots: plan.slots, pages: plan.pages, pageTokens: Self.pageTokens,
            prefillChunk: Self.chunk(nil),
            draft: draft?.libtorch(for: model, onTensor: checkInterrupt),
            draftTokens: mostDraftTokens)
    }
}
