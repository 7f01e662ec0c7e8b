import MinimaCore
import MinimaTensor

/// The weight's most important values exactly, zero elsewhere: outliers beside another format.
///
/// Specification: no modes; ranks `[k]`, the values kept, k ≤ outputs·inputs. Stored: `indices`
/// `[k]`, int32 (int64 in a weight of 2³¹ values or more), ascending places in the row-major weight;
/// `values` `[k]`.
///
/// Kept are the k largest |W_ij|·√C_jj·√H_ii: what losing this value alone costs under the metric's
/// diagonal (as in SpQR, Dettmers et al. 2023, section 3, with the output's share).
public struct Sparse: BudgetedFormat {
    /// `sparse`.
    public static let name = "sparse"

    /// Ranks `[k]`.
    public let spec: FormatSpec
    /// Rows of W.
    public let outputs: Int
    /// Columns of W.
    public let inputs: Int
    /// Places `[k]`, ascending.
    public let indices: Tensor
    /// Values `[k]`.
    public let values: Tensor
    /// Columns of the values, int64 `[k]`.
    private let columns: Tensor
    /// Where each row's values start, int64 `[outputs]`.
    private let starts: Tensor

    /// Indices, values.
    public var tensors: [(name: String, tensor: Tensor)] {
        [("indices", indices), ("values", values)]
    }
    /// `k`.
    public var multiplyAdds: Int { spec.ranks[0] }

    /// Indices `[k]`, values `[k]`.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try check(spec, outputs: outputs, inputs: inputs, modeCounts: (0, 0), rankCount: 1)
        try checkRanks(spec.ranks, limits: [outputs * inputs])
        let isLong = outputs * inputs > Int(Int32.max)
        return [
            TensorLayout(name: "indices", shape: spec.ranks, dtype: isLong ? .int64 : .int32),
            TensorLayout(name: "values", shape: spec.ranks),
        ]
    }

    /// Half as many values as parameters: each needs its index.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        guard parameters >= 2 else {
            throw .budgetTooSmall(format: name, parameters: parameters, smallest: 2)
        }
        return FormatSpec(format: name, ranks: [min(parameters / 2, outputs * inputs)])
    }

    /// Keeps the k values whose loss would cost most.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> Sparse
    {
        let (outputs, inputs) = try checkWeight(weight, spec)
        let exact = try exact(weight)
        var cost = try exact.abs()
        if let metric = try prepared(metric, for: weight) {
            cost = try cost * metric.input.diagonal().clamp(min: 0).sqrt()
            if let output = metric.output {
                cost = try cost * output.diagonal().clamp(min: 0).sqrt().unsqueeze(1)
            }
        }
        let indices = try cost.reshape([-1]).topK(spec.ranks[0]).indices.sorted().values
        let values = try exact.reshape([-1]).gather(0, indices)
        let dtype = try layout(spec, outputs: outputs, inputs: inputs)[0].dtype
        return try Sparse(
            spec: spec, outputs: outputs, inputs: inputs,
            tensors: [indices.to(dtype: dtype), values.stored(like: weight)])
    }

    /// Takes `[indices, values]`.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.spec = spec
        self.outputs = outputs
        self.inputs = inputs
        (indices, values) = (tensors[0], tensors[1])
        guard
            let (columns, starts) = try? Self.places(indices, outputs: outputs, inputs: inputs)
        else {
            throw .badIndices(
                format: Self.name, name: "indices", count: spec.ranks[0],
                limit: outputs * inputs)
        }
        self.columns = columns
        self.starts = starts
    }

    private init(_ other: Sparse, values: Tensor) {
        (spec, outputs, inputs) = (other.spec, other.outputs, other.inputs)
        (indices, columns, starts) = (other.indices, other.columns, other.starts)
        self.values = values
    }

    /// Keeps the indices.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> Sparse {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        return Sparse(self, values: tensors[1])
    }

    /// Columns, and where rows start.
    private static func places(_ indices: Tensor, outputs: Int, inputs: Int) throws(TensorError)
        -> (columns: Tensor, starts: Tensor)
    {
        let (long, count) = (try indices.to(dtype: .int64), indices.count)
        let first = try long.select(0, 0).item()
        let last = try long.select(0, count - 1).item()
        let steps = try long.narrow(0, 1..<count) - long.narrow(0, 0..<count - 1)
        let descents = try steps.isLess(than: 1).sum(dtype: .int64).item()
        guard first >= 0, last < Double(outputs * inputs), descents == 0 else {
            throw .invalidArgument(function: "sparse", reason: "indices must ascend in the weight")
        }
        let device = indices.device
        // Times an integer: times a number the places would be float32, which has 24 digits.
        let rowStarts =
            try Tensor.arange(0..<outputs, device: device) * Tensor([Int64(inputs)]).to(device)
        let starts = try searchSortedOperator(.tensor(long), .tensor(rowStarts))
        return (try remainderOperator(.tensor(long), .int(inputs)), starts)
    }

    /// Per row the sum of its values times their inputs; no `[tokens, k]` is formed.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        let (rows, shape) = try rows(x)
        guard rows.shape[0] > 0 else {
            return try Tensor.zeros(shape, dtype: x.dtype, device: x.device)
        }
        let sums = try bagOperator.tensors(
            .tensor(rows.transpose().contiguous()), .tensor(columns), .tensor(starts),
            .bool(false), .int(0), .bool(false), .tensor(values), .bool(false))
        return try sums[0].transpose().reshape(shape)
    }

    /// The values in their places among zeros.
    public func reconstruct() throws(TensorError) -> Tensor {
        let zero = try Tensor.zeros(
            [outputs * inputs], dtype: values.dtype, device: values.device)
        return try zero.scatter(0, indices.to(dtype: .int64), values).reshape([outputs, inputs])
    }
}

private let searchSortedOperator = Operator("aten::searchsorted", "Tensor")
private let remainderOperator = Operator("aten::remainder", "Scalar")
private let bagOperator = Operator("aten::embedding_bag")
