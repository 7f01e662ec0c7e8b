import MinimaCore

private let foreachCopy = Operator("aten::_foreach_copy_")
private let foreachAdd = Operator("aten::_foreach_add_", "List")

extension [Tensor] {
    /// Overwrites these tensors' elements with those of `sources`, of the same shapes and any types.
    func copy(from sources: [Tensor]) throws(TensorError) {
        try inBatches(foreachCopy, sources)
    }

    /// Adds `others`, of the same shapes and any types, to these tensors in place.
    func add(_ others: [Tensor]) throws(TensorError) {
        try inBatches(foreachAdd, others)
    }

    /// One call per pair of types: for lists of mixed types libtorch starts a kernel per tensor, and
    /// some versions copy them as if all had the first one's type.
    private func inBatches(_ operation: Operator, _ others: [Tensor]) throws(TensorError) {
        let batches = Dictionary(grouping: indices) { [self[$0].dtype, others[$0].dtype] }
        for batch in batches.values {
            _ = try operation.call([
                .tensors(batch.map { self[$0] }), .tensors(batch.map { others[$0] }),
            ])
        }
    }
}
