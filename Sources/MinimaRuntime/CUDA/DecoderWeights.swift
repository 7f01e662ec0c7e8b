import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaModels
import MinimaTensor

/// A decoder's weights on a CUDA device, in the layouts that kernels read.
struct DecoderWeights: Sendable {
    /// A decoder layer.
    struct Layer: Sendable {
        let inputNorm, postNorm: Tensor
        let queryNorm, keyNorm: Tensor?
        let qkv, output, gateUp, down: DecoderSite

        var sites: [DecoderSite] { [qkv, output, gateUp, down] }
    }

    let architecture: DecoderArchitecture
    let layers: [Layer]
    /// `[vocabulary, hidden]`, bfloat16.
    let embedding: Tensor
    let norm: Tensor
    /// The output projection.
    let head: DecoderSite
    /// Rotary frequencies in radians per token, float32 `[rotary dims / 2]`, and what cosines and
    /// sines are multiplied by.
    let frequencies: Tensor
    let rotaryScaling: Double

    /// Loads a model layer by layer: beside what is loaded, at most one layer lies on the device as
    /// it is stored.
    ///
    /// - Parameters:
    ///   - context: Tokens that a sequence may reach; dynamic scaling of rotary embeddings depends
    ///     on it.
    ///   - onProgress: Called after each layer; throws to cancel.
    /// - Throws: `RuntimeError` for a family whose layers the kernels do not know, and for a context
    ///   that they cannot rotate.
    init(
        _ source: any WeightSource, kernels: CUDAContext, context: Int,
        onProgress: (StageProgress) throws -> Void
    ) throws {
        let architecture = try CUDABackend.architecture(of: source)
        if case .dynamic(_, let positions) = architecture.rope.scaling, context > positions {
            throw RuntimeError.unsupportedSize(
                name: "the context of a model whose rotary frequencies depend on the length",
                found: context, needed: "at most \(positions)")
        }
        try source.checkModel()
        let device = kernels.device
        let stream = try CUDAStream.current(on: kernels)
        let count = architecture.dimensions.layers
        func part(_ part: ModelPart) throws -> any DecoderModel {
            let model = try source.loadPart(part, device: device, dtype: .bfloat16)
            guard let decoder = model as? any DecoderModel else {
                throw try CUDABackend.unsupportedFamily(source)
            }
            return decoder
        }
        self.architecture = architecture
        layers = try (0..<count).map { index in
            let layer = try Layer(part(.layer(index)).decoderLayer(index), stream)
            try onProgress(
                StageProgress(stage: "load", done: index + 1, total: count, unit: "layers"))
            return layer
        }
        let ends = try part(.ends).ends
        embedding = try ends.embedding.contiguous()
        norm = try ends.norm.contiguous()
        head = try DecoderSite(ends.head, use: .values, on: stream)
        let (inverse, scaling) = architecture.rope.inverseFrequencies(
            headDim: architecture.dimensions.headDim, sequenceLength: context)
        frequencies = try Tensor(inverse.map { Float($0) }).to(device)
        rotaryScaling = scaling
    }

    /// What attention is compiled for.
    func attentionShape() throws(KernelError) -> AttentionShape {
        let sizes = architecture.dimensions
        return try AttentionShape(
            heads: sizes.heads, kvHeads: sizes.keyValueHeads, headDim: sizes.headDim,
            rotaryDim: 2 * frequencies.count,
            normalisesQueriesAndKeys: architecture.normalisesQueriesAndKeys,
            epsilon: architecture.epsilon, ropeScaling: rotaryScaling)
    }

    /// Numbers that the linear layers multiply by.
    var linearParameterCount: Int {
        layers.flatMap(\.sites).reduce(0) { $0 + $1.parameterCount }
    }

    /// Numbers of the whole model.
    var parameterCount: Int {
        let embeddings = architecture.dimensions.tiesEmbedding ? 0 : embedding.count
        return linearParameterCount + head.parameterCount + embeddings + normCount
    }

    private var normCount: Int {
        layers.reduce(norm.count) { sum, layer in
            let heads = (layer.queryNorm?.count ?? 0) + (layer.keyNorm?.count ?? 0)
            return sum + layer.inputNorm.count + layer.postNorm.count + heads
        }
    }

    /// Bytes of everything that is kept; a tied output projection is the embedding.
    var byteCount: Int {
        let embeddings = architecture.dimensions.tiesEmbedding ? 0 : embedding.count
        return readBytes + 2 * (embeddings + normCount)
    }

    /// Bytes of linear layers and output projection: what every decode step reads.
    var readBytes: Int {
        layers.reduce(head.byteCount) { sum, layer in
            layer.sites.reduce(sum) { $0 + $1.byteCount }
        }
    }

    /// What decoding kernels multiply by.
    var matrices: [LinearMatrix] { sites.flatMap(\.matrices) }

    private var sites: [DecoderSite] { layers.flatMap(\.sites) + [head] }

    /// Values that a factored weight gives for one token, those between its matrices among them; 0
    /// where none is factored.
    var largestResults: Int { sites.map(\.largestResults).max() ?? 0 }

    /// Whether every layer's gates and ups come from one interpolated weight, which is gathered from.
    var gathersGates: Bool { layers.allSatisfy(\.gateUp.isGathered) }

    /// Values of the layers' largest matrix of codes, 0 without one; those of the output projection are
    /// never expanded.
    var largestExpanded: Int { layers.flatMap(\.sites).map(\.largestExpanded).max() ?? 0 }
}

extension DecoderWeights.Layer {
    fileprivate init(_ layer: DecoderLayerWeights, _ stream: CUDAStream) throws {
        inputNorm = try layer.inputNorm.contiguous()
        postNorm = try layer.postNorm.contiguous()
        queryNorm = try layer.queryNorm?.contiguous()
        keyNorm = try layer.keyNorm?.contiguous()
        qkv = try DecoderSite(layer.qkv, use: .values, on: stream)
        output = try DecoderSite(layer.output, use: .residual, on: stream)
        gateUp = try DecoderSite(layer.gateUp, use: .gated, on: stream)
        down = try DecoderSite(layer.down, use: .residual, on: stream)
    }
}
