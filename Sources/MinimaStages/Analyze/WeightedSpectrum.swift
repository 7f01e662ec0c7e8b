import MinimaCore
import MinimaFormats
import MinimaTensor

private let cholesky = Operator("aten::linalg_cholesky_ex")
private let eigenvalues = Operator("aten::linalg_eigvalsh")

/// The squared singular values of H^½·W·C^½, which decide what every rank of W costs.
///
/// The best matrix of rank r leaves `tail(r)` of tr(Δᵀ·H·Δ·C) (Eckart & Young 1936), in every format
/// that can hold any matrix of that rank. No vectors are computed: with n ≤ m the values are the
/// eigenvalues of Lᵀ·(Wᵀ·H·W)·L, L·Lᵀ = C, else those of Lᵀ·(W·C·Wᵀ)·L, L·Lᵀ = H.
public struct WeightedSpectrum: Sendable {
    /// Sides from which a GPU works in float32: float64 takes several times as long, and tails are
    /// still right to 1e-7·side of the largest value.
    static let singlePrecisionSide = 2048

    /// λ, largest first, none negative.
    public let values: [Double]
    /// Sums of λ from each place on; one more than ``values``, the last 0.
    private let tails: [Double]

    /// The spectrum of `weight` `[m, n]`, any float dtype.
    ///
    /// - Complexity: O(m·n·min(m, n)) flops and one symmetric eigenvalue problem of the smaller side.
    public init(_ weight: Tensor, metric: Metric) throws {
        let (m, n) = (weight.shape[0], weight.shape[1])
        let exact = try weight.to(dtype: .float64)
        var gram: Tensor
        if n <= m {
            let left = try metric.output?.times(exact) ?? exact
            let factor = try Self.factor(metric.input)
            gram = try factor.transpose().matmul(exact.transpose().matmul(left)).matmul(factor)
        } else {
            gram = try exact.matmul(metric.input).matmul(exact.transpose())
            if let output = metric.output {
                // Block by block: the factor of a block-diagonal matrix.
                var factors: [Tensor] = []
                for run in output.runs { factors.append(try Self.factor(run).transpose()) }
                let transposed = try OutputMetric(runs: factors)
                gram = try transposed.times(gram)
                gram = try transposed.times(gram.transpose())
            }
        }
        gram = try (gram + gram.transpose()) * 0.5
        if gram.device != .cpu, gram.shape[0] >= Self.singlePrecisionSide {
            gram = try gram.to(dtype: .float32)
        }
        let ascending: [Double] = try eigenvalues(.tensor(gram)).values()
        self.init(values: ascending.reversed())
    }

    /// A spectrum of given values, largest first.
    public init(values: [Double]) {
        self.values = values.map { max($0, 0) }
        var sums = [0.0]
        for value in self.values.reversed() { sums.append(sums[sums.count - 1] + value) }
        tails = sums.reversed()
    }

    /// tr(Wᵀ·H·W·C).
    public var energy: Double { tails[0] }

    /// Σ λ_i over i > `rank`: what the best matrix of that rank leaves of tr(Δᵀ·H·Δ·C).
    public func tail(_ rank: Int) -> Double {
        tails[min(max(rank, 0), values.count)]
    }

    /// L with L·Lᵀ equal to each of `matrices` `[…, n, n]` plus 1e-12 of its mean diagonal entry.
    private static func factor(_ matrices: Tensor) throws -> Tensor {
        let shape = matrices.shape
        let size = shape[shape.count - 1]
        let batch = try matrices.reshape([-1, size, size])
        let means = try Tensor.einsum("bii->bi", batch).mean([1])
        let unit = try Tensor.identity(size, dtype: .float64, device: matrices.device)
        // A moment summed in float32 may have eigenvalues of about -ε₃₂ times the largest, which is
        // the trace where one token was seen: ε₃₂·n times the mean.
        for damping in [1e-12, 1e-9, 1e-6, 1e-3] {
            let shift = try (means * damping).clamp(min: 1e-30).reshape([-1, 1, 1])
            let results = try cholesky.tensors(.tensor(batch + unit * shift))
            if try results[1].abs().sum().item() == 0 { return try results[0].reshape(shape) }
        }
        throw StageError.notFinite(what: "a second moment (it is not positive semidefinite)")
    }
}
