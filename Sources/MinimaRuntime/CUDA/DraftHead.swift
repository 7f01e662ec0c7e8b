import MinimaCheckpoint
import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// The weights of an EAGLE-3 head on a CUDA device, in the layouts that kernels read.
struct DraftHead: Sendable {
    let config: EagleConfiguration
    /// Layers of the target whose input is read, in the order in which it is concatenated.
    let featureLayers: [Int]
    let fuse, qkv, output, gateUp, down: DecoderSite
    /// The output projection.
    let head: DecoderSite
    let embeddingNorm, hiddenNorm, postNorm, norm: Tensor
    /// `[vocabulary, hidden]`; `nil`: the target's.
    let embedding: Tensor?
    /// The target's id of each of the draft's, int32 `[draft vocabulary]`.
    let targetIds: Tensor
    /// Rotary frequencies in radians per token, float32 `[rotary dims / 2]`.
    let frequencies: Tensor
    /// What attention is compiled for.
    let attention: AttentionShape

    /// Loads a head; beside it, what stands around the target's layers lies on the device meanwhile.
    ///
    /// - Parameters:
    ///   - source: The draft's directory, or weights in memory.
    ///   - target: What it drafts for.
    ///   - context: Tokens that a sequence may reach.
    init(
        _ source: any WeightSource, target: any WeightSource, kernels: CUDAContext, context: Int
    ) throws {
        let ends = try target.loadPart(.ends, device: kernels.device, dtype: .bfloat16)
        let draft = try EagleDraft(source, target: ends)
        let stream = try CUDAStream.current(on: kernels)
        config = draft.config
        featureLayers = draft.featureLayers
        fuse = try DecoderSite(draft.fuseLayer, use: .values, on: stream)
        qkv = try DecoderSite(draft.qkv, use: .values, on: stream)
        output = try DecoderSite(draft.output, use: .residual, on: stream)
        gateUp = try DecoderSite(draft.gateUp, use: .gated, on: stream)
        down = try DecoderSite(draft.down, use: .residual, on: stream)
        head = try DecoderSite(draft.head, use: .values, on: stream)
        embeddingNorm = try draft.embeddingNorm.contiguous()
        hiddenNorm = try draft.hiddenNorm.contiguous()
        postNorm = try draft.postNorm.contiguous()
        norm = try draft.norm.contiguous()
        embedding = try draft.embedding?.contiguous()
        targetIds = try draft.targetIds.to(dtype: .int32).contiguous()
        let (inverse, scaling) = config.rope.inverseFrequencies(
            headDim: config.headDim, sequenceLength: context)
        frequencies = try Tensor(inverse.map { Float($0) }).to(kernels.device)
        attention = try AttentionShape(
            heads: config.heads, kvHeads: config.keyValueHeads, headDim: config.headDim,
            rotaryDim: 2 * inverse.count, normalisesQueriesAndKeys: false,
            epsilon: config.epsilon, ropeScaling: scaling)
    }

    /// What decoding kernels multiply by.
    var matrices: [LinearMatrix] { sites.flatMap(\.matrices) }

    private var sites: [DecoderSite] { [fuse, qkv, output, gateUp, down, head] }

    /// Bytes of all weights.
    var byteCount: Int {
        let norms = 2 * (embeddingNorm.count + hiddenNorm.count + postNorm.count + norm.count)
        return sites.reduce(norms + 4 * targetIds.count + 2 * (embedding?.count ?? 0)) {
            $0 + $1.byteCount
        }
    }

    /// Numbers that its linear layers multiply by.
    var parameterCount: Int { sites.reduce(0) { $0 + $1.parameterCount } }

    /// Bytes that a round of `count` proposals reads: the layer for each, the features once.
    func readBytes(_ count: Int) -> Int {
        let layer = [qkv, output, gateUp, down, head].reduce(0) { $0 + $1.byteCount }
        return fuse.byteCount + count * layer
    }

    /// Values that a factored product gives for one token, see ``DecoderSite/largestResults``.
    var largestResults: Int { sites.map(\.largestResults).max() ?? 0 }

    /// Values of the largest matrix of codes; 0 without one.
    var largestExpanded: Int { sites.map(\.largestExpanded).max() ?? 0 }
}
