import CMinimaTorchAPI
import MinimaCore

extension Tensor {
    /// Whether operators on this tensor are recorded for its gradient.
    public var requiresGrad: Bool {
        withExtendedLifetime(handle) { handle.table.pointee.requires_grad(handle.pointer) }
    }

    /// Starts or stops recording operators on this leaf tensor.
    public func setRequiresGrad(_ flag: Bool = true) throws(TensorError) {
        try withExtendedLifetime(handle) { () throws(TensorError) in
            try Torch.check({ "requires_grad_(\(summary))" }) {
                handle.table.pointee.set_requires_grad(handle.pointer, flag, $0)
            }
        }
    }

    /// Gradients of this scalar with respect to `inputs`.
    ///
    /// - Parameter createGraph: Whether the gradients themselves can be differentiated.
    /// - Returns: One tensor per input, of its shape; `nil` where this does not depend on it.
    public func gradients(
        _ inputs: [Tensor], retainGraph: Bool = false, createGraph: Bool = false
    ) throws(TensorError) -> [Tensor?] {
        try Self.gradients(
            of: [self], along: nil, inputs, retainGraph: retainGraph, createGraph: createGraph)
    }

    /// Gradients of Σ⟨outputs, directions⟩ with respect to `inputs`: what back-propagation goes on
    /// with when the gradients at `outputs` are known.
    ///
    /// - Parameter directions: One per output, of its shape and dtype.
    /// - Returns: One tensor per input, of its shape; `nil` where no output depends on it.
    public static func gradients(
        of outputs: [Tensor], along directions: [Tensor], _ inputs: [Tensor],
        retainGraph: Bool = false
    ) throws(TensorError) -> [Tensor?] {
        guard outputs.count == directions.count else {
            throw .invalidArgument(
                function: "gradients",
                reason: "\(directions.count) directions for \(outputs.count) outputs")
        }
        return try gradients(
            of: outputs, along: .some(directions), inputs, retainGraph: retainGraph,
            createGraph: false)
    }

    private static func gradients(
        of outputs: [Tensor], along directions: [Tensor]?, _ inputs: [Tensor], retainGraph: Bool,
        createGraph: Bool
    ) throws(TensorError) -> [Tensor?] {
        guard let table = outputs.first?.handle.table, !inputs.isEmpty else {
            return inputs.map { _ in nil }
        }
        var results = [OpaquePointer?](repeating: nil, count: inputs.count)
        let from = outputs.map(\.handle.pointer)
        let along = directions?.map(\.handle.pointer) ?? []
        let to = inputs.map(\.handle.pointer)
        try withExtendedLifetime((outputs, directions, inputs)) { () throws(TensorError) in
            let asked = { "gradients(\(outputs.map(\.summary)), \(inputs.map(\.summary)))" }
            try Torch.check(asked) { message in
                from.withUnsafeBufferPointer { from in
                    along.withUnsafeBufferPointer { along in
                        to.withUnsafeBufferPointer { to in
                            results.withUnsafeMutableBufferPointer { results in
                                guard let first = results.baseAddress else { return 0 }
                                return table.pointee.gradients(
                                    from.base, Int64(from.count),
                                    directions == nil ? nil : along.base, to.base,
                                    Int64(to.count), retainGraph || createGraph, createGraph,
                                    first, message)
                            }
                        }
                    }
                }
            }
        }
        return results.map { $0.map { Tensor(owning: $0) } }
    }
}

/// Runs `body` without recording operators for gradients on this thread.
///
/// - Precondition: `body` stays on the calling thread; grad mode is thread-local.
public func withoutGradients<Result, Failure: Error>(
    _ body: () throws(Failure) -> Result
) throws(Failure) -> Result {
    try recordingGradients(false, body)
}

/// Runs `body` with operators recorded for gradients on this thread, whoever calls.
///
/// - Precondition: `body` stays on the calling thread; grad mode is thread-local.
public func withGradients<Result, Failure: Error>(
    _ body: () throws(Failure) -> Result
) throws(Failure) -> Result {
    try recordingGradients(true, body)
}

private func recordingGradients<Result, Failure: Error>(
    _ isEnabled: Bool, _ body: () throws(Failure) -> Result
) throws(Failure) -> Result {
    // When libtorch cannot be opened there is nothing to record, and `body` will say so.
    guard let table = try? Torch.table() else { return try body() }
    let before = table.pointee.grad_enabled()
    table.pointee.set_grad_enabled(isEnabled)
    defer { table.pointee.set_grad_enabled(before) }
    return try body()
}
