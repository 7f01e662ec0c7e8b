import MinimaKernels
import MinimaModels
import MinimaTensor

/// Trees of proposals, see `tree.cu`.
extension CUDAHeadDrafter {
    /// The launches that grow trees of `count` nodes behind a round's catching up.
    ///
    /// - Parameters:
    ///   - round: What was caught up with.
    ///   - stream: The residual stream of its places.
    func tree(
        _ count: Int, from round: DraftKernels.Round, _ stream: Tensor, _ step: StepBuffers,
        _ decoder: CUDADecoder
    ) throws -> [StepKernel] {
        let (layout, state, rows) = (decoder.layout, decoder.state, step.rows.count)
        let shape = TreeKernels.Shape(count: count, width: width)
        let kernels = try TreeKernels(shape, context: decoder.kernels)
        let elementwise = decoder.products.elementwise
        let growing = try TreeKernels.Round(
            shape, rows: rows, pages: layout.pagesPerSlot, firstPage: layout.pageCount,
            vocabulary: head.config.draftVocabulary, device: decoder.kernels.device)
        // What the levels but the last go on from, and what comes of it.
        let nodes = 0..<rows * shape.width
        let (features, outputs) = (
            try buffers.last.narrow(0, nodes), try buffers.next.narrow(0, nodes)
        )
        let attention =
            count > 1
            ? try decoder.attention(
                head.attention, queries: shape.width, requests: rows, beyond: shape.pages,
                maskWords: shape.maskWords) : nil
        var hidden = try outputs.narrow(0, 0..<rows)
        var result = [
            StepKernel(name: "tree begin", otherBytes: 8 * growing.tables.count) {
                [tables = decoder.tables] in
                try kernels.begin(growing, slots: step.rows, state: state, tables: tables, on: $0)
            },
            StepKernel(name: "draft last", otherBytes: 4 * hidden.count) { [hidden] in
                try elementwise.gatherRows(stream, ids: round.lastRows, into: hidden, on: $0)
            },
        ]
        for level in 0..<count {
            if level > 0, let attention {
                result.append(
                    StepKernel(name: "tree sources", otherBytes: 4 * features.count) { [hidden] in
                        try elementwise.gatherRows(
                            hidden, ids: growing.sources, into: features, on: $0)
                    })
                result += try layer(
                    Pass(
                        attention: attention, tokens: growing.next, features: features,
                        stream: outputs, table: growing.tables,
                        lengths: growing.lengths.select(0, level - 1),
                        tree: DecodeAttention.Tree(
                            seen: growing.seen, older: (level - 1) * shape.width),
                        isFirst: false, readsOnly: false), decoder)
                hidden = outputs
            }
            let logits = try buffers.logits.narrow(0, 0..<hidden.shape[0])
            result += try self.logits(of: hidden, into: logits, decoder)
            result += [
                StepKernel(name: "tree top", otherBytes: 4 * logits.count) {
                    [ids = head.targetIds] in
                    try kernels.top(
                        logits, slots: step.rows, state: state, targetIds: ids, round: growing,
                        level: level, on: $0)
                },
                StepKernel(name: "tree grow") {
                    try kernels.grow(
                        growing, slots: step.rows, state: state, level: level, on: $0)
                },
            ]
        }
        return result
    }

    func settlements(of step: StepBuffers, in decoder: CUDADecoder) -> [StepKernel] {
        guard let trees = decoder.trees else { return [] }
        return [
            StepKernel(name: "tree features") {
                [ring = buffers.ring, state = decoder.state] in
                try trees.kernels.keep(ring, slots: step.rows, state: state, on: $0)
            }
        ]
    }
}
