import MinimaKernels
import MinimaTensor

/// Linear layers that read one activation, as kernels multiply by them: products whose results lie
/// side by side or are added.
struct DecoderSite: Sendable {
    /// The site's name in the checkpoint.
    let name: String
    /// Outputs of all members, stacked.
    let outputs: Int
    /// Values that it reads.
    let inputs: Int
    /// b `[outputs]`, bfloat16.
    let bias: Tensor?
    /// What is multiplied by, in the order in which it is.
    let products: [Product]
    /// Whether gates and ups meet in the kernel that gives both; slots are made for that.
    let gatesMeet: Bool

    /// A block of the site's weight.
    struct Product: Sendable {
        let outputs: Range<Int>
        let inputs: Range<Int>
        let form: Form
    }

    /// One matrix, or two with a bond between.
    enum Form: Sendable {
        case matrix(SiteMatrix)
        /// The outputs at `pivots`, then the others from them, ascending.
        case interpolated(rows: SiteMatrix, coefficients: SiteMatrix, pivots: [Int])
        case product(inner: SiteMatrix, outer: SiteMatrix)
    }

    /// What becomes of a site's outputs.
    enum Use: Sendable {
        /// They are kept.
        case values
        /// They are added to the residual stream.
        case residual
        /// The first half are gates of the second.
        case gated
    }

    /// Whether one product gives all outputs from all inputs.
    var isWhole: Bool {
        products.count == 1 && products[0].outputs.count == outputs
            && products[0].inputs.count == inputs
    }

    /// Whether one interpolated product without bias gives all outputs.
    var isGathered: Bool {
        guard isWhole, bias == nil, case .interpolated = products[0].form else { return false }
        return true
    }

    /// Values that a factored product gives for one token, those of its bond among them, twice where
    /// they do not stand alone; 0 without.
    var largestResults: Int {
        products.map { $0.form.results + (isWhole ? 0 : $0.outputs.count) }.max() ?? 0
    }

    /// Values of its largest matrix of codes; 0 without one.
    var largestExpanded: Int {
        products.flatMap(\.form.matrices).filter(\.isQuantized)
            .map { $0.rows * $0.pitch }.max() ?? 0
    }

    /// Its matrices as kernels read them.
    var matrices: [LinearMatrix] { products.flatMap { $0.form.matrices.map(\.kernel) } }

    /// Numbers that it multiplies by.
    var parameterCount: Int {
        products.flatMap(\.form.matrices).reduce(bias?.count ?? 0) { $0 + $1.rows * $1.columns }
    }

    /// Bytes that one decode step reads.
    var byteCount: Int {
        products.flatMap(\.form.matrices).reduce((bias?.count ?? 0) * 2) {
            $0 + $1.kernel.bytes
        }
    }
}

extension DecoderSite.Form {
    /// Values that it gives for one token, those between its matrices among them, for which decoding
    /// takes a multiple of 8; 0 for one matrix.
    var results: Int {
        switch self {
        case .matrix: 0
        case .interpolated(let rows, let coefficients, _):
            max(rows.rows + coefficients.rows, Self.middleWidth(rows.rows))
        case .product(let inner, _): Self.middleWidth(inner.rows)
        }
    }

    /// Values from row to row of what passes between two matrices with a bond of `rank`.
    static func middleWidth(_ rank: Int) -> Int { (rank + 7) / 8 * 8 }

    /// The matrices in the order in which they are applied.
    var matrices: [SiteMatrix] {
        switch self {
        case .matrix(let matrix): [matrix]
        case .interpolated(let rows, let coefficients, _): [rows, coefficients]
        case .product(let inner, let outer): [inner, outer]
        }
    }
}

/// A matrix of a site on the device.
struct SiteMatrix: Sendable {
    /// Rows.
    let rows: Int
    /// As kernels read it.
    let kernel: LinearMatrix

    /// Columns.
    var columns: Int { kernel.columns }
    /// Values from row to row of its expanded form.
    var pitch: Int { (columns + 7) / 8 * 8 }
    /// Whether it is stored as codes.
    var isQuantized: Bool { kernel.rows == nil }

    /// The matrix as libtorch multiplies by it, bfloat16 `[rows, columns]`.
    ///
    /// - Parameter scratch: bfloat16, at least rows · pitch values, where it is stored as codes: what
    ///   it held before is overwritten in the stream's order.
    func dense(through scratch: Tensor?, on stream: CUDAStream) throws -> Tensor {
        if let values = kernel.rows { return try values.narrow(1, 0..<columns) }
        guard let scratch else {
            throw RuntimeError.unsupportedSize(
                name: "room for expanded codes", found: 0, needed: "\(rows * pitch) values")
        }
        let values = try scratch.narrow(0, 0..<rows * pitch).reshape([rows, pitch])
        try kernel.expand(into: values, on: stream, overlapping: false)
        return try values.narrow(1, 0..<columns)
    }
}
