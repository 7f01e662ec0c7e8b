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
    let layout: CUDALayout
    let kernels: CUDAContext
    let stream: CUDAStream
    let layers: DecoderLayers
    /// The products of a draft, too.
    let products: DecoderProducts
    let sampling: SamplingKernel
    /// Parts that thread blocks of attention hand each other, a draft's too.
    let attentionWorkspace: DecodeAttention.Workspace
    /// What verifying trees takes; `nil`: proposals follow each other.
    let trees: Trees?
    /// What proposes tokens to verify; `nil`: they are left as they are.
    var drafter: (any CUDADrafter)?

    /// What steps need that verify trees.
    struct Trees: Sendable {
        let kernels: PathKernels
        /// Which rows of its step each row sees, int32 `[rows of the largest step, 1]`.
        let seen: Tensor
    }

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

    /// - Parameters:
    ///   - draft: What will propose tokens; its products share the decoder's buffers.
    ///   - acceptance: Per place of a step the probability with which a proposal counts as right,
    ///     whatever it is: to time steps, not to serve; `nil`: proposals are compared.
    init(
        _ weights: DecoderWeights, layout: CUDALayout, draft: LoadedDraft? = nil,
        kernels: CUDAContext, simulating acceptance: [Double]? = nil
    ) throws {
        let device = kernels.device
        let (shape, proposing) = (try weights.attentionShape(), try draft?.memory())
        let layout = layout.limited(to: shape, draft: proposing, by: kernels.limits)
        self.layout = layout
        self.kernels = kernels
        stream = try CUDAStream(on: kernels)
        let buffers = try DecoderBuffers(
            DecoderBuffers.Shapes(weights, layout, draft: proposing), device: device)
        let vocabulary = weights.architecture.dimensions.vocabularySize
        let rows = layout.largestBucket
        let hasTrees = draft?.width ?? 1 > 1 && layout.mostDraftTokens > 0
        sampling =
            if let acceptance {
                try SamplingKernel(
                    context: kernels, vocabulary: vocabulary, rows: rows, simulating: acceptance,
                    verifiesTrees: hasTrees)
            } else {
                try SamplingKernel(
                    context: kernels, vocabulary: vocabulary, rows: rows, verifiesTrees: hasTrees)
            }
        state = try SamplingState(
            slots: layout.slots, vocabulary: vocabulary, places: layout.mostDraftTokens + 1,
            sequenceLength: layout.sequenceLength, holdsTrees: hasTrees, device: device)
        let workspace = DecodeLinear.Workspace(device: device)
        attentionWorkspace = DecodeAttention.Workspace(device: device)
        // What grew while kernels are made would be kept by those made before.
        try workspace.reserve(
            for: weights.matrices + (draft?.matrices ?? []),
            tokens: DecoderProducts.narrowCodeRows, multiprocessors: kernels.multiprocessors)
        try attentionWorkspace.reserve(
            layout.attentions(shape, draft: proposing), limits: kernels.limits)
        products = try DecoderProducts(buffers, workspace: workspace, kernels: kernels)
        layers = try DecoderLayers(
            weights, layout: layout, buffers: buffers, products: products)
        func integers(_ shape: [Int]) throws(TensorError) -> Tensor {
            try .zeros(shape, dtype: .int32, device: device)
        }
        tables = try integers([layout.slots, layout.pagesPerSlot])
        self.rows = try integers([rows])
        lengths = try integers([rows])
        rowTables = try integers([rows, layout.pagesPerSlot])
        inputs = try integers([layout.largestRows])
        chunkTokens = try integers([layout.chunk])
        trees =
            hasTrees
            ? Trees(
                kernels: try PathKernels(layers.cache, context: kernels),
                seen: try integers([layout.largestRows, 1])) : nil
        scoredTokens = try .zeros([layout.chunk], dtype: .int64, device: device)
        try device.synchronize()
    }

    var weights: DecoderWeights { layers.weights }
    var buffers: DecoderBuffers { layers.buffers }

    /// Attention of rows of a step over pages of this layout.
    ///
    /// - Parameters:
    ///   - beyond: Pages of a row beside those of its slot.
    ///   - maskWords: See ``DecodeAttention``.
    func attention(
        _ shape: AttentionShape, queries: Int, requests: Int, beyond: Int = 0, maskWords: Int = 0
    ) throws -> DecodeAttention {
        try DecodeAttention(
            shape, format: layout.format, queries: queries, requests: requests,
            maxPages: layout.pagesPerSlot + beyond,
            splitTokens: layout.isDeterministic ? Self.fixedSplit : nil, maskWords: maskWords,
            workspace: attentionWorkspace, context: kernels)
    }
}

extension CUDALayout {
    /// The same with as many proposals as attention can verify at a time instead of more, and as a model
    /// that drafts can read again, or a head that has grown trees.
    func limited(
        to shape: AttentionShape, draft: CUDAMemory.Draft? = nil, by limits: DeviceLimits
    ) -> CUDALayout {
        var shapes = [shape]
        if let draft, draft.readsAllAgain { shapes.append(draft.attention) }
        let most =
            (1...max(mostDraftTokens, 1)).last { count in
                shapes.allSatisfy {
                    DecodeAttention.fits(
                        $0, format: format, queries: count + 1, maxPages: pagesPerSlot,
                        limits: limits)
                }
            } ?? 0
        var layout = self
        layout.draftTokens = Set(draftTokens.map { min($0, most) }).sorted()
        return layout
    }

    /// The attentions of all steps, and of what proposes tokens for them.
    func attentions(_ shape: AttentionShape, draft: CUDAMemory.Draft?) -> [DecodeAttention.Launch] {
        func launch(
            _ shape: AttentionShape, _ queries: Int, _ requests: Int, beyond: Int = 0
        ) -> DecodeAttention.Launch {
            DecodeAttention.Launch(
                shape, format: format, queries: queries, requests: requests,
                maxPages: pagesPerSlot + beyond,
                splitTokens: isDeterministic ? CUDADecoder.fixedSplit : nil)
        }
        let own = steps.map { launch(shape, $0.places, $0.bucket) }
        guard let draft else { return own }
        return own
            + buckets.flatMap { bucket in
                [
                    launch(draft.attention, draft.places(self, bucket: bucket), bucket),
                    launch(draft.attention, 1, bucket),
                ]
            }
            + steps.compactMap { size in
                draft.tree(size).map {
                    launch(draft.attention, $0.width, size.bucket, beyond: $0.pages)
                }
            }
    }

    /// Tokens of a slot's sequence that are kept for drafts, the one that no step reads among them.
    var sequenceLength: Int { mostDraftTokens > 0 ? context + 1 : 0 }
}
