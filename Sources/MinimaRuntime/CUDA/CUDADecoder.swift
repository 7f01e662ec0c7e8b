import MinimaCore
import MinimaKernels
import MinimaModels
import MinimaTensor

/// A decoder on a CUDA device: its weights, the cache, the buffers between kernels, and per bucket the
/// kernels of a decode step, recorded into one graph.
///
/// What depends on a step's rows is allocated as the step is made, everything else by the initialiser;
/// nothing as steps run. One thread uses it.
final class CUDADecoder {
    let weights: DecoderWeights
    let layout: CUDALayout
    let kernels: CUDAContext
    let stream: CUDAStream
    let cache: PagedKeyValues
    let buffers: DecoderBuffers
    let elementwise: Elementwise
    let keyValues: KeyValueKernels
    let sampling: SamplingKernel
    /// Matrix products over many tokens, by layer.
    let wide: [WideLayer]
    /// Counters and partial sums of the decoding kernels.
    let workspace: DecodeLinear.Workspace

    /// The fastest cuts found so far; `nil` where nothing is kept.
    let tuner: LinearTuner?
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
    /// A chunk's tokens, int32.
    let chunkTokens: Tensor

    /// Matrix products of a layer over many tokens.
    struct WideLayer {
        let qkv, output, gateUp, down: WideProducts
    }

    init(_ weights: DecoderWeights, layout: CUDALayout, kernels: CUDAContext) throws {
        let device = kernels.device
        self.weights = weights
        self.layout = layout
        self.kernels = kernels
        stream = try CUDAStream(on: kernels)
        let shape = try weights.attentionShape()
        cache = try PagedKeyValues(
            layers: weights.layers.count, pages: layout.pageCount, shape: shape,
            format: layout.format, device: device)
        let buffers = try DecoderBuffers(DecoderBuffers.Shapes(weights, layout), device: device)
        self.buffers = buffers
        let elementwise = try Elementwise(context: kernels)
        self.elementwise = elementwise
        try elementwise.prepare(hidden: weights.architecture.dimensions.hiddenSize)
        keyValues = try KeyValueKernels(shape, format: layout.format, context: kernels)
        let vocabulary = weights.architecture.dimensions.vocabularySize
        sampling = try SamplingKernel(
            context: kernels, vocabulary: vocabulary, rows: layout.largestBucket)
        state = try SamplingState(
            slots: layout.slots, vocabulary: vocabulary, device: device)
        workspace = DecodeLinear.Workspace(device: device)
        tuner = try LinearTuner(context: kernels)
        let scratch = WideProducts.Scratch(
            expanded: buffers.expanded, results: buffers.factored)
        wide = try weights.layers.map { layer in
            func products(_ site: DecoderSite) throws -> WideProducts {
                try WideProducts(site, elementwise: elementwise, scratch: scratch)
            }
            return try WideLayer(
                qkv: products(layer.qkv), output: products(layer.output),
                gateUp: products(layer.gateUp), down: products(layer.down))
        }
        func integers(_ shape: [Int]) throws(TensorError) -> Tensor {
            try .zeros(shape, dtype: .int32, device: device)
        }
        tables = try integers([layout.slots, layout.pagesPerSlot])
        rows = try integers([layout.largestBucket])
        lengths = try integers([layout.largestBucket])
        rowTables = try integers([layout.largestBucket, layout.pagesPerSlot])
        chunkTokens = try integers([layout.chunk])
        try device.synchronize()
    }
}
