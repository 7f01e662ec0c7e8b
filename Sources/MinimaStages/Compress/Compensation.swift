import MinimaCore
import MinimaTensor

/// How the error of the layers that are compressed already is made up for in the next ones.
///
/// A module that reads X̂, the compressed model's inputs, where the dense one read X, best takes
/// the place of T = W·(Ĉ + β·E)·Ĉ⁻¹ with Ĉ = X̂·X̂ᵀ and E = (X − X̂)·X̂ᵀ: among all matrices, T
/// minimises (1 − β)·‖W·X̂ − T·X̂‖² + β·‖W·X − T·X̂‖².
///
/// Where the output is added to the residual stream, R before it in the dense model and R̂ in the
/// compressed one, T = [W·(Ĉ + β·E) + β·F]·Ĉ⁻¹ with F = (R − R̂)·X̂ᵀ makes up for what the stream
/// has lost as well: it minimises (1 − β)·‖W·X̂ − T·X̂‖² + β·‖R + W·X − R̂ − T·X̂‖².
///
/// β = 1 follows the calibration text further than it generalises.
///
/// - Note: The target for β = 1 without F is the asymmetric calibration of Li et al. 2025, "GPTAQ".
public enum Compensation: Sendable, Hashable, CustomStringConvertible {
    /// Every module is fitted to the dense model's inputs, alone.
    case off
    /// One β in 0 ..< 1 for all sites.
    case fixed(Double)
    /// For each site the best of ``candidates`` on held-out windows.
    case automatic

    /// Values of β that ``automatic`` chooses from.
    public static let candidates = [0, 0.25, 0.5, 0.75]
    /// With ``automatic``, every so many-th window is held out while β is chosen.
    static let heldOutStride = 5

    /// β = 0.5: of the KL that −35 % in interpolative format cost the example model on held-out text,
    /// it took away a fifth, and the best of ``candidates`` for each site no more.
    public static let standard = Compensation.fixed(0.5)

    /// Reads `off`, `auto` or a number from 0 to less than 1.
    public init(_ text: String) throws(CompressionError) {
        switch text {
        case "off": self = .off
        case "auto": self = .automatic
        default:
            guard let share = Double(text), share >= 0, share < 1 else {
                throw .badCompensation(text)
            }
            self = .fixed(share)
        }
    }

    /// What ``init(_:)`` reads.
    public var description: String {
        switch self {
        case .off: "off"
        case .automatic: "auto"
        case .fixed(let share): "\(share)"
        }
    }
}

/// Moments of one site's inputs over some windows: x of the dense model, x̂ of the compressed one.
struct InputMoments {
    /// Those that the compressed model takes part in, float64.
    struct Compressed {
        /// Ĉ = E[x̂·x̂ᵀ] `[inputs, inputs]`.
        var moment: Tensor
        /// E = E[(x − x̂)·x̂ᵀ] `[inputs, inputs]`.
        var cross: Tensor
        /// F = E[(r − r̂)·x̂ᵀ] `[outputs, inputs]` with the residual streams r and r̂ that the
        /// output is added to; `nil` where it is not.
        var residual: Tensor?

        /// E[y·x̂ᵀ] of what the site should bring to the compressed model, y = W·x + r − r̂, for W
        /// `[outputs, inputs]`, float64, of the rows `rows`.
        func wanted(_ weight: Tensor, _ rows: Range<Int>) throws(TensorError) -> Tensor {
            let own = try weight.matmul(moment + cross)
            guard let residual else { return own }
            return try own + residual.narrow(0, rows)
        }
    }

    /// C = E[x·xᵀ] `[inputs, inputs]`, float64; `nil` where it was known already.
    var dense: Tensor?
    /// `nil` while both models agree.
    var compressed: Compressed?
    /// What the moments were divided by.
    var weight = 0.0

    /// The moments over the windows of both.
    func joined(_ other: InputMoments) throws(TensorError) -> InputMoments {
        let total = weight + other.weight
        func mean(_ left: Tensor, _ right: Tensor) throws(TensorError) -> Tensor {
            try left * (weight / total) + right * (other.weight / total)
        }
        var joined = InputMoments(dense: dense, weight: total)
        if let left = dense, let right = other.dense { joined.dense = try mean(left, right) }
        if let left = compressed, let right = other.compressed {
            var both = Compressed(
                moment: try mean(left.moment, right.moment),
                cross: try mean(left.cross, right.cross))
            if let left = left.residual, let right = right.residual {
                both.residual = try mean(left, right)
            }
            joined.compressed = both
        }
        return joined
    }
}

/// Targets T = W + β·(W·E + F)·(Ĉ + λ·I)⁻¹ of one weight W for any β.
///
/// Equal to [W·(Ĉ + β·E) + β·F]·Ĉ⁻¹ where Ĉ is invertible and λ small; where the calibration text
/// says nothing of an input, W stays.
struct CompensatedTargets {
    private let weight: Tensor
    private let shift: Tensor

    /// Factors Ĉ once and solves with the smaller side of W, or with F where there is one:
    /// O(n³ + n²·m).
    ///
    /// - Parameters:
    ///   - weight: W `[m, n]`, float64.
    ///   - moments: Ĉ, E and F.
    ///   - ridge: λ relative to the mean of Ĉ's diagonal, at least √ε: below, rounding errors of E
    ///     along inputs that never occur would be divided by nearly nothing. Where it does not
    ///     make Ĉ positive definite, larger ones are tried, up to the mean itself.
    ///   - site: For the error.
    init(
        _ weight: Tensor, _ moments: InputMoments.Compressed, ridge: Double, site: String
    ) throws {
        self.weight = weight
        let factor = try Self.factor(moments.moment, ridge: ridge, site: site)
        // A·(L·Lᵀ)⁻¹ is the transpose of the solution for Aᵀ.
        func divided(_ matrix: Tensor) throws(TensorError) -> Tensor {
            try choleskySolveOperator(.tensor(matrix.transpose()), .tensor(factor), .bool(false))
                .transpose()
        }
        if let residual = moments.residual {
            shift = try divided(weight.matmul(moments.cross) + residual)
        } else if weight.shape[0] < weight.shape[1] {
            shift = try divided(weight.matmul(moments.cross))
        } else {
            shift = try weight.matmul(divided(moments.cross))
        }
    }

    private static func factor(_ moment: Tensor, ridge: Double, site: String) throws -> Tensor {
        let mean = try moment.diagonal().mean().item()
        var relative = max(ridge, DType.float64.epsilon.squareRoot())
        while relative <= 1 {
            let damped = try moment.clone()
            try damped.diagonal().copy(from: damped.diagonal() + relative * mean)
            if let factor = try damped.cholesky() { return factor }
            relative *= 10
        }
        throw CompressionError.singular(site: site)
    }

    /// T `[m, n]` for β = `share`, float64.
    func callAsFunction(_ share: Double) throws(TensorError) -> Tensor {
        try share == 0 ? weight : weight + shift * share
    }
}

private let choleskySolveOperator = Operator("aten::cholesky_solve")
