import MinimaCore
import MinimaKernels
import MinimaTensor

/// What lies between the kernels of a step or of a prompt's chunk, bfloat16 unless said.
struct DecoderBuffers {
    /// The residual stream `[rows, hidden]`.
    let residual: Tensor
    /// Its norm `[rows, hidden]`.
    let normed: Tensor
    /// Queries, keys and values `[rows, (heads + 2 KV heads) · head dim]`.
    let qkv: Tensor
    /// What attention read `[rows, heads · head dim]`.
    let attended: Tensor
    /// Gates and ups `[rows, 2 · intermediate]`; no rows where factored weights give them.
    let gateUp: Tensor
    /// Their product `[rows, intermediate]`.
    let gated: Tensor
    /// Between the two matrices of a factored weight, `[rows of a step · rank]`; and all results of
    /// one in a chunk, `[rows · (rank + outputs)]`.
    let factored: Tensor
    /// The largest matrix of codes, expanded; `nil` where none is.
    let expanded: Tensor?
    /// Keys and values of one sequence in order, `[context, KV heads, head dim]` each.
    let keys, values: Tensor
    /// Queries of a chunk, rotated, `[rows, heads, head dim]`.
    let queries: Tensor
    /// float32 `[rows of the largest step, vocabulary]`.
    let logits: Tensor

    /// Zeros everywhere.
    init(_ shapes: Shapes, device: Device) throws(TensorError) {
        func buffer(_ shape: [Int]) throws(TensorError) -> Tensor {
            try .zeros(shape, dtype: .bfloat16, device: device)
        }
        residual = try buffer(shapes.residual)
        normed = try buffer(shapes.residual)
        qkv = try buffer(shapes.qkv)
        attended = try buffer(shapes.attended)
        gateUp = try buffer(shapes.gateUp)
        gated = try buffer(shapes.gated)
        factored = try buffer(shapes.factored)
        expanded = try shapes.expanded[0] > 0 ? buffer(shapes.expanded) : nil
        keys = try buffer(shapes.keys)
        values = try buffer(shapes.keys)
        queries = try buffer(shapes.queries)
        logits = try .zeros(shapes.logits, device: device)
    }
}

extension DecoderBuffers {
    /// The sizes of the buffers.
    struct Shapes: Sendable, Hashable {
        /// Of the residual stream and of its norm.
        let residual: [Int]
        let qkv, attended, gateUp, gated, factored, expanded: [Int]
        /// Of the keys, and of the values.
        let keys: [Int]
        let queries, logits: [Int]

        /// What a model's decoder needs.
        ///
        /// - Parameters:
        ///   - gathersGates: Whether every layer's gates and ups are gathered from one weight.
        ///   - largestResults: Values that a factored weight gives for one token at most.
        ///   - largestExpanded: Values of the largest matrix of codes.
        ///   - logitRows: Rows of logits; `nil`: those of the largest step.
        init(
            _ sizes: DecoderDimensions, gathersGates: Bool, largestResults: Int,
            largestExpanded: Int, layout: CUDALayout, logitRows: Int? = nil
        ) {
            let rows = max(layout.chunk, layout.largestRows)
            residual = [rows, sizes.hiddenSize]
            qkv = [rows, sizes.sites[0].outputs]
            attended = [rows, sizes.heads * sizes.headDim]
            gateUp = [gathersGates ? 0 : rows, 2 * sizes.intermediateSize]
            gated = [rows, sizes.intermediateSize]
            factored = [rows * max(largestResults, 1)]
            expanded = [largestExpanded]
            keys = [
                layout.pagesPerSlot * PagedKeyValues.pageTokens, sizes.keyValueHeads, sizes.headDim,
            ]
            queries = [rows, sizes.heads, sizes.headDim]
            logits = [logitRows ?? layout.largestRows, sizes.vocabularySize]
        }

        /// Bytes of all buffers but the logits.
        var byteCount: Int {
            [
                residual, residual, qkv, attended, gateUp, gated, factored, expanded, keys, keys,
                queries,
            ].reduce(0) { $0 + 2 * $1.reduce(1, *) }
        }

        /// Bytes of the logits.
        var logitBytes: Int { 4 * logits.reduce(1, *) }
    }
}

extension DecoderBuffers.Shapes {
    /// - Parameter draft: Its products go through the same buffers.
    init(_ weights: DecoderWeights, _ layout: CUDALayout, draft: CUDAMemory.Draft? = nil) {
        self.init(
            weights.architecture.dimensions, gathersGates: weights.gathersGates,
            largestResults: max(weights.largestResults, draft?.bounds.largestResults ?? 0),
            largestExpanded: max(weights.largestExpanded, draft?.bounds.largestExpanded ?? 0),
            layout: layout)
    }

    /// What a model needs that drafts for another, through whose buffers its factored weights and codes go:
    /// a round computes the places that a step verifies, and logits of one of each row.
    init(draft sizes: DecoderDimensions, gathersGates: Bool, layout: CUDALayout) {
        self.init(
            sizes, gathersGates: gathersGates, largestResults: 0, largestExpanded: 0,
            layout: layout, logitRows: layout.largestBucket)
    }
}
