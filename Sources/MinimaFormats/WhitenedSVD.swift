import MinimaCore
import MinimaTensor

/// The best approximations of every rank to a weight W `[outputs, inputs]` under a metric (C, H).
///
/// The error tr(Δᵀ·H·Δ·C) of Δ = W − Ŵ is the squared Frobenius norm of H^½·Δ·C^½, so the optimum of
/// rank r truncates the SVD of H^½·W·C^½ and unfolds both sides (Eckart & Young 1936). With M = H^½·W
/// and M·C·Mᵀ = U·Λ·Uᵀ that is Ŵ = H^−½·U_r·U_rᵀ·M, and Σ_{i>r} λ_i is what remains. C is never
/// inverted and may be singular; with more outputs than inputs, M = Q·R and the eigenvectors are
/// those of R·C·Rᵀ `[inputs, inputs]`.
///
/// Where C says nothing (eigenvalues below min(outputs, inputs)·ε·λ₁, which are rounding errors) the
/// eigenvectors are turned within the space they span into those of M·Mᵀ: the plain norm decides.
/// Where H says nothing its eigenvalues are raised to 10⁻⁶ of their mean, so that H^−½ exists: such
/// a direction, lost whole, costs less than rounding the others to bfloat16 (squared, 2⁻¹⁸) does.
public struct WhitenedSVD: Sendable {
    /// λ_i, descending, `min(outputs, inputs)` of them: what each rank adds to the squared norm.
    public let eigenvalues: [Double]

    /// Orthonormal columns Q `[outputs, inputs]` when there are more outputs than inputs.
    private let range: Tensor?
    /// M `[outputs, inputs]`, or R `[inputs, inputs]`.
    private let matrix: Tensor
    /// Eigenvectors in the order of `eigenvalues`.
    private let vectors: Tensor
    /// H^−½.
    private let inverseRoot: OutputMetric?
    /// Σ_{i ≥ r} λ_i at r.
    private let tails: [Double]

    private static let floor = 1e-6

    /// Solves for all ranks at once.
    ///
    /// - Parameters:
    ///   - weight: W `[outputs, inputs]`, any float dtype; computed in float64 on its device.
    ///   - metric: C and H; `nil` is the Frobenius norm.
    /// - Throws: `FormatError` when the metric's sizes are not the weight's, `TensorError.notFinite`.
    /// - Complexity: O(outputs·inputs·(outputs + inputs)) flops and one eigendecomposition of the
    ///   smaller side; outputs·inputs + min(outputs, inputs)² values, twice.
    public init(_ weight: Tensor, metric: Metric?) throws {
        guard weight.shape.count == 2, weight.count > 0 else {
            throw FormatError.notAMatrix(format: LowRank.name, shape: weight.shape)
        }
        var matrix = try LowRank.exact(weight)
        let metric = try LowRank.prepared(metric, for: weight)
        var inverseRoot: OutputMetric?
        if let output = metric?.output {
            let roots = try output.roots(floor: Self.floor)
            matrix = try roots.root.times(matrix)
            inverseRoot = roots.inverse
        }
        self.inverseRoot = inverseRoot
        if matrix.shape[1] < matrix.shape[0] {
            let (q, r) = try matrix.qr()
            range = q
            matrix = r
        } else {
            range = nil
        }
        self.matrix = matrix
        let (values, vectors) = try matrix.principalDirections(metric: metric?.input)
        self.vectors = vectors
        eigenvalues = values
        var tails = [0.0]
        for value in values.reversed() { tails.append((tails.last ?? 0) + value) }
        self.tails = tails.reversed()
    }

    /// tr(Δᵀ·H·Δ·C) that the best approximation of `rank` leaves, `0...min(outputs, inputs)`; ranks
    /// beyond leave nothing.
    public func squaredError(rank: Int) -> Double {
        tails[min(max(rank, 0), tails.count - 1)]
    }

    /// A `[outputs, rank]` and B `[rank, inputs]` of the best approximation A·B, float64.
    ///
    /// Without H, A has orthonormal columns; signs are such that the largest entry of each column of
    /// H^½·A is positive.
    /// - Parameter rank: `1...min(outputs, inputs)`.
    public func factors(rank: Int) throws(TensorError) -> (a: Tensor, b: Tensor) {
        guard (1...eigenvalues.count).contains(rank) else {
            throw .invalidArgument(
                function: "WhitenedSVD.factors",
                reason: "rank \(rank) is not within 1...\(eigenvalues.count)")
        }
        let kept = try vectors.narrow(1, 0..<rank)
        let columns =
            try range.map { (range) throws(TensorError) in try range.matmul(kept) } ?? kept
        let signs = try columns.peakSigns()
        let a = try columns * signs
        let b = try (kept * signs).transpose().matmul(matrix)
        return (try inverseRoot?.times(a) ?? a, b)
    }
}

extension OutputMetric {
    /// H^½ and H^−½ with the eigenvalues raised to `floor` times their mean; the identity when all
    /// of them are zero.
    func roots(floor: Double) throws(TensorError) -> (root: OutputMetric, inverse: OutputMetric) {
        let mean = try diagonal().mean().item()
        let least = mean > 0 ? mean * floor : 1
        var (roots, inverses) = ([Tensor](), [Tensor]())
        for run in runs {
            if run.shape[1] == 1 {
                let root = try run.clamp(min: least).sqrt()
                roots.append(root)
                inverses.append(try Tensor.ones([1], dtype: .float64, device: run.device) / root)
                continue
            }
            let parts = try batchedEighOperator.tensors(.tensor(run))
            let scale = try parts[0].clamp(min: least).sqrt().unsqueeze(1)
            let transposed = try parts[1].transpose()
            roots.append(try (parts[1] * scale).matmul(transposed))
            inverses.append(try (parts[1] / scale).matmul(transposed))
        }
        return (try OutputMetric(runs: roots), try OutputMetric(runs: inverses))
    }
}

private let batchedEighOperator = Operator("aten::linalg_eigh")
