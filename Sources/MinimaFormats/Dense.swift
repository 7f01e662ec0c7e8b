import MinimaCore
import MinimaTensor

/// A weight as it is: `W` `[outputs, inputs]`.
///
/// Specification: no modes, no ranks. Stored: `weight`. Exact.
public struct Dense: BudgetedFormat {
    /// `dense`.
    public static let name = "dense"

    /// The weight itself.
    public let weight: Tensor

    /// A dense weight from a matrix.
    public init(_ weight: Tensor) {
        self.weight = weight
    }

    /// No modes, no ranks.
    public var spec: FormatSpec { FormatSpec(format: Self.name) }
    /// Rows.
    public var outputs: Int { weight.shape[0] }
    /// Columns.
    public var inputs: Int { weight.shape[1] }
    /// The weight under its own name.
    public var tensors: [(name: String, tensor: Tensor)] { [("weight", weight)] }
    /// `outputs · inputs`.
    public var multiplyAdds: Int { outputs * inputs }

    /// One matrix `[outputs, inputs]`.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try check(spec, outputs: outputs, inputs: inputs, modeCounts: (0, 0), rankCount: 0)
        return [TensorLayout(name: "weight", shape: [outputs, inputs])]
    }

    /// The only specification there is, when it fits.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        guard parameters >= outputs * inputs else {
            throw .budgetTooSmall(
                format: name, parameters: parameters, smallest: outputs * inputs)
        }
        return FormatSpec(format: name)
    }

    /// The weight unchanged.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> Dense
    {
        _ = try checkWeight(weight, spec)
        return Dense(weight)
    }

    /// Takes `[weight]`.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.init(tensors[0])
    }

    /// `x·Wᵀ`.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        try x.linear(weight)
    }

    /// The weight.
    public func reconstruct() throws(TensorError) -> Tensor { weight }
}
