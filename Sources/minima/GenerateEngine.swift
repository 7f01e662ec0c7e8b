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
    /// See ``EngineOptions``.
    var prefixCaching = true
    var stepSeconds: Double?

    /// What the kernels are made for; `nil` where libtorch computes.
    let decoder: Decoder?
    /// Whether libtorch may take over what the kernels turn out not to do.
    private let mayFallBack: Bool

    /// What the kernels need to know of the model before it is loaded.
    struct Decoder {
        let memory: CUDAMemory
        let kernels: CUDAContext
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
            decoder = try Self.decoder(of: checkpoint, draft, options, device)
        case .auto:
            guard device.isCUDA, wanted == .bfloat16 else {
                decoder = nil
                break
            }
            do {
                decoder = try Self.decoder(of: checkpoint, draft, options, device)
            } catch {
                guard Self.isBeyondKernels(error) else { throw error }
                Self.warn(error)
                decoder = nil
            }
        }
        if decoder == nil, options.kvDtype != .bfloat16 {
            throw GenerateError.cacheNeedsKernels(options.kvDtype)
        }
    }

    /// Numbers of tokens that steps may propose, 0 first.
    var draftTokens: [Int] {
        guard draft != nil else { return [0] }
        return switch speculation {
        case .off: [0]
        case .fixed(let count): [0, count]
        case .automatic: CUDALayout.chosenDraftTokens
        }
    }

    var mostDraftTokens: Int { draftTokens.max() ?? 0 }

    /// Places in pages for a sequence of `length` tokens: steps queued behind its end write, too.
    func places(_ length: Int) -> Int { min(length + 2 * mostDraftTokens, context) }

    private static func decoder(
        of checkpoint: Checkpoint, _ draft: GenerateDraft?, _ options: DeviceEngineOptions,
        _ device: Device
    ) throws -> Decoder {
        let architecture = try CUDABackend.architecture(of: checkpoint)
        // What an output projection's format takes is counted with its bytes.
        let formats = try CompressionManifest(checkpoint.config).modules
            .filter { $0.key != LinearShape.headName }.values
        let kernels = try options.kernels(on: device)
        return Decoder(
            memory: try CUDAMemory(
                architecture, formats: Array(formats),
                weightBytes: checkpoint.weightBytes(.bfloat16), draft: draft?.memory(),
                limits: kernels.limits), kernels: kernels)
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

    // MARK: The engine

    /// What an engine is made for.
    struct Size {
        /// Requests at one time.
        var slots: Int
        /// Requests that may wait.
        var maxWaiting: Int
        /// Tokens of the longest sequence: what goes in, and what comes out but for the last token,
        /// which is never read.
        var longest: Int
        /// Pages that all requests of a time need together; `nil`: as if all were the longest.
        var pages: Int?
    }

    /// Slots and pages.
    private struct Plan {
        let slots: Int
        let pages: Int
        let context: Int
        /// Pages of the longest sequence.
        let leastPages: Int
    }

    /// What an engine needs, as far as there is memory for it.
    ///
    /// - Throws: ``GenerateError`` when the longest request does not fit.
    private func plan(_ decoder: Decoder?, _ size: Size) throws -> Plan {
        // The kernels' sums and rotary angles follow these sizes: what is asked must not change them.
        let isFixed = deterministic && decoder != nil
        let slots = isFixed ? parallel : min(parallel, max(size.slots, 1))
        // The last token of a sequence has no place in a page, but counts.
        let longest = isFixed ? context : min(places(size.longest) + 1, context)
        let budget = try budget(decoder, slots: slots, longest: longest)
        let weights = budget.weightBytes + loadingBytes(decoder, slots: slots, longest: longest)
        guard weights < budget.deviceBytes else {
            throw GenerateError.modelTooLarge(
                bytes: weights, available: budget.deviceBytes, device: device,
                isLimited: options.vram != nil)
        }
        let least = budget.pages(for: size.longest)
        guard least <= budget.pages else {
            throw GenerateError.noMemory(
                tokens: size.longest, needed: budget.bytes(requests: 1, of: size.longest),
                available: budget.deviceBytes, fitting: try longestFitting(decoder), device: device)
        }
        let (all, overflows) = slots.multipliedReportingOverflow(
            by: budget.pages(for: places(size.longest)))
        let wanted = min(size.pages ?? .max, overflows ? .max : all)
        return Plan(
            slots: slots, pages: max(min(max(wanted, least), budget.pages), 1), context: longest,
            leastPages: least)
    }

    /// Throws where an engine of that size would find no memory; loads nothing.
    func check(_ size: Size) throws { _ = try plan(decoder, size) }

    /// What `body` makes of a server's size: its requests may be as long as `asked` says, else as there is
    /// memory for beside what as many as run at one time need.
    func longestServed<Value>(
        _ asked: Int?, maxWaiting: Int, _ body: (Size) throws -> Value
    ) throws -> Value {
        var longest = min(asked ?? context, context)
        while true {
            do {
                // The last token of a sequence is never read.
                return try body(
                    Size(slots: parallel, maxWaiting: maxWaiting, longest: longest - 1))
            } catch {
                guard case GenerateError.noMemory(_, _, _, let fitting, _) = error, asked == nil,
                    fitting > 1
                else { throw error }
                // What fits alone may not fit beside what many requests need.
                longest = min(fitting + 1, longest / 4 * 3)
            }
        }
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

    /// Loads the model into an engine.
    ///
    /// - Parameter onReady: Hears where the time went.
    func open(_ size: Size, onReady: @escaping @Sendable (StartupTimes) -> Void = { _ in }) throws
        -> Engine
    {
        let engineOptions = EngineOptions(
            maxWaiting: max(size.maxWaiting, 1), stepSeconds: stepSeconds,
            deterministic: deterministic, speculation: speculation, prefixCaching: prefixCaching)
        return try Engine(engineOptions) {
            guard let decoder else { return try libtorch(size, onReady) }
            do {
                return try kernels(decoder, size, onReady)
            } catch {
                guard mayFallBack, Self.isBeyondKernels(error) else { throw error }
                Self.warn(error)
                return try libtorch(size, onReady)
            }
        }
    }

    private func kernels(
        _ decoder: Decoder, _ size: Size, _ onReady: (StartupTimes) -> Void
    ) throws -> any DecodeBackend {
        let plan = try plan(decoder, size)
        var layout = layout(slots: plan.slots, longest: plan.context)
        layout.pages = plan.pages
        if let fewer = layout.reducedDrafts {
            Terminal.write(
                "minima: warning: steps of \(fewer.bucket) and more requests propose at most "
                    + "\(fewer.draftTokens) tokens each")
        }
        let progress = ProgressLine()
        let backend = try CUDABackend(
            checkpoint, layout: layout, draft: draft?.kernels(), kernels: decoder.kernels,
            limit: options.limit, leastPages: plan.leastPages, onProgress: progress.show)
        onReady(backend.startup)
        return backend
    }

    private func libtorch(_ size: Size, _ onReady: (StartupTimes) -> Void) throws
        -> any DecodeBackend
    {
        let plan = try plan(nil, size)
        var times = StartupTimes()
        let model = try times.measure("weights") {
            try checkpoint.loadModel(device: device, dtype: dtype, onTensor: checkInterrupt)
        }
        let backend = try times.measure("pages and draft") {
            try TorchBackend(
                model, slots: plan.slots, pages: plan.pages, pageTokens: Self.pageTokens,
                prefillChunk: Self.chunk(nil),
                draft: draft?.libtorch(for: model, onTensor: checkInterrupt),
                draftTokens: mostDraftTokens)
        }
        onReady(times)
        return backend
    }
}

extension StartupTimes {
    /// `weights 12.3 s, kernels 4.1 s, graphs 6.0 s`.
    var words: String {
        parts.map { "\($0.name) \(fixed($0.seconds, 1)) s" }.joined(separator: ", ")
    }
}
