import MinimaCore
import MinimaTensor

/// A product of two factors: W ≈ A·B, A `[outputs, r]`, B `[r, inputs]`.
///
/// Specification: no modes; ranks `[r]`, r ≤ min(outputs, inputs). Stored: `cores.0` = B,
/// `cores.1` = A, so that they are applied in the order of their names.
///
/// Decomposed by the whitened SVD: with C the second moment of the inputs and W·C·Wᵀ = U·Λ·Uᵀ,
/// A = U_r, B = U_rᵀ·W minimises tr(Δ·C·Δᵀ) over all matrices of rank r: Σ_{i>r} λ_i is what remains
/// (Eckart & Young 1936 for W·C^½; the form without inverse projects the outputs onto their principal
/// components, Yu & Wu 2023, section 3).
/// The factors are not rescaled: rounding to a floating-point type is relative, so no division of
/// the singular values between A and B changes the stored product's error.
public struct LowRank: LinearWeight {
    /// `lowrank`.
    public static let name = "lowrank"
    /// The error is the metric's.
    public static let usesMetric = true

    /// Ranks `[r]`.
    public let spec: FormatSpec
    /// B `[r, inputs]`.
    public let down: Tensor
    /// A `[outputs, r]`.
    public let up: Tensor

    /// Rows of A.
    public var outputs: Int { up.shape[0] }
    /// Columns of B.
    public var inputs: Int { down.shape[1] }
    /// B, then A.
    public var tensors: [(name: String, tensor: Tensor)] { [("cores.0", down), ("cores.1", up)] }
    /// `r · (inputs + outputs)`.
    public var multiplyAdds: Int { spec.ranks[0] * (inputs + outputs) }

    /// B `[r, inputs]`, A `[outputs, r]`.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [(name: String, shape: [Int])]
    {
        try check(spec, outputs: outputs, inputs: inputs, modeCounts: (0, 0), rankCount: 1)
        try checkRanks(spec.ranks, limits: [min(outputs, inputs)])
        return try cores([[spec.ranks[0], inputs], [outputs, spec.ranks[0]]])
    }

    /// The largest rank that fits, at most the full one.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        guard parameters >= outputs + inputs else {
            throw .budgetTooSmall(
                format: name, parameters: parameters, smallest: outputs + inputs)
        }
        let rank = min(parameters / (outputs + inputs), outputs, inputs)
        return FormatSpec(format: name, ranks: [rank])
    }

    /// The best approximation of rank r in the metric's norm.
    ///
    /// - Complexity: O(outputs·inputs·(inputs + outputs)) flops.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: InputMetric?) throws
        -> LowRank
    {
        _ = try checkWeight(weight, spec)
        let exact = try exact(weight)
        let basis = try exact.leadingBasis(
            spec.ranks[0], metric: secondMoment(metric, for: weight))
        let down = try basis.transpose().matmul(exact)
        return LowRank(
            spec: spec, down: try down.stored(like: weight), up: try basis.stored(like: weight))
    }

    private init(spec: FormatSpec, down: Tensor, up: Tensor) {
        self.spec = spec
        self.down = down
        self.up = up
    }

    /// Takes `[B, A]`.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.init(spec: spec, down: tensors[0], up: tensors[1])
    }

    /// `(x·Bᵀ)·Aᵀ`.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        try x.linear(down).linear(up)
    }

    /// A·B.
    public func reconstruct() throws(TensorError) -> Tensor {
        try up.matmul(down)
    }
}
