import MinimaCore
import MinimaTensor

/// The weight of a linear layer `y = W·x` in some representation, dense or decomposed.
///
/// A format is one file: a conforming type, its shapes and error bound documented above it, and one
/// line in `FormatRegistry.all`. The shared checkers run over every registered format.
public protocol LinearWeight: Sendable {
    /// The name that plans and checkpoints use.
    static var name: String { get }
    /// Whether ``decompose(_:spec:metric:)`` minimises the metric's norm; a format that does not
    /// minimises the Frobenius norm whatever the metric is.
    static var usesMetric: Bool { get }

    /// What fixes the shapes of ``tensors``.
    var spec: FormatSpec { get }
    /// Rows of W.
    var outputs: Int { get }
    /// Columns of W.
    var inputs: Int { get }
    /// Everything that is stored, under the names that follow the module's in a checkpoint
    /// (`cores.0`, …; `weight` for the dense one).
    var tensors: [(name: String, tensor: Tensor)] { get }

    /// Names and shapes of what ``tensors`` holds for a weight `[outputs, inputs]` under `spec`.
    ///
    /// - Throws: `FormatError` when the modes or ranks do not suit the weight; the sizes come from
    ///   files, so products are checked for overflow.
    static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [(name: String, shape: [Int])]

    /// The most accurate specification of this format with at most `parameters` parameters.
    ///
    /// - Throws: `FormatError.budgetTooSmall`, naming the smallest budget that works.
    static func spec(fitting parameters: Int, outputs: Int, inputs: Int) throws(FormatError)
        -> FormatSpec

    /// Approximates `weight` `[outputs, inputs]` (any float dtype, computed in float64).
    ///
    /// - Parameter metric: What the error is measured in; `nil` is the Frobenius norm.
    /// - Returns: Tensors of `weight`'s dtype on its device.
    /// - Throws: `FormatError` when `spec` does not suit the weight, `TensorError.notFinite` when
    ///   weight or metric hold NaN or infinity.
    static func decompose(_ weight: Tensor, spec: FormatSpec, metric: InputMetric?) throws -> Self

    /// Takes tensors that have the names, order and shapes of ``layout(_:outputs:inputs:)``.
    init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor]) throws(FormatError)

    /// `x·Wᵀ` for `x` `[…, inputs]`: `[…, outputs]`. Never forms W unless that is what is stored.
    func forward(_ x: Tensor) throws(TensorError) -> Tensor

    /// W `[outputs, inputs]`.
    func reconstruct() throws(TensorError) -> Tensor

    /// Multiply-adds of ``forward(_:)`` per row of `x`.
    var multiplyAdds: Int { get }
}

extension LinearWeight {
    /// Numbers stored.
    public var parameterCount: Int { tensors.reduce(0) { $0 + $1.tensor.count } }

    /// Bytes stored.
    public var byteCount: Int {
        tensors.reduce(0) { $0 + $1.tensor.count * $1.tensor.dtype.byteCount }
    }

    /// Numbers that a weight `[outputs, inputs]` under `spec` stores.
    public static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
    {
        try layout(spec, outputs: outputs, inputs: inputs).reduce(0) {
            $0 + $1.shape.reduce(1, *)
        }
    }
}

/// The metric of a weight's error: the second moment of the layer's inputs.
///
/// Minimising `tr(Δ·C·Δᵀ)` minimises the expected squared error of the layer's output.
public struct InputMetric: Sendable {
    /// `C = E[x·xᵀ]` `[inputs, inputs]`, float64, symmetric and positive semidefinite.
    public let secondMoment: Tensor

    /// A metric from a second moment, in any float dtype.
    public init(secondMoment: Tensor) throws(TensorError) {
        self.secondMoment = try secondMoment.to(dtype: .float64)
    }

    /// `sqrt(tr(Δ·C·Δᵀ))` for `difference` Δ `[outputs, inputs]`.
    public func norm(_ difference: Tensor) throws(TensorError) -> Double {
        let difference = try difference.to(secondMoment.device, dtype: .float64)
        let squared = try (difference.matmul(secondMoment) * difference).sum().item()
        return max(squared, 0).squareRoot()
    }
}
