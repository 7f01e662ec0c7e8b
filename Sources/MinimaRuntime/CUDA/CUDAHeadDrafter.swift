import MinimaKernels
import MinimaModels
import MinimaTensor

/// Proposes tokens by an EAGLE-3 head, see `draft.cu` for what a round computes.
///
/// Its keys and values lie under the same page numbers as the target's. A round computes those of the
/// places that the steps before have settled; one of a step that proposes nothing does nothing else.
struct CUDAHeadDrafter: CUDADrafter {
    let head: DraftHead
    /// Children of a proposed token at most; 1: chains.
    let width: Int
    private let kernels: DraftKernels
    private let own: HeadKernels
    /// The pages of the target's numbers and, behind them, those that rows have of their own while trees grow.
    private let cache: PagedKeyValues
    private let keyValues: KeyValueKernels
    private let wide: Wide
    let buffers: Buffers
    /// A place reads the token after it; a round computes the last places anew, from features that only
    /// the sequence's own prompt has left.
    let prefixes: PrefixReuse

    /// Matrix products over many rows.
    private struct Wide {
        let fuse, qkv, output, gateUp, down, head: WideProducts
    }

    init(_ head: DraftHead, width: Int, for decoder: CUDADecoder) throws {
        let layout = decoder.layout
        self.head = head
        self.width = width
        kernels = try DraftKernels(context: decoder.kernels)
        own = try HeadKernels(hidden: head.config.hidden, context: decoder.kernels)
        cache = try PagedKeyValues(
            layers: 1, pages: layout.pageCount + (width > 1 ? layout.treePages(width) : 0),
            shape: head.attention, format: layout.format, device: decoder.kernels.device)
        keyValues = try KeyValueKernels(
            head.attention, format: layout.format, context: decoder.kernels)
        let products = decoder.products
        wide = Wide(
            fuse: try products.wide(head.fuse), qkv: try products.wide(head.qkv),
            output: try products.wide(head.output), gateUp: try products.wide(head.gateUp),
            down: try products.wide(head.down), head: try products.wide(head.head))
        buffers = try Buffers(
            Buffers.Shapes(head.config, layout, width: width), device: decoder.kernels.device)
        prefixes = PrefixReuse(
            lookahead: 1,
            computed: Self.places(
                layout.mostDraftTokens, heads: head.config.heads,
                keyValueHeads: head.config.keyValueHeads))
        try products.elementwise.prepare(hidden: head.config.hidden)
    }

    /// Places that a round of a step of `bucket` computes anew: as many as the step before may have
    /// settled, as far as attention takes them at a time.
    ///
    /// - Parameter draftTokens: What a step of as many rows proposes at most.
    static func places(_ draftTokens: Int, heads: Int, keyValueHeads: Int) -> Int {
        let group = max(heads / max(keyValueHeads, 1), 1)
        return max(min(draftTokens + 1, 64 / group, DraftKernels.mostPlaces), 1)
    }

    func rereads(_ bucket: Int, _ layout: CUDALayout) -> Int {
        Self.places(
            layout.mostDraftTokens(bucket), heads: head.config.heads,
            keyValueHeads: head.config.keyValueHeads)
    }

    // MARK: A step

    func proposals(_ count: Int, for step: StepBuffers, of decoder: CUDADecoder) throws
        -> [StepKernel]
    {
        let (layout, state) = (decoder.layout, decoder.state)
        let rows = step.rows.count
        let places = rereads(rows, layout)
        let round = try DraftKernels.Round(
            rows: rows, places: places, steps: width > 1 ? 1 : max(count, 1), reading: .features,
            device: decoder.kernels.device)
        let all = 0..<rows * places
        let features = try buffers.features.narrow(0, all)
        let fused = try buffers.fused.narrow(0, all)
        let stream = try buffers.stream.narrow(0, all)
        var result = [
            StepKernel(name: "draft begin", otherBytes: 8 * step.tables.count) {
                [kernels, tables = decoder.tables] in
                try kernels.begin(
                    round, slots: step.rows, state: state, tables: tables,
                    rowTables: step.tables, on: $0)
            },
            StepKernel(name: "draft features", otherBytes: 4 * features.count) {
                [elementwise = decoder.products.elementwise, ring = buffers.ring] in
                try elementwise.gatherRows(
                    ring, ids: round.ringRows, into: features, on: $0, overlapping: false)
            },
        ]
        result += try decoder.products(
            head.fuse, wide.fuse, "draft fc", of: features, into: .values(fused))
        result += try layer(
            Pass(
                attention: decoder.attention(
                    head.attention, queries: places, requests: rows), tokens: round.tokens,
                features: fused, stream: stream, table: step.tables,
                lengths: round.lengths.select(0, 0), isFirst: true, readsOnly: count == 0),
            decoder)
        guard count > 0 else { return result }
        guard width == 1 else {
            return try result + tree(count, from: round, stream, step, decoder)
        }
        let single =
            count > 1 ? try decoder.attention(head.attention, queries: 1, requests: rows) : nil
        var (hidden, other) = (
            try buffers.last.narrow(0, 0..<rows), try buffers.next.narrow(0, 0..<rows)
        )
        result.append(
            StepKernel(name: "draft last", otherBytes: 4 * hidden.count) {
                [elementwise = decoder.products.elementwise, hidden] in
                try elementwise.gatherRows(stream, ids: round.lastRows, into: hidden, on: $0)
            })
        let logits = try buffers.logits.narrow(0, 0..<rows)
        for place in 0..<count {
            if place > 0, let single {
                result += try layer(
                    Pass(
                        attention: single, tokens: round.next, features: hidden, stream: other,
                        table: step.tables, lengths: round.lengths.select(0, place),
                        isFirst: false, readsOnly: false), decoder)
                swap(&hidden, &other)
            }
            result += try self.logits(of: hidden, into: logits, decoder)
            result.append(
                StepKernel(name: "draft choose", otherBytes: 4 * logits.count) {
                    [kernels, ids = head.targetIds] in
                    try kernels.choose(
                        logits, slots: step.rows, state: state, targetIds: ids, round: round,
                        place: place, on: $0)
                })
        }
        return result
    }

    /// The launches of the head's norm and output projection.
    func logits(of hidden: Tensor, into logits: Tensor, _ decoder: CUDADecoder) throws
        -> [StepKernel]
    {
        try decoder.products(
            head.head, wide.head, "draft head", of: hidden,
            norm: DecoderProducts.InputNorm(
                head.norm, epsilon: head.config.epsilon,
                through: buffers.normed.narrow(0, 0..<hidden.shape[0])), into: .logits(logits))
    }

    /// One pass through the layer.
    struct Pass {
        /// Of as many rows and queries of each.
        let attention: DecodeAttention
        /// The token behind each place, int32 `[rows · queries]`.
        let tokens: Tensor
        /// What the layer reads, `[rows · queries, hidden]`…
        let features: Tensor
        /// …and where its stream goes, another buffer.
        let stream: Tensor
        /// Pages and lengths by row, int32.
        let table: Tensor
        let lengths: Tensor
        /// What the places see that are a tree's; `nil`: they follow each other.
        var tree: DecodeAttention.Tree?
        /// Whether no attention of this step's graph comes before.
        let isFirst: Bool
        /// Whether keys and values are all that is wanted.
        let readsOnly: Bool
    }

    func layer(_ pass: Pass, _ decoder: CUDADecoder) throws -> [StepKernel] {
        let config = head.config
        let all = 0..<pass.features.shape[0]
        let x = try buffers.inputs.narrow(0, all)
        let qkv = try buffers.qkv.narrow(0, all)
        let attended = try buffers.attended.narrow(0, all)
        let table = head.embedding ?? decoder.weights.embedding
        // Attention reads pages and lengths ahead of its turn: after an attention that has written to
        // them, or after the launch that set them, comes one that does not overlap.
        var result = [
            // The embeddings, features and the stream besides what the layer reads.
            StepKernel(name: "draft inputs", otherBytes: 4 * x.count + 2 * pass.stream.count) {
                [own, head] in
                try own.inputs(
                    table: table, tokens: pass.tokens, features: pass.features,
                    tokenNorm: head.embeddingNorm, featureNorm: head.hiddenNorm,
                    epsilon: config.epsilon, normsBeforeResidual: config.normsBeforeResidual,
                    x: x, residual: pass.stream, on: $0, overlapping: pass.isFirst)
            }
        ]
        result += try decoder.products(head.qkv, wide.qkv, "draft qkv", of: x, into: .values(qkv))
        result.append(
            StepKernel(name: "draft attention") { [head, cache] in
                try pass.attention.launch(
                    projections: qkv, queryNorm: nil, keyNorm: nil,
                    frequencies: head.frequencies, pages: cache.layers[0], table: pass.table,
                    lengths: pass.lengths, attended: attended, tree: pass.tree, on: $0)
            })
        guard !pass.readsOnly else { return result }
        result += try decoder.products(
            head.output, wide.output, "draft o", of: attended, into: .stream(pass.stream))
        let gated = try buffers.gated.narrow(0, all)
        result += try decoder.products(
            head.gateUp, wide.gateUp, "draft gate_up", of: pass.stream,
            norm: DecoderProducts.InputNorm(
                head.postNorm, epsilon: config.epsilon, through: buffers.normed.narrow(0, all)),
            into: .gated(gated, through: buffers.gateUp.narrow(0, all)))
        result += try decoder.products(
            head.down, wide.down, "draft down", of: gated, into: .stream(pass.stream))
        return result
    }

    func observations(entering layer: Int, of step: StepBuffers, in decoder: CUDADecoder)
        -> [StepKernel]
    {
        head.featureLayers.indices.filter { head.featureLayers[$0] == layer }.map { index in
            StepKernel(name: "draft keep", otherBytes: 4 * step.residual.count) {
                [own, ring = buffers.ring, state = decoder.state] in
                try own.keep(
                    step.residual, slots: step.rows, state: state, ring: ring, index: index,
                    on: $0)
            }
        }
    }

    // MARK: A prompt

    func observe(_ residual: Tensor, entering layer: Int) throws {
        let width = residual.shape[1]
        for index in head.featureLayers.indices where head.featureLayers[index] == layer {
            try buffers.features.narrow(0, 0..<residual.shape[0])
                .narrow(1, index * width..<(index + 1) * width).copy(from: residual)
        }
    }

    /// The last place of the chunk that ends a prompt reads a token that is not known yet; a step's
    /// round computes it again.
    func read(_ chunk: DecoderLayers.Chunk, in decoder: CUDADecoder) throws {
        let (count, position, slot) = (chunk.tokens.count, chunk.position, chunk.slot)
        let (rows, stream) = (0..<count, decoder.stream)
        let features = try buffers.features.narrow(0, rows)
        try keep(features, at: position, slot: slot)
        guard let sequence = decoder.state.sequence else { return }
        let fused = try buffers.fused.narrow(0, rows)
        let (x, qkv) = (try buffers.inputs.narrow(0, rows), try buffers.qkv.narrow(0, rows))
        try wide.fuse(features, into: fused, adding: false, on: stream)
        try own.inputs(
            table: head.embedding ?? decoder.weights.embedding,
            tokens: sequence.select(0, slot).narrow(0, position + 1..<position + 1 + count),
            features: fused, tokenNorm: head.embeddingNorm, featureNorm: head.hiddenNorm,
            epsilon: head.config.epsilon,
            normsBeforeResidual: head.config.normsBeforeResidual, x: x,
            residual: buffers.stream.narrow(0, rows), on: stream, overlapping: false)
        try wide.qkv(x, into: qkv, adding: false, on: stream)
        try keyValues.write(
            projections: qkv, queryNorm: nil, keyNorm: nil, frequencies: head.frequencies,
            pages: cache.layers[0], table: decoder.tables, request: slot, position: position,
            queries: buffers.queries.narrow(0, rows), on: stream)
    }

    /// Keeps the features of a chunk's last places in the slot's ring.
    private func keep(_ features: Tensor, at position: Int, slot: Int) throws {
        let (ring, count) = (DraftKernels.ring, features.shape[0])
        var row = max(count - ring, 0)
        while row < count {
            let place = (position + row) % ring
            let run = min(ring - place, count - row)
            let first = slot * ring + place
            try buffers.ring.narrow(0, first..<first + run)
                .copy(from: features.narrow(0, row..<row + run))
            row += run
        }
    }
}
