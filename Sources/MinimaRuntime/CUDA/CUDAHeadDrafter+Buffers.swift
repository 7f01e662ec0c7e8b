import MinimaKernels
import MinimaModels
import MinimaTensor

extension CUDAHeadDrafter {
    /// What lies between the head's kernels, bfloat16 unless said.
    struct Buffers {
        /// Features of each slot's last places `[slots · ring, 3 · target hidden]`.
        let ring: Tensor
        /// `[rows, 3 · target hidden]`, and what they are fused to, `[rows, hidden]`.
        let features, fused: Tensor
        /// What the layer reads, `[rows, 2 · hidden]`, and its stream, `[rows, hidden]`.
        let inputs, stream: Tensor
        let qkv, attended, normed, gateUp, gated: Tensor
        /// Queries of a chunk `[chunk, heads, head dim]`.
        let queries: Tensor
        /// The stream of the places that are gone on from, and of those after them, `[nodes, hidden]`: one of
        /// each row, or a level of its tree.
        let last, next: Tensor
        /// float32 `[nodes, draft vocabulary]`.
        let logits: Tensor

        init(_ shapes: Shapes, device: Device) throws(TensorError) {
            func buffer(_ shape: [Int]) throws(TensorError) -> Tensor {
                try .zeros(shape, dtype: .bfloat16, device: device)
            }
            ring = try buffer(shapes.ring)
            features = try buffer(shapes.features)
            fused = try buffer(shapes.fused)
            inputs = try buffer(shapes.inputs)
            stream = try buffer(shapes.fused)
            qkv = try buffer(shapes.qkv)
            attended = try buffer(shapes.attended)
            normed = try buffer(shapes.normed)
            gateUp = try buffer(shapes.gateUp)
            gated = try buffer(shapes.gated)
            queries = try buffer(shapes.queries)
            last = try buffer(shapes.last)
            next = try buffer(shapes.last)
            logits = try .zeros(shapes.logits, device: device)
        }

        /// The sizes of the buffers.
        struct Shapes: Sendable, Hashable {
            let ring, features, fused, inputs, qkv, attended, normed, gateUp, gated: [Int]
            let queries, last, logits: [Int]

            /// - Parameters:
            ///   - rows: Rows of the largest round.
            ///   - nodes: Nodes that are gone on from at one time; `nil`: one of each row.
            init(
                _ config: EagleConfiguration, layout: CUDALayout, rows: Int, nodes: Int? = nil
            ) {
                let nodes = nodes ?? layout.largestBucket
                let (long, wide) = (max(rows, layout.chunk), config.heads * config.headDim)
                let features = EagleConfiguration.featureCount * config.targetHidden
                ring = [layout.slots * DraftKernels.ring, features]
                self.features = [long, features]
                fused = [long, config.hidden]
                inputs = [long, 2 * config.hidden]
                qkv = [long, wide + 2 * config.keyValueHeads * config.headDim]
                attended = [rows, wide]
                normed = [rows, config.hidden]
                gateUp = [rows, 2 * config.intermediate]
                gated = [rows, config.intermediate]
                queries = [layout.chunk, config.heads, config.headDim]
                last = [nodes, config.hidden]
                logits = [nodes, config.draftVocabulary]
            }

            /// Bytes of all of them.
            var byteCount: Int {
                [
                    ring, features, fused, inputs, fused, qkv, attended, normed, gateUp, gated,
                    queries, last, last,
                ].reduce(4 * logits.reduce(1, *)) { $0 + 2 * $1.reduce(1, *) }
            }
        }
    }
}

extension CUDAHeadDrafter.Buffers.Shapes {
    /// What rounds of all of a layout's steps need.
    ///
    /// - Parameter width: Children of a proposed token at most; 1: chains.
    init(_ config: EagleConfiguration, _ layout: CUDALayout, width: Int = 1) {
        let rows = layout.buckets.map { bucket in
            let count = layout.mostDraftTokens(bucket)
            let places = CUDAHeadDrafter.places(
                count, heads: config.heads, keyValueHeads: config.keyValueHeads)
            let nodes = TreeKernels.Shape(count: count, width: width).width
            return (all: bucket * max(places, nodes), nodes: bucket * nodes)
        }
        self.init(
            config, layout: layout, rows: rows.map(\.all).max() ?? 1,
            nodes: rows.map(\.nodes).max() ?? 1)
    }
}
