import MinimaCore
import MinimaTensor

/// A product of two factors: W ≈ A·B, A `[outputs, r]`, B `[r, inputs]`.
///
/// Specification: no modes; ranks `[r]`, r ≤ min(outputs, inputs). Stored: `cores.0` = B,
/// `cores.1` = A, so that they are applied in the order of their names.
///
/// Decomposed by ``WhitenedSVD``: no matrix of rank r has a smaller error in the metric's norm.
/// Without an output metric A = U_r is orthonormal and B = U_rᵀ·W (the form without inverse projects
/// the outputs onto their principal components, Yu & Wu 2023, section 3).
/// The factors are not rescaled: rounding to a floating-point type is relative, so no division of
/// the singular values between A and B changes the stored product's error.
public struct LowRank: BudgetedFormat {
    /// `lowrank`.
    public static let name = "lowrank"

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
        -> [TensorLayout]
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
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> LowRank
    {
        _ = try checkWeight(weight, spec)
        let (up, down) = try WhitenedSVD(weight, metric: metric).factors(rank: spec.ranks[0])
        return LowRank(
            spec: spec, down: try down.stored(like: weight), up: try up.stored(like: weight))
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
