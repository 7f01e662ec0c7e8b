import MinimaCore
import MinimaKernels
import MinimaTensor

/// A decoder's layers on a CUDA device, with pages and buffers of their own: those of the model that is
/// served, or of a smaller one that drafts for it under the same page numbers.
struct DecoderLayers: Sendable {
    let weights: DecoderWeights
    /// What attention is compiled for.
    let shape: AttentionShape
    let cache: PagedKeyValues
    let buffers: DecoderBuffers
    let keyValues: KeyValueKernels
    let products: DecoderProducts
    /// Matrix products over many tokens, by layer.
    let wide: [Wide]
    /// The output projection's.
    private let wideHead: WideProducts
    /// What the names of launches begin with.
    private let prefix: String

    /// Matrix products of a layer over many tokens.
    struct Wide {
        let qkv, output, gateUp, down: WideProducts
    }

    /// What a pass over the rows of a step reads and writes.
    struct Pass {
        /// Of as many requests, and queries of each.
        let attention: DecodeAttention
        /// As many rows as attention has queries in all.
        let rows: LayerRows
        /// Pages by request.
        let table: Tensor
        /// Tokens of each request, int32.
        let lengths: Tensor
        /// What tokens see that are a tree's; `nil`: they follow each other.
        var tree: DecodeAttention.Tree?
    }

    /// Allocates pages for a layout.
    ///
    /// - Parameters:
    ///   - buffers: Made for these weights.
    ///   - products: Whose scratch is large enough for these weights, too.
    init(
        _ weights: DecoderWeights, layout: CUDALayout, buffers: DecoderBuffers,
        products: DecoderProducts, prefix: String = ""
    ) throws {
        self.weights = weights
        self.buffers = buffers
        self.products = products
        self.prefix = prefix
        let shape = try weights.attentionShape()
        self.shape = shape
        cache = try PagedKeyValues(
            layers: weights.layers.count, pages: layout.pageCount, shape: shape,
            format: layout.format, device: products.kernels.device)
        keyValues = try KeyValueKernels(shape, format: layout.format, context: products.kernels)
        try products.elementwise.prepare(hidden: weights.architecture.dimensions.hiddenSize)
        wideHead = try products.wide(weights.head)
        wide = try weights.layers.map { layer in
            try Wide(
                qkv: products.wide(layer.qkv), output: products.wide(layer.output),
                gateUp: products.wide(layer.gateUp), down: products.wide(layer.down))
        }
    }

    /// The embeddings of tokens as the residual stream; does not overlap the kernel ahead of it, so that
    /// attention behind may read ahead of its turn what stands before.
    ///
    /// - Parameter tokens: int32 `[rows]`; zeros for what is no token.
    func embed(_ tokens: Tensor, into residual: Tensor) -> StepKernel {
        StepKernel(name: prefix + "embed", otherBytes: 4 * residual.count) {
            [products, weights] stream in
            try products.elementwise.gatherRows(
                weights.embedding, ids: tokens, into: residual, on: stream, overlapping: false)
        }
    }

    /// The launches of layer `index` over the rows of a step.
    ///
    /// - Parameter readsOnly: Whether its keys and values are all that is wanted.
    func layer(_ index: Int, _ pass: Pass, readsOnly: Bool = false) throws -> [StepKernel] {
        let (layer, wide, rows) = (weights.layers[index], wide[index], pass.rows)
        func norm(_ weight: Tensor) -> DecoderProducts.InputNorm {
            .init(weight, epsilon: weights.architecture.epsilon, through: rows.normed)
        }
        var kernels = try products(
            layer.qkv, wide.qkv, prefix + "qkv", of: rows.residual, norm: norm(layer.inputNorm),
            into: .values(rows.qkv))
        kernels.append(
            StepKernel(name: prefix + "attention") { [cache, weights] stream in
                try pass.attention.launch(
                    projections: rows.qkv, queryNorm: layer.queryNorm, keyNorm: layer.keyNorm,
                    frequencies: weights.frequencies, pages: cache.layers[index],
                    table: pass.table, lengths: pass.lengths, attended: rows.attended,
                    tree: pass.tree, on: stream)
            })
        guard !readsOnly else { return kernels }
        kernels += try products(
            layer.output, wide.output, prefix + "o", of: rows.attended,
            into: .stream(rows.residual))
        kernels += try products(
            layer.gateUp, wide.gateUp, prefix + "gate_up", of: rows.residual,
            norm: norm(layer.postNorm), into: .gated(rows.gated, through: rows.gateUp))
        kernels += try products(
            layer.down, wide.down, prefix + "down", of: rows.gated, into: .stream(rows.residual))
        return kernels
    }

    /// Final norm and output projection of `residual` `[rows, hidden]`.
    ///
    /// - Parameter logits: float32 `[rows, vocabulary]`.
    func head(_ residual: Tensor, into logits: Tensor) throws -> [StepKernel] {
        let normed = try buffers.normed.narrow(0, 0..<residual.shape[0])
        return try products(
            weights.head, wideHead, prefix + "head", of: residual,
            norm: .init(weights.norm, epsilon: weights.architecture.epsilon, through: normed),
            into: .logits(logits))
    }
}

/// The first rows of a decoder's buffers.
struct LayerRows {
    let residual, normed, qkv, attended, gateUp, gated: Tensor

    init(_ buffers: DecoderBuffers, _ count: Int) throws(TensorError) {
        func taken(_ buffer: Tensor) throws(TensorError) -> Tensor {
            try buffer.narrow(0, 0..<min(count, buffer.shape[0]))
        }
        residual = try taken(buffers.residual)
        normed = try taken(buffers.normed)
        qkv = try taken(buffers.qkv)
        attended = try taken(buffers.attended)
        gateUp = try taken(buffers.gateUp)
        gated = try taken(buffers.gated)
    }
}
