import MinimaCore
import MinimaTensor

/// The weight of a linear layer `y = W·x` in some representation: dense, decomposed, quantised, or
/// made of parts.
///
/// A format is one file: a conforming type, its shapes and error bound documented above it, and one
/// line in `FormatRegistry.all`. The shared checkers run over every registered format.
public protocol LinearWeight: Sendable {
    /// The name that plans and checkpoints use.
    static var name: String { get }

    /// What fixes the shapes of ``tensors``.
    var spec: FormatSpec { get }
    /// Rows of W.
    var outputs: Int { get }
    /// Columns of W.
    var inputs: Int { get }
    /// Everything that is stored, under the names that follow the module's in a checkpoint
    /// (`cores.0`, …; `weight` for the dense one).
    var tensors: [(name: String, tensor: Tensor)] { get }

    /// What ``tensors`` holds for a weight `[outputs, inputs]` under `spec`, in its order.
    ///
    /// - Throws: `FormatError` when the modes or ranks do not suit the weight; the sizes come from
    ///   files, so products are checked for overflow.
    static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]

    /// Approximates `weight` `[outputs, inputs]` (any float dtype, computed in float64).
    ///
    /// - Parameter metric: What the error is measured in; `nil` is the Frobenius norm.
    /// - Returns: Tensors of the layout's dtypes, or of `weight`'s dtype where the layout names none,
    ///   on `weight`'s device.
    /// - Throws: `FormatError` when `spec` does not suit the weight, `TensorError.notFinite` when
    ///   weight or metric hold NaN or infinity.
    static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws -> Self

    /// Takes tensors that have the names, order and shapes of ``layout(_:outputs:inputs:)``.
    init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor]) throws(FormatError)

    /// This weight with `tensors` in place of its own: as many, in the same order and shapes, indices
    /// with the values that they have here, which are not checked again.
    func replacing(_ tensors: [Tensor]) throws(FormatError) -> Self

    /// `x·Wᵀ` for `x` `[…, inputs]`: `[…, outputs]`. Never forms W unless that is what is stored.
    func forward(_ x: Tensor) throws(TensorError) -> Tensor

    /// W `[outputs, inputs]`, in the floating-point type of the stored values.
    func reconstruct() throws(TensorError) -> Tensor

    /// Multiply-adds of ``forward(_:)`` per row of `x`.
    var multiplyAdds: Int { get }

    /// Numbers that the weight consists of, indices included; those that stand for packed codes
    /// count once each, their scales not at all.
    var parameterCount: Int { get }
    /// ``parameterCount`` of a weight `[outputs, inputs]` under `spec`.
    static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
}

/// A format that has one specification for every number of parameters.
public protocol BudgetedFormat: LinearWeight {
    /// The most accurate specification of this format with at most `parameters` parameters.
    ///
    /// - Throws: `FormatError.budgetTooSmall`, naming the smallest budget that works.
    static func spec(fitting parameters: Int, outputs: Int, inputs: Int) throws(FormatError)
        -> FormatSpec
}

/// Name, shape and type of one stored tensor.
public struct TensorLayout: Sendable, Hashable {
    /// What follows the module's name in a checkpoint.
    public var name: String
    /// Its sizes.
    public var shape: [Int]
    /// The type it is always stored in; `nil` for floating-point values in the model's own type.
    public var dtype: DType?

    /// A tensor's layout.
    public init(name: String, shape: [Int], dtype: DType? = nil) {
        self.name = name
        self.shape = shape
        self.dtype = dtype
    }

    /// Numbers stored.
    public var count: Int { shape.reduce(1, *) }
}

extension LinearWeight {
    /// A new weight, checked.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> Self {
        try Self(spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
    }

    /// Numbers stored, indices included.
    public var parameterCount: Int { tensors.reduce(0) { $0 + $1.tensor.count } }

    /// Bytes stored.
    public var byteCount: Int {
        tensors.reduce(0) { $0 + $1.tensor.count * $1.tensor.dtype.byteCount }
    }

    /// Numbers that a weight `[outputs, inputs]` under `spec` stores.
    public static func parameterCount(_ spec: FormatSpec, outputs: Int, inputs: Int)
        throws(FormatError) -> Int
    {
        try layout(spec, outputs: outputs, inputs: inputs).reduce(0) { $0 + $1.count }
    }

    /// Bytes that a weight `[outputs, inputs]` under `spec` takes in a model stored as `dtype`.
    public static func byteCount(
        _ spec: FormatSpec, outputs: Int, inputs: Int, dtype: DType
    ) throws(FormatError) -> Int {
        Sizes.saturatingSum(
            try layout(spec, outputs: outputs, inputs: inputs).map {
                Sizes.saturatingProduct([$0.count, ($0.dtype ?? dtype).byteCount])
            })
    }
}
