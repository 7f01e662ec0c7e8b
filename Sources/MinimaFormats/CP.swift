import MinimaCore
import MinimaTensor

/// A CP decomposition: W as `[o₁, o₂, inputs]`, a sum of R outer products (Hitchcock 1927; Kolda &
/// Bader 2009, section 3).
///
/// W[o₁ o₂, i] = Σ_k F₁[o₁, k]·F₂[o₂, k]·B[k, i].
///
/// Specification: output modes `[o₁, o₂]`, input modes `[inputs]`, ranks `[R]`, R ≤ o₁·o₂. Stored:
/// `cores.0` = B `[R, inputs]`, `cores.1` = F₁ `[o₁, R]`, `cores.2` = F₂ `[o₂, R]`.
///
/// Fitted by `KroneckerSum`: error² is at most what the HOSVD's core holds outside its R largest
/// fibres, in whitened coordinates.
public struct CP: BudgetedFormat {
    /// `cp`.
    public static let name = "cp"

    /// Modes and ranks `[R]`.
    public let spec: FormatSpec
    private let sum: KroneckerSum

    /// o₁·o₂.
    public var outputs: Int { spec.outputModes[0] * spec.outputModes[1] }
    /// The only input mode.
    public var inputs: Int { spec.inputModes[0] }
    /// B, F₁, F₂.
    public var tensors: [(name: String, tensor: Tensor)] {
        sum.tensors.enumerated().map { ("cores.\($0)", $1) }
    }
    /// B, then the output factors in the cheaper order.
    public var multiplyAdds: Int { sum.multiplyAdds }

    private static func shape(_ spec: FormatSpec) -> KroneckerSum.Shape {
        KroneckerSum.Shape(
            modes: spec.outputModes, inputs: spec.inputModes[0], blocks: spec.ranks[0],
            ranks: [1, 1])
    }

    /// B and the two factors.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try check(
            spec, outputs: outputs, inputs: inputs, modeCounts: (2, 1), rankCount: 1)
        try checkRanks(spec.ranks, limits: [shape(spec).limit])
        return try cores(shape(spec).tensors)
    }

    /// The balanced pair of output modes, and as many terms as fit.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        let first = Sizes.divisor(of: outputs, nearest: Double(outputs).squareRoot())
        return try spec(
            fitting: parameters, outputModes: [first, outputs / first], inputModes: [inputs])
    }

    /// As many terms as fit, with given modes.
    public static func spec(fitting parameters: Int, outputModes: [Int], inputModes: [Int])
        throws(FormatError) -> FormatSpec
    {
        guard outputModes.count == 2, inputModes.count == 1 else {
            throw .wrongModeCount(
                format: name, outputs: outputModes.count, inputs: inputModes.count,
                needed: "2 output and 1 input modes")
        }
        guard Sizes.product(outputModes + inputModes) != nil else {
            throw .tooLarge(format: name)
        }
        let ranks = [1, 1]
        let one = KroneckerSum.Shape(
            modes: outputModes, inputs: inputModes[0], blocks: 1, ranks: ranks)
        guard one.count <= parameters else {
            throw .budgetTooSmall(format: name, parameters: parameters, smallest: one.count)
        }
        return FormatSpec(
            format: name, outputModes: outputModes, inputModes: inputModes,
            ranks: [min(parameters / one.count, one.limit)])
    }

    /// The largest tiles of the whitened weight's HOSVD, then alternating least squares.
    ///
    /// - Complexity: O(outputs·inputs·r + outputs·r²) flops per sweep, r = R.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws -> CP {
        try decompose(weight, spec: spec, metric: metric, sweeps: KroneckerSum.sweeps)
    }

    /// The same with at most `sweeps` sweeps.
    static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?, sweeps: Int) throws
        -> CP
    {
        _ = try checkWeight(weight, spec)
        let exact = try exact(weight)
        return CP(
            spec: spec,
            sum: try .fit(
                weight, exact: exact, shape: shape(spec), metric: prepared(metric, for: weight),
                sweeps: sweeps))
    }

    private init(spec: FormatSpec, sum: KroneckerSum) {
        self.spec = spec
        self.sum = sum
    }

    /// Takes `[B, F₁, F₂]`.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.init(spec: spec, sum: KroneckerSum(shape: Self.shape(spec), tensors: tensors))
    }

    /// `x` through B, then through both output factors.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        let (matrix, shape) = try rows(x)
        return try sum.forward(matrix).reshape(shape)
    }

    /// The sum of all terms.
    public func reconstruct() throws(TensorError) -> Tensor {
        try sum.reconstruct()
    }
}
