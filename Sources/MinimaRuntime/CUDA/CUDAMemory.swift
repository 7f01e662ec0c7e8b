import MinimaCore
import MinimaKernels
import MinimaModels

/// What the memory of an engine on a CUDA device depends on beside its layout; predicts it, before
/// weights are loaded from what configurations say, and afterwards from the weights themselves.
///
/// Everything is allocated before the first token and kept, but for what ``reserve(_:)`` leaves room
/// for.
public struct CUDAMemory: Sendable, Hashable {
    /// Sizes of the model.
    public let dimensions: DecoderDimensions
    /// What attention is compiled for.
    public let attention: AttentionShape
    /// Bytes of the weights as kernels read them.
    public let weightBytes: Int
    /// What proposes tokens by weights of its own; `nil`: nothing, or what needs no memory.
    public let draft: Draft?
    /// The device's.
    public let limits: DeviceLimits

    private let bounds: WeightBounds

    /// Rows that the decoding kernel multiplies at a time.
    private static let narrowRows = max(
        DecoderProducts.narrowRows, DecoderProducts.narrowCodeRows)
    /// libtorch gives cuBLAS 32 MiB for each stream on Hopper and Blackwell, 8 MiB elsewhere, and as
    /// much to cuBLASLt (`CUDABlas.cpp`, `getChosenWorkspaceSize`); products run on the stream that
    /// weights are loaded on and on the decoder's.
    private static let libraryBytes = 4 * 32 << 20

    // MARK: Bytes

    /// This layout with as many pages as fit beside what is loaded, at most as many as it has.
    ///
    /// - Parameters:
    ///   - available: Bytes for more tensors.
    ///   - leastPages: Fewer are an error.
    /// - Throws: ``DeviceMemoryError``.
    func fitted(_ layout: CUDALayout, available: Int, leastPages: Int) throws -> CUDALayout {
        let loaded = weightBytes + (draft?.weightBytes ?? 0)
        var layout = layout
        let fitting = pages(layout, available: available + loaded)
        guard fitting >= min(leastPages, layout.pageCount) else {
            layout.pages = leastPages
            throw DeviceMemoryError(
                needed: needed(layout), available: available + loaded, weights: loaded)
        }
        layout.pages = min(layout.pageCount, fitting)
        return layout
    }

    /// Bytes of one page of keys and values in all layers, a draft's too.
    public func pageBytes(_ format: KeyValueFormat) -> Int {
        PagedKeyValues.bytesPerPage(layers: dimensions.layers, shape: attention, format: format)
            + (draft?.pageBytes(format) ?? 0)
    }

    /// What an engine of a layout holds in tensors once it is made.
    public func prediction(_ layout: CUDALayout) -> DecodeMemory {
        let layout = layout.limited(to: attention, draft: draft, by: limits)
        let shapes = DecoderBuffers.Shapes(
            dimensions, gathersGates: bounds.gathersGates,
            largestResults: max(bounds.largestResults, draft?.bounds.largestResults ?? 0),
            largestExpanded: max(bounds.largestExpanded, draft?.bounds.largestExpanded ?? 0),
            layout: layout)
        let vocabulary = dimensions.vocabularySize
        let state = SamplingState.bytes(
            slots: layout.slots, vocabulary: vocabulary, places: layout.mostDraftTokens + 1,
            sequenceLength: layout.sequenceLength, holdsTrees: holdsTrees(layout))
        let sampling = layout.largestBucket * SamplingKernel.workspaceBytes
        let own = draft.map { $0.buffers(layout) } ?? (bytes: 0, logits: 0)
        let (pages, overflows) = layout.pageCount.multipliedReportingOverflow(
            by: pageBytes(layout.format))
        return DecodeMemory(
            weights: weightBytes + tableBytes + (draft?.weightBytes ?? 0),
            cache: overflows || pages > .max / 2
                ? .max : pages + (draft?.treePageBytes(layout) ?? 0),
            activations: shapes.byteCount + state + sampling + integerBytes(layout) + own.bytes,
            workspace: workspaceBytes(layout) + Self.libraryBytes,
            logits: shapes.logitBytes + own.logits)
    }

    /// Bytes that stay free of the engine's tensors: what the driver keeps for loaded kernels and graphs,
    /// what the allocator cannot use of its blocks, and what is allocated as steps run. Allowances,
    /// not measurements.
    ///
    /// - Attention over a chunk gives a new tensor and its log-sums, scores of a prompt a few numbers of
    ///   each row, twice while they are joined; finding the likeliest tokens takes a quarter of the logits.
    /// - A kernel in a graph takes 8 KiB; a layer has ten, a head's round twelve for each token, fourteen
    ///   where it grows trees, another draft's as many as its layers.
    /// - The allocator rounds what is larger than 10 MiB to 2 MiB, and uses no rest below 1 MiB: half of
    ///   that for each of a layer's eight matrices.
    /// - 256 MiB are for kernels' code and the memory that threads' registers spill to.
    public func reserve(_ layout: CUDALayout) -> Int {
        let layout = layout.limited(to: attention, draft: draft, by: limits)
        let scores = 24 + 24 * SamplingParameters.mostLogprobs
        let shapes = [attention] + (draft.map { [$0.attention] } ?? [])
        let attended = shapes.map { $0.heads * (2 * $0.headDim + 4) }.max() ?? 0
        let chunk = layout.chunk * (attended + 2 * scores)
        let likeliest = layout.largestRows * dimensions.vocabularySize
        let nodes = layout.steps.reduce(0) { sum, size in
            // Steps that propose nothing are there with and without a round.
            let steps = draft != nil && size.draftTokens == 0 ? 2 : 1
            return sum + steps * (10 * dimensions.layers + 8) + (draft?.launches(size) ?? 0)
        }
        let rounding = (dimensions.layers + (draft?.layers ?? 0)) * 8 << 19
        return chunk + likeliest + nodes << 13 + rounding + 256 << 20
    }

    /// What must be free before anything is loaded: all of an engine, or its weights and what lies beside
    /// them meanwhile.
    public func needed(_ layout: CUDALayout) -> Int {
        let prediction = prediction(layout)
        let (all, overflows) = prediction.total.addingReportingOverflow(reserve(layout))
        return overflows ? .max : max(all, prediction.weights + loadingBytes)
    }

    /// Pages that fit beside everything else into `available` bytes; 0 where not even the rest does.
    public func pages(_ layout: CUDALayout, available: Int) -> Int {
        var empty = layout
        empty.pages = 0
        let free = available - prediction(empty).total - reserve(layout)
        return max(free, 0) / max(pageBytes(layout.format), 1)
    }

    /// Places of outputs that kernels read beside the weights: int32, in up to four orders.
    private var tableBytes: Int {
        func outputs(_ sizes: DecoderDimensions) -> Int {
            sizes.sites.reduce(sizes.vocabularySize) { $0 + sizes.layers * $1.outputs }
        }
        guard case .model(let sizes) = draft?.kind else { return 16 * outputs(dimensions) }
        return 16 * (outputs(dimensions) + outputs(sizes))
    }

    /// Most bytes that lie beside the weights while they are loaded; what stands around the target's layers
    /// once more beside a head's.
    private var loadingBytes: Int {
        switch draft?.kind {
        case nil: bounds.loadingBytes
        case .head:
            max(bounds.loadingBytes, bounds.loadingBytes > 0 ? 4 * dimensions.headParameters : 0)
        case .model: max(bounds.loadingBytes, draft?.bounds.loadingBytes ?? 0)
        }
    }

    /// Tables of pages, tokens and lengths; a draft's for each of its rounds.
    private func integerBytes(_ layout: CUDALayout) -> Int {
        let rows = layout.largestBucket
        let decoder =
            layout.slots * layout.pagesPerSlot + rows * (2 + layout.pagesPerSlot)
            + layout.largestRows + 3 * layout.chunk
        guard let draft else { return 4 * decoder }
        let trees =
            holdsTrees(layout)
            ? 4 * layout.largestRows + PathKernels.bytes(layers: dimensions.layers) : 0
        return layout.steps.reduce(4 * decoder + trees) { $0 + draft.integerBytes(layout, $1) }
    }

    /// Whether steps verify trees.
    private func holdsTrees(_ layout: CUDALayout) -> Bool {
        draft?.width ?? 1 > 1 && layout.mostDraftTokens > 0
    }

    /// What kernels' thread blocks hand each other: reserved for all of them before the first is made.
    private func workspaceBytes(_ layout: CUDALayout) -> Int {
        let outputs = dimensions.sites.map(\.outputs) + (draft?.outputs ?? [])
        let linear = DecodeLinear.Workspace.mostBytes(
            slots: outputs.reduce(dimensions.vocabularySize, max) + 64, tokens: Self.narrowRows,
            multiprocessors: limits.multiprocessors)
        return linear
            + DecodeAttention.Workspace.bytes(
                layout.attentions(attention, draft: draft), limits: limits)
    }
}

extension CUDAMemory {
    /// From what is loaded.
    init(_ weights: DecoderWeights, draft: LoadedDraft?, limits: DeviceLimits) throws(KernelError) {
        dimensions = weights.architecture.dimensions
        attention = try weights.attentionShape()
        weightBytes = weights.byteCount
        bounds = WeightBounds(weights)
        self.draft = try draft?.memory()
        self.limits = limits
    }

    /// From configurations alone: what cannot be known without the weights is bounded. Weights in formats
    /// of more than two factors that decoding multiplies out may turn out larger than they are stored;
    /// an engine looks again when it has loaded them.
    ///
    /// - Parameters:
    ///   - formats: Of the modules that are not dense.
    ///   - weightBytes: Stored bytes of the model, numbers counted as bfloat16.
    /// - Throws: `RuntimeError.unsupportedSize` for sizes that no device has memory for.
    public init(
        _ architecture: DecoderArchitecture, formats: [FormatSpec], weightBytes: Int,
        draft: Draft? = nil, limits: DeviceLimits
    ) throws {
        try Self.check(architecture.dimensions)
        dimensions = architecture.dimensions
        attention = try AttentionShape(architecture)
        self.weightBytes = weightBytes
        bounds = WeightBounds(architecture.dimensions, formats: formats)
        self.draft = draft
        self.limits = limits
    }

    /// With these no sum of bytes leaves the range of `Int`.
    static func check(_ sizes: DecoderDimensions) throws(RuntimeError) {
        for (name, value, most) in [
            ("the number of layers", sizes.layers, 1 << 12),
            ("the hidden size", sizes.hiddenSize, 1 << 18),
            ("the number of heads", sizes.heads, 1 << 12),
            ("the number of KV heads", sizes.keyValueHeads, 1 << 12),
            ("the size of a head", sizes.headDim, 1 << 12),
            ("the intermediate size", sizes.intermediateSize, 1 << 20),
            ("the vocabulary", sizes.vocabularySize, 1 << 20),
        ] where !(1...most).contains(value) {
            throw .unsupportedSize(name: name, found: value, needed: "1 to \(most)")
        }
    }

    static func check(_ config: EagleConfiguration) throws(RuntimeError) {
        try check(
            DecoderDimensions(
                layers: 1, hiddenSize: max(config.hidden, config.targetHidden), heads: config.heads,
                keyValueHeads: config.keyValueHeads, headDim: config.headDim,
                intermediateSize: config.intermediate,
                vocabularySize: max(config.vocabulary, config.draftVocabulary)))
    }
}

/// A device that has not the memory for an engine.
public struct DeviceMemoryError: Error, Hashable, CustomStringConvertible {
    /// Bytes that the smallest engine of its kind takes, weights and all.
    public var needed: Int
    /// Bytes that there are for it.
    public var available: Int
    /// Bytes of the weights as they were loaded.
    public var weights: Int

    /// What is needed, what there is, what to do.
    public var description: String {
        func text(_ bytes: Int) -> String {
            let tenths = Int((Double(bytes) * 10 / Double(1 << 30)).rounded())
            return "\(tenths / 10).\(abs(tenths % 10)) GiB"
        }
        return """
            decoding needs \(text(needed)) of device memory, \(text(weights)) of it for weights as kernels \
            read them, and has \(text(available)); shorten the context, lower the number of requests, \
            give it more, or compress the model further
            """
    }
}
