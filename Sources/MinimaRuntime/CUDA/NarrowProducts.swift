import MinimaKernels
import MinimaTensor

/// Multiplies few tokens by a site's weight, through the decoding kernel: one launch per matrix, with
/// the norm before and what follows fused in.
struct NarrowProducts {
    private let parts: DecoderProducts
    private let tokens: Int

    /// Where a site's outputs go.
    enum Destination {
        /// bfloat16 `[tokens, outputs]`, overwritten.
        case values(Tensor)
        /// The residual stream `[tokens, outputs]`, added to.
        case stream(Tensor)
        /// silu(gate)·up `[tokens, outputs / 2]`; gates and ups go `through` a buffer
        /// `[tokens, outputs]` where they do not meet in the kernel.
        case gated(Tensor, through: Tensor)
        /// float32 `[tokens, outputs]`, overwritten.
        case logits(Tensor)
    }

    /// What the launches of one product have in common.
    private struct Task {
        let name: String
        let x: Tensor
        let norm: DecoderProducts.InputNorm?
        let bias: Tensor?
        let y: Tensor
        let epilogue: DecodeLinear.Epilogue
        /// Whether gates and ups meet in the kernel.
        let isGated: Bool
    }

    init(_ parts: DecoderProducts, tokens: Int) {
        self.parts = parts
        self.tokens = tokens
    }

    /// The launches of a site, in order.
    ///
    /// - Parameters:
    ///   - x: bfloat16 `[tokens, inputs]`.
    ///   - norm: The RMSNorm of `x` that the site reads; `nil`: `x` itself.
    func kernels(
        _ site: DecoderSite, _ name: String, of x: Tensor, norm: DecoderProducts.InputNorm? = nil,
        into destination: Destination
    ) throws -> [StepKernel] {
        let target: Tensor
        var first = DecodeLinear.Epilogue.store
        switch destination {
        case .values(let y): target = y
        case .stream(let y): (target, first) = (y, .add)
        case .logits(let y): (target, first) = (y, .storeFloat)
        case .gated(let y, let through): target = site.gatesMeet ? y : through
        }
        var (x, norm) = (x, norm)
        var kernels: [StepKernel] = []
        let isCut = site.products.contains { $0.inputs.count < site.inputs }
        if isCut, let own = norm {
            let normed = try own.room.narrow(0, 0..<tokens)
            kernels.append(
                parts.norm(x, .init(own.weight, epsilon: own.epsilon, through: normed)))
            (x, norm) = (normed, nil)
        }
        var written: [Range<Int>] = []
        for product in site.products {
            // The first product of an output brings its bias, the others are added to it.
            let isFirst = !written.contains { $0.overlaps(product.outputs) }
            written.append(product.outputs)
            var read = x
            if product.inputs.count < site.inputs {
                let slice = try x.narrow(1, product.inputs)
                let place = try parts.columns
                    .reshape([-1]).narrow(0, 0..<slice.count).reshape(slice.shape)
                read = place
                kernels.append(
                    // libtorch's current stream is the one that the step is queued on.
                    StepKernel(name: "columns", otherBytes: 4 * slice.count) { _ in
                        try place.copy(from: slice)
                    })
            }
            kernels += try launches(
                product,
                Task(
                    name: name, x: read, norm: norm, bias: isFirst ? site.bias : nil, y: target,
                    epilogue: isFirst ? first : .add, isGated: site.gatesMeet))
        }
        if case .gated(let y, let through) = destination, !site.gatesMeet {
            kernels.append(
                StepKernel(name: "swiglu", otherBytes: 2 * (through.count + y.count)) {
                    [parts] stream in
                    try parts.elementwise.swiGLU(through, into: y, on: stream)
                })
        }
        return kernels
    }

    private func launches(_ product: DecoderSite.Product, _ task: Task) throws -> [StepKernel] {
        let gated = task.isGated
        switch product.form {
        case .matrix(let matrix):
            return [try launch(matrix, task, gated ? .swiglu : task.epilogue)]
        case .product(let inner, let outer):
            let middle = try middle(inner.rows)
            let before = Task(
                name: task.name + " R", x: task.x, norm: task.norm, bias: nil, y: middle,
                epilogue: .store, isGated: false)
            let after = Task(
                name: task.name + " X", x: middle, norm: nil, bias: task.bias, y: task.y,
                epilogue: task.epilogue, isGated: gated)
            return [
                try launch(inner, before, .store),
                try launch(outer, after, gated ? .swiglu : task.epilogue),
            ]
        case .interpolated(let rows, let coefficients, _):
            let middle = try middle(rows.rows)
            let before = Task(
                name: task.name + " R", x: task.x, norm: task.norm,
                bias: gated ? nil : task.bias, y: gated ? middle : task.y,
                epilogue: task.epilogue, isGated: false)
            let after = Task(
                name: task.name + " X", x: middle, norm: nil, bias: task.bias, y: task.y,
                epilogue: task.epilogue, isGated: gated)
            return [
                try launch(
                    rows, before, gated ? .store : task.epilogue, compact: gated ? nil : middle),
                try launch(
                    coefficients, after, gated ? .interpolatedSwiglu : task.epilogue),
            ]
        }
    }

    /// Room for what passes between the two matrices of a product, in rows of a multiple of 8.
    private func middle(_ rank: Int) throws -> Tensor {
        let width = DecoderSite.Form.middleWidth(rank)
        return try parts.factored.narrow(0, 0..<tokens * width)
            .reshape([tokens, width])
    }

    private func launch(
        _ matrix: SiteMatrix, _ task: Task, _ epilogue: DecodeLinear.Epilogue,
        compact: Tensor? = nil
    ) throws -> StepKernel {
        let kind = LinearTuner.Kind(
            matrix.kernel, tokens: tokens, normalised: task.norm != nil)
        func launch(_ tuning: LinearTuning?) throws -> StepKernel {
            let linear = try DecodeLinear(
                matrix.kernel, tokens: tokens, epilogue: epilogue, normalised: task.norm != nil,
                biased: task.bias != nil, inputStride: task.x.shape[1],
                outputStride: task.y.shape[1], compactStride: compact?.shape[1], tuning: tuning,
                workspace: parts.workspace, context: parts.kernels)
            return StepKernel(name: task.name, weightBytes: matrix.kernel.bytes) { stream in
                try linear.launch(
                    task.x, norm: task.norm?.weight, epsilon: task.norm?.epsilon ?? 0,
                    bias: task.bias, into: task.y, compact: compact, on: stream)
            }
        }
        let known = parts.tuner?.known(kind)
        if known == nil { parts.untuned.add(kind, launch) }
        return try launch(known)
    }
}
