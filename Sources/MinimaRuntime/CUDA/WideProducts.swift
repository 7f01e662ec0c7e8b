import MinimaKernels
import MinimaTensor

private let multiplyOperator = Operator("aten::mm", "out")
private let addMultiplyOperator = Operator("aten::addmm", "out")
private let typedMultiplyOperator = Operator("aten::mm", "dtype_out")

/// Multiplies many tokens by a site's weight, through libtorch's matrix products: prompts, and decode
/// steps of more tokens than the decoding kernel takes.
///
/// Nothing is allocated, so that it can be recorded into a graph. Codes are expanded to bfloat16
/// before each product.
struct WideProducts {
    private let site: DecoderSite
    private let elementwise: Elementwise
    private let scratch: Scratch
    /// Per product the place of each output among pivots and others, int32 `[outputs]`.
    private let orders: [Tensor?]
    private let gates, ups: Tensor?

    /// What all sites share.
    struct Scratch {
        /// bfloat16, as large as the largest matrix that is expanded; `nil` where none is.
        let expanded: Tensor?
        /// bfloat16 `[tokens, results]`: pivots, then the outputs interpolated from them.
        let results: Tensor
    }

    init(_ site: DecoderSite, elementwise: Elementwise, scratch: Scratch) throws {
        self.site = site
        self.elementwise = elementwise
        self.scratch = scratch
        let device = scratch.results.device
        orders = try site.products.map { product in
            guard case .interpolated(_, _, let pivots) = product.form else { return nil }
            return try Tensor(Self.order(pivots, outputs: product.outputs.count)).to(device)
        }
        guard site.isGathered, let order = orders[0] else {
            (gates, ups) = (nil, nil)
            return
        }
        let half = site.outputs / 2
        gates = try order.narrow(0, 0..<half).clone()
        ups = try order.narrow(0, half..<2 * half).clone()
    }

    /// For each output its place among `pivots` and, after them, the others.
    static func order(_ pivots: [Int], outputs: Int) -> [Int32] {
        var places = [Int32](repeating: -1, count: outputs)
        for (place, pivot) in pivots.enumerated() { places[pivot] = Int32(place) }
        var next = Int32(pivots.count)
        for output in 0..<outputs where places[output] < 0 {
            places[output] = next
            next += 1
        }
        return places
    }

    /// y = x·Wᵀ + b, or added to what `y` holds.
    ///
    /// - Parameters:
    ///   - x: bfloat16 `[tokens, inputs]`.
    ///   - y: bfloat16 `[tokens, outputs]`.
    func callAsFunction(_ x: Tensor, into y: Tensor, adding: Bool, on stream: CUDAStream) throws {
        // What a product finds in its columns of y: nothing, the stream, or earlier products.
        var written: [Range<Int>] = adding ? [0..<site.outputs] : []
        for (index, product) in site.products.enumerated() {
            let isWhole = product.inputs.count == x.shape[1]
            let read = isWhole ? x : try x.narrow(1, product.inputs)
            let isAdding = written.contains { $0.overlaps(product.outputs) }
            written.append(product.outputs)
            let target =
                product.outputs.count == site.outputs ? y : try y.narrow(1, product.outputs)
            switch product.form {
            case .matrix(let matrix):
                try multiply(read, matrix, into: target, adding: isAdding, stream)
            case .product(let inner, let outer):
                let middle = try results(x.shape[0], inner.rows)
                try multiply(read, inner, into: middle, adding: false, stream)
                try multiply(middle, outer, into: target, adding: isAdding, stream)
            case .interpolated:
                let all = try interpolate(read, product.form, stream)
                guard let order = orders[index] else { continue }
                if target.shape[1] == y.shape[1] {
                    try elementwise.gatherColumns(
                        all, index: order, adding: isAdding ? target : nil, into: target,
                        on: stream)
                    continue
                }
                let outputs = try results(
                    x.shape[0], order.count, after: all.count)
                try elementwise.gatherColumns(all, index: order, into: outputs, on: stream)
                try isAdding ? target.addInPlace(outputs) : target.copy(from: outputs)
            }
        }
        if let bias = site.bias { try y.addInPlace(bias) }
    }

    /// h = silu(gate)·up of a site whose outputs are gates, then ups.
    ///
    /// - Parameters:
    ///   - scratch: bfloat16 `[tokens, outputs]`.
    ///   - h: bfloat16 `[tokens, outputs / 2]`.
    func gated(_ x: Tensor, through scratch: Tensor, into h: Tensor, on stream: CUDAStream) throws {
        if let gates, let ups {
            let all = try interpolate(x, site.products[0].form, stream)
            return try elementwise.swiGLU(all, gates: gates, ups: ups, into: h, on: stream)
        }
        try self(x, into: scratch, adding: false, on: stream)
        try elementwise.swiGLU(scratch, into: h, on: stream)
    }

    /// Whether ``logits(_:into:on:)`` knows the site's weight: one matrix without bias.
    var givesLogits: Bool {
        guard site.isWhole, site.bias == nil, case .matrix = site.products[0].form else {
            return false
        }
        return true
    }

    /// y = x·Wᵀ of a site that ``givesLogits``, not rounded.
    ///
    /// - Parameter y: float32 `[tokens, outputs]`.
    func logits(_ x: Tensor, into y: Tensor, on stream: CUDAStream) throws {
        let matrix = site.products[0].form.matrices[0]
        let right = try matrix.dense(through: scratch.expanded, on: stream).transpose()
        _ = try typedMultiplyOperator(
            .tensor(x), .tensor(right), .dtype(.float32), .tensor(y))
    }

    /// R·x and X·(R·x) side by side.
    private func interpolate(_ x: Tensor, _ form: DecoderSite.Form, _ stream: CUDAStream) throws
        -> Tensor
    {
        guard case .interpolated(let rows, let coefficients, _) = form else { return x }
        let (rank, others) = (rows.rows, coefficients.rows)
        let all = try results(x.shape[0], rank + others)
        let pivots = try all.narrow(1, 0..<rank)
        try multiply(x, rows, into: pivots, adding: false, stream)
        let rest = try all.narrow(1, rank..<rank + others)
        try multiply(pivots, coefficients, into: rest, adding: false, stream)
        return all
    }

    private func results(_ tokens: Int, _ width: Int, after start: Int = 0) throws -> Tensor {
        try scratch.results.narrow(0, start..<start + tokens * width).reshape([tokens, width])
    }

    private func multiply(
        _ x: Tensor, _ matrix: SiteMatrix, into y: Tensor, adding: Bool, _ stream: CUDAStream
    ) throws {
        let right = try matrix.dense(through: scratch.expanded, on: stream).transpose()
        if adding {
            _ = try addMultiplyOperator(
                .tensor(y), .tensor(x), .tensor(right), .int(1), .int(1), .tensor(y))
        } else {
            _ = try multiplyOperator(.tensor(x), .tensor(right), .tensor(y))
        }
    }
}
