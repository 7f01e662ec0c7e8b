import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// A decoder on a CUDA device: its weights, the cache, the buffers between kernels, and per bucket the
/// kernels of a decode step, recorded into one graph.
///
/// What depends on a step's rows is allocated as the step is made, everything else by the initialiser;
/// nothing as steps run. Several threads may make its steps; otherwise one thread uses it.
final class CUDADecoder {
    let weights: DecoderWeights
    let layout: CUDALayout
    let kernels: CUDAContext
    let stream: CUDAStream
    let cache: PagedKeyValues
    let buffers: DecoderBuffers
    let shapes: DecoderBuffers.Shapes
    let elementwise: Elementwise
    let keyValues: KeyValueKernels
    let sampling: SamplingKernel
    /// Matrix products over many tokens, by layer.
    let wide: [WideLayer]
    /// The output projection's.
    let wideHead: WideProducts
    /// Counters and partial sums of the decoding kernels.
    let workspace: DecodeLinear.Workspace
    /// Parts that thread blocks of attention hand each other, a draft's too.
    let attentionWorkspace: DecodeAttention.Workspace

    /// The fastest cuts found so far; `nil` where nothing is kept.
    let tuner: LinearTuner?
    /// What proposes tokens to verify; `nil`: they are left as they are.
    var drafter: (any CUDADrafter)?
    /// Launches whose cut is not known, while they are collected.
    var untuned: UntunedLinears?

    /// Pages by slot, int32 `[slots, pages of a sequence]`.
    let tables: Tensor
    /// Each slot's position, last token and way of sampling.
    let state: SamplingState
    /// The slot of each row of a step, int32 `[largest bucket]`; negative for padding.
    let rows: Tensor
    /// Tokens of each row, the one that goes in among them, int32.
    let lengths: Tensor
    /// Pages by row.
    let rowTables: Tensor
    /// The tokens that go into a step, int32 `[rows of the largest step]`.
    let inputs: Tensor
    /// A chunk's tokens, int32.
    let chunkTokens: Tensor
    /// The tokens behind those of a chunk whose log-probabilities are told, int64.
    let scoredTokens: Tensor

    /// Matrix products of a layer over many tokens.
    struct WideLayer {
        let qkv, output, gateUp, down: WideProducts
    }

    /// - Parameters:
    ///   - draft: A head whose products share the decoder's buffers.
    ///   - acceptance: Per place of a step the probability with which a proposal counts as right,
    ///     whatever it is: to time steps, not to serve; `nil`: proposals are compared.
    init(
        _ weights: DecoderWeights, layout: CUDALayout, draft: DraftHead? = nil,
        kernels: CUDAContext, simulating acceptance: [Double]? = nil
    ) throws {
        let device = kernels.device
        let shape = try weights.attentionShape()
        let layout = layout.limited(to: shape, by: kernels.limits)
        let shapes = DecoderBuffers.Shapes(weights, layout, draft: draft)
        self.weights = weights
        self.layout = layout
        self.kernels = kernels
        stream = try CUDAStream(on: kernels)
        cache = try PagedKeyValues(
            layers: weights.layers.count, pages: layout.pageCount, shape: shape,
            format: layout.format, device: device)
        let buffers = try DecoderBuffers(shapes, device: device)
        self.shapes = shapes
        self.buffers = buffers
        let elementwise = try Elementwise(context: kernels)
        self.elementwise = elementwise
        try elementwise.prepare(hidden: weights.architecture.dimensions.hiddenSize)
        keyValues = try KeyValueKernels(shape, format: layout.format, context: kernels)
        let vocabulary = weights.architecture.dimensions.vocabularySize
        let rows = layout.largestBucket
        sampling =
            if let acceptance {
                try SamplingKernel(
                    context: kernels, vocabulary: vocabulary, rows: rows, simulating: acceptance)
            } else {
                try SamplingKernel(context: kernels, vocabulary: vocabulary, rows: rows)
            }
        state = try SamplingState(
            slots: layout.slots, vocabulary: vocabulary, places: layout.mostDraftTokens + 1,
            sequenceLength: layout.sequenceLength, device: device)
        workspace = DecodeLinear.Workspace(device: device)
        attentionWorkspace = DecodeAttention.Workspace(device: device)
        // What grew while kernels are made would be kept by those made before.
        try workspace.reserve(
            for: weights.matrices + (draft?.matrices ?? []), tokens: Self.narrowCodeRows,
            multiprocessors: kernels.multiprocessors)
        try attentionWorkspace.reserve(
            layout.attentions(shape, draft: draft?.attention), limits: kernels.limits)
        tuner = try LinearTuner(context: kernels)
        let scratch = WideProducts.Scratch(
            expanded: buffers.expanded, results: buffers.factored)
        func products(_ site: DecoderSite) throws -> WideProducts {
            try WideProducts(site, elementwise: elementwise, scratch: scratch)
        }
        wideHead = try products(weights.head)
        wide = try weights.layers.map { layer in
            try WideLayer(
                qkv: products(layer.qkv), output: products(layer.output),
                gateUp: products(layer.gateUp), down: products(layer.down))
        }
        func integers(_ shape: [Int]) throws(TensorError) -> Tensor {
            try .zeros(shape, dtype: .int32, device: device)
        }
        tables = try integers([layout.slots, layout.pagesPerSlot])
        self.rows = try integers([rows])
        lengths = try integers([rows])
        rowTables = try integers([rows, layout.pagesPerSlot])
        inputs = try integers([layout.largestRows])
        chunkTokens = try integers([layout.chunk])
        scoredTokens = try .zeros([layout.chunk], dtype: .int64, device: device)
        try device.synchronize()
    }
}

extension CUDALayout {
    /// The same with as many proposals as attention can verify at a time instead of more.
    func limited(to shape: AttentionShape, by limits: DeviceLimits) -> CUDALayout {
        let most =
            (1...max(mostDraftTokens, 1)).last {
                DecodeAttention.fits(
                    shape, format: format, queries: $0 + 1, maxPages: pagesPerSlot, limits: limits)
            } ?? 0
        var layout = self
        layout.draftTokens = Set(draftTokens.map { min($0, most) }).sorted()
        return layout
    }

    /// The attentions of all steps, and of a head that proposes tokens for them.
    func attentions(_ shape: AttentionShape, draft: AttentionShape?) -> [DecodeAttention.Launch] {
        func launch(_ shape: AttentionShape, _ queries: Int, _ requests: Int)
            -> DecodeAttention.Launch
        {
            DecodeAttention.Launch(
                shape, format: format, queries: queries, requests: requests, maxPages: pagesPerSlot,
                splitTokens: isDeterministic ? CUDADecoder.fixedSplit : nil)
        }
        let own = steps.map { launch(shape, $0.places, $0.bucket) }
        guard let draft else { return own }
        return own
            + buckets.flatMap { bucket in
                let places = CUDAHeadDrafter.places(
                    mostDraftTokens(bucket), heads: draft.heads, keyValueHeads: draft.kvHeads)
                return [launch(draft, places, bucket), launch(draft, 1, bucket)]
            }
    }

    /// Tokens of a slot's sequence that are kept for drafts, the one that no step reads among them.
    var sequenceLength: Int { mostDraftTokens > 0 ? context + 1 : 0 }
}
