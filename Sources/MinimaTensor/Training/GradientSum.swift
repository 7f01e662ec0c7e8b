import MinimaCore

private let foreachZero = Operator("aten::_foreach_zero_")
private let foreachNorm = Operator("aten::_foreach_norm", "Scalar")
private let stack = Operator("aten::stack")

/// Gradients of several parameters, summed over parts of a batch and over processes.
final class GradientSum {
    /// One sum per parameter, of its shape: float32, or float64 for parameters of that type.
    let sums: [Tensor]
    private let buffers: [Tensor]
    private var isEmpty = true

    /// What clipping found out; all of it on the device.
    struct Clipping {
        /// The global norm before clipping; a float32 scalar.
        let norm: Tensor
        /// 1 when the norm is not finite, so that nothing may change, else 0; a float32 scalar.
        let skips: Tensor
        /// What the gradients are to be divided by; a float32 scalar, `nil` where nothing is clipped.
        let divisor: Tensor?
    }

    /// Room for the gradients of `parameters`.
    init(_ parameters: [Tensor]) throws(TensorError) {
        var buffers: [Tensor] = []
        var sums = parameters
        let buckets = TensorBucket.plan(Array(parameters.indices), of: parameters) {
            Self.dtype(for: $0)
        }
        for bucket in buckets {
            let (buffer, views) = try bucket.allocate()
            buffers.append(buffer)
            for (member, view) in zip(bucket.members, views) { sums[member] = view }
        }
        (self.buffers, self.sums) = (buffers, sums)
    }

    /// The type in which a parameter's gradients are summed and its steps are computed.
    static func dtype(for parameter: Tensor) -> DType {
        parameter.dtype == .float64 ? .float64 : .float32
    }

    /// Adds one gradient per parameter; a missing one is zero.
    func add(_ gradients: [Tensor?]) throws(TensorError) {
        guard gradients.count == sums.count else {
            throw .invalidArgument(
                function: "accumulate",
                reason: "\(gradients.count) gradients for \(sums.count) parameters")
        }
        for (index, gradient) in gradients.enumerated() {
            guard let gradient, gradient.shape != sums[index].shape else { continue }
            throw .invalidArgument(
                function: "accumulate",
                reason: "gradient \(index) is \(gradient.shape), its parameter \(sums[index].shape)"
            )
        }
        let present = sums.indices.filter { gradients[$0] != nil }
        let (into, from) = (present.map { sums[$0] }, gradients.compactMap(\.self))
        try withoutGradients { () throws(TensorError) in
            if isEmpty {
                let absent = sums.indices.filter { gradients[$0] == nil }
                if !absent.isEmpty {
                    _ = try foreachZero.call([.tensors(absent.map { sums[$0] })])
                }
                try into.copy(from: from)
            } else {
                try into.add(from)
            }
        }
        isEmpty = false
    }

    /// Forgets what was added.
    func clear() {
        isEmpty = true
    }

    /// Completes the sums over the processes of `group`, measures them, and lets the next `add` start
    /// anew.
    ///
    /// - Note: Pascanu, Mikolov & Bengio 2013, algorithm 1, for the norm of all gradients together.
    func reduce(_ group: ProcessGroup?, maximumNorm: Double?) throws(TensorError) -> Clipping {
        if let maximumNorm, !(maximumNorm > 0) {
            throw .invalidArgument(
                function: "step", reason: "the largest norm is \(maximumNorm); give one above 0")
        }
        if isEmpty { try add(sums.map { _ in nil }) }
        clear()
        try group?.allReduce(buffers)
        var norms: [Tensor] = []
        for norm in try foreachNorm.tensors(.tensors(buffers)) {
            norms.append(try norm.to(dtype: .float32))
        }
        let norm = try stack(.tensors(norms)).norm()
        let skips = try norm.isFinite().not().to(dtype: .float32)
        guard let maximumNorm else { return Clipping(norm: norm, skips: skips, divisor: nil) }
        // The constant is that of PyTorch's clip_grad_norm_.
        let divisor = try ((norm + 1e-6) / maximumNorm).clamp(min: 1)
        return Clipping(norm: norm, skips: skips, divisor: divisor)
    }
}
