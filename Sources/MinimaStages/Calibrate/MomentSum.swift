import MinimaCore
import MinimaTensor

private let mixedProductOperator = Operator("aten::mm", "dtype")

/// A weighted mean of products `Σ w·x·yᵀ / Σ w` over tokens; with `y = x` a second moment.
///
/// Products are taken in float32 per batch and summed in float64 on the tensors' device. A GPU
/// multiplies half-precision activations as they are (a product of two bfloat16 or float16 numbers
/// is exact in float32) and accumulates in float32.
public struct MomentSum: Sendable {
    /// Σ w over the tokens seen.
    public private(set) var weight = 0.0
    /// Tokens seen.
    public private(set) var tokens = 0
    private var sum: Tensor?

    /// Nothing seen yet.
    public init() {}

    /// Adds the tokens of `x` `[…, n]`, each with `weight`.
    ///
    /// - Parameter other: y `[…, m]` for the same tokens; `nil` is `x` itself.
    public mutating func add(_ x: Tensor, _ other: Tensor? = nil, weight: Double = 1)
        throws(TensorError)
    {
        let left = try Self.rows(x)
        let right = try other.map { (y) throws(TensorError) in try Self.rows(y) } ?? left
        let product = try Self.product(left, right)
        try product.addWeighted(weight, to: &sum)
        tokens += left.shape[0]
        self.weight += weight * Double(left.shape[0])
    }

    /// The mean `[n, m]`, float64; `nil` before the first token.
    public func mean() throws(TensorError) -> Tensor? {
        try sum.map { (sum) throws(TensorError) in try sum / weight }
    }

    private static func rows(_ x: Tensor) throws(TensorError) -> Tensor {
        try x.detach().reshape([-1, x.shape.last ?? 1])
    }

    private static func product(_ left: Tensor, _ right: Tensor) throws(TensorError) -> Tensor {
        let isHalf = [.bfloat16, .float16].contains(left.dtype) && left.dtype == right.dtype
        if isHalf && left.device.isCUDA {
            return try mixedProductOperator(
                .tensor(left.transpose()), .tensor(right), .dtype(.float32))
        }
        return try left.to(dtype: .float32).transpose().matmul(right.to(dtype: .float32))
    }
}

extension Tensor {
    /// Adds this float32 tensor times `weight` to a float64 sum on its device.
    func addWeighted(_ weight: Double, to sum: inout Tensor?) throws(TensorError) {
        if let sum { return try sum.addInPlace(self, scale: weight) }
        let first = try Tensor.zeros(shape, dtype: .float64, device: device)
        try first.addInPlace(self, scale: weight)
        sum = first
    }
}
