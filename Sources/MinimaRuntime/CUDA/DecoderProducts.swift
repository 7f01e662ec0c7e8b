import MinimaKernels
import MinimaTensor

/// Makes the launches of matrix products, for a decoder and for what drafts for it: one stream runs
/// them one after the other, so they share what lies between them.
struct DecoderProducts: Sendable {
    let kernels: CUDAContext
    let elementwise: Elementwise
    /// Counters and partial sums of the decoding kernels.
    let workspace: DecodeLinear.Workspace
    /// The fastest cuts found so far; `nil` where nothing is kept.
    let tuner: LinearTuner?
    /// Launches whose cut is not known, while they are collected.
    let untuned = UntunedLinears()
    /// See ``DecoderBuffers/factored`` and ``DecoderBuffers/expanded``.
    let factored: Tensor
    let expanded: Tensor?
    /// Room for some columns of what a site reads, bfloat16.
    let columns: Tensor

    /// - Parameter buffers: A decoder's, large enough for the products of its drafts, too.
    init(
        _ buffers: DecoderBuffers, workspace: DecodeLinear.Workspace, kernels: CUDAContext
    ) throws {
        self.kernels = kernels
        self.workspace = workspace
        elementwise = try Elementwise(context: kernels)
        tuner = try LinearTuner(context: kernels)
        factored = buffers.factored
        expanded = buffers.expanded
        columns = buffers.queries
    }

    /// A site's products with many rows.
    func wide(_ site: DecoderSite) throws -> WideProducts {
        try WideProducts(
            site, elementwise: elementwise,
            scratch: WideProducts.Scratch(expanded: expanded, results: factored))
    }
}

extension DecoderProducts {
    /// Rows that the decoding kernel multiplies at a time; more bfloat16 rows go through the library's
    /// products.
    static let narrowRows = 8
    /// The same for codes, which would have to be expanded for the library…
    static let narrowCodeRows = 16
    /// …and the most rows for which they are read again for each of those: expanding takes about nine
    /// bytes per byte of 4-bit codes, every further reading one.
    static let mostCodeRows = 128

    /// The RMSNorm of what a site reads.
    struct InputNorm {
        let weight: Tensor
        let epsilon: Double
        /// Room for its result `[rows, inputs]`, where it is a launch of its own.
        let room: Tensor

        init(_ weight: Tensor, epsilon: Double, through room: Tensor) {
            self.weight = weight
            self.epsilon = epsilon
            self.room = room
        }
    }

    /// The launches of a site's product with the rows of `x`: through the decoding kernel, or, where
    /// there are more rows, the library's products. All of them are the site's, `name`.
    ///
    /// - Parameters:
    ///   - wide: The site's products for many rows.
    ///   - name: What the launches are called.
    ///   - x: bfloat16 `[rows, inputs]`.
    func callAsFunction(
        _ site: DecoderSite, _ wide: WideProducts, _ name: String, of x: Tensor,
        norm: InputNorm? = nil, into destination: NarrowProducts.Destination
    ) throws -> [StepKernel] {
        let kernels =
            try narrow(site, wide, name, of: x, norm: norm, into: destination)
            ?? library(site, wide, name, of: x, norm: norm, into: destination)
        return kernels.map {
            var kernel = $0
            kernel.site = name
            return kernel
        }
    }

    /// A site's launches through the library's products.
    private func library(
        _ site: DecoderSite, _ wide: WideProducts, _ name: String, of x: Tensor,
        norm: InputNorm?, into destination: NarrowProducts.Destination
    ) -> [StepKernel] {
        var kernels: [StepKernel] = []
        var read = x
        if let norm {
            kernels.append(self.norm(x, norm))
            read = norm.room
        }
        kernels.append(
            StepKernel(name: name, weightBytes: site.byteCount) { [read] stream in
                switch destination {
                case .values(let y): try wide(read, into: y, adding: false, on: stream)
                case .stream(let y): try wide(read, into: y, adding: true, on: stream)
                case .gated(let y, let through):
                    try wide.gated(read, through: through, into: y, on: stream)
                case .logits(let y): try wide.logits(read, into: y, on: stream)
                }
            })
        return kernels
    }

    /// A site's launches through the decoding kernel, some rows at a time, as many each as go evenly:
    /// a row's sums depend on how many it is multiplied with. `nil` where the library's products take
    /// over.
    private func narrow(
        _ site: DecoderSite, _ wide: WideProducts, _ name: String, of x: Tensor,
        norm: InputNorm?, into destination: NarrowProducts.Destination
    ) throws -> [StepKernel]? {
        let count = x.shape[0]
        let isCoded = site.products.contains { $0.form.matrices.contains(where: \.isQuantized) }
        var limit = isCoded ? Self.mostCodeRows : Self.narrowRows
        // An output projection expanded would take more memory than anything else that steps need; it is
        // read again instead, up to 256 rows.
        if case .logits = destination, isCoded || !wide.givesLogits { limit = count }
        guard count <= limit else { return nil }
        let most = isCoded ? Self.narrowCodeRows : Self.narrowRows
        let groups = (count + most - 1) / most
        let size = (count + groups - 1) / groups
        var result: [StepKernel] = []
        for start in stride(from: 0, to: count, by: size) {
            let rows = start..<min(start + size, count)
            let products = NarrowProducts(self, tokens: rows.count)
            let launches = try products.kernels(
                site, name, of: x.narrow(0, rows), norm: norm, into: destination.narrow(rows))
            // A step has to read the weights once, however often it does.
            result +=
                start == 0
                ? launches
                : launches.map {
                    var again = $0
                    again.weightBytes = 0
                    return again
                }
        }
        return result
    }

    /// RMSNorm of rows of the residual stream.
    func norm(_ x: Tensor, _ norm: InputNorm) -> StepKernel {
        StepKernel(name: "norm", weightBytes: 2 * norm.weight.count, otherBytes: 4 * x.count) {
            [elementwise] stream in
            try elementwise.rmsNorm(
                x, weight: norm.weight, epsilon: norm.epsilon, into: norm.room, on: stream)
        }
    }
}

extension NarrowProducts.Destination {
    /// The same for some of the rows.
    fileprivate func narrow(_ rows: Range<Int>) throws -> Self {
        switch self {
        case .values(let y): .values(try y.narrow(0, rows))
        case .stream(let y): .stream(try y.narrow(0, rows))
        case .logits(let y): .logits(try y.narrow(0, rows))
        case .gated(let y, let through):
            .gated(
                try y.narrow(0, rows),
                through: through.shape[0] == 0 ? through : try through.narrow(0, rows))
        }
    }
}
