import MinimaCore
import MinimaTensor

/// Linear least squares that are too large to write down.
enum ConjugateGradients {
    /// Steps at most: with 8 instead, two sweeps over the q, k, v weight of a trained Qwen3 of 20 M
    /// parameters (640 × 384 as a train of two pairs) leave a relative error of .190, with 24 .179.
    static let steps = 24

    /// Lowers ½⟨x, A·x⟩ − ⟨b, x⟩ from `start` on; no step raises it.
    ///
    /// - Parameters:
    ///   - residual: b − A·x at the start.
    ///   - operator: A, symmetric and positive semidefinite.
    ///   - preconditioner: Nearly the inverse of A.
    /// - Note: Hestenes & Stiefel 1952. Ends when the residual, measured by the preconditioner, is
    ///   10⁻⁶ of the first.
    static func solve(
        from start: Tensor, residual: Tensor,
        operator: (Tensor) throws(TensorError) -> Tensor,
        preconditioner: (Tensor) throws(TensorError) -> Tensor
    ) throws(TensorError) -> Tensor {
        var (solution, residual) = (start, residual)
        var direction = try preconditioner(residual)
        var slope = try (residual * direction).sum().item()
        let enough = slope * 1e-12
        for _ in 0..<steps {
            guard slope > enough, slope.isFinite else { break }
            let image = try `operator`(direction)
            let curvature = try (direction * image).sum().item()
            guard curvature > 0, curvature.isFinite else { break }
            solution = try solution + direction * (slope / curvature)
            residual = try residual - image * (slope / curvature)
            let better = try preconditioner(residual)
            let next = try (residual * better).sum().item()
            direction = try better + direction * (next / slope)
            slope = next
        }
        return solution
    }
}

extension Tensor {
    /// The pseudo-inverse of this symmetric positive semidefinite matrix `[n, n]`, float64.
    ///
    /// Eigenvalues below n·ε·λ₁ are rounding errors and count as zero.
    func pseudoInverse() throws(TensorError) -> Tensor {
        let (values, vectors) = try eigh()
        let spectrum = try values.values(as: Double.self)
        let floor = (spectrum.last ?? 0) * Double(shape[0]) * DType.float64.epsilon
        let kept = spectrum.count { $0 > Swift.max(floor, 0) }
        guard kept > 0 else { return try self * 0 }
        let range = (shape[0] - kept)..<shape[0]
        let basis = try vectors.narrow(1, range)
        return try (basis / values.narrow(0, range)).matmul(basis.transpose())
    }

    /// X with (this Gram matrix `[n, n]`)·X = `right` `[n, k]`: by Cholesky's method, or where the
    /// matrix is nearly singular the smallest such X.
    func gramSolve(_ right: Tensor) throws(TensorError) -> Tensor {
        if let lower = try cholesky() {
            let pivots = try lower.diagonal().values(as: Double.self)
            // cond(L) ≥ max/min of its diagonal; beyond 10⁶ its square leaves no digits.
            if let least = pivots.min(), let most = pivots.max(), least > 1e-6 * most {
                return try lower.transpose().solveTriangular(
                    lower.solveTriangular(right, upper: false), upper: true)
            }
        }
        return try pseudoInverse().matmul(right)
    }

    /// B `[q, n]` with the smallest error of A·B, this being A `[m, q]`: min tr(ΔᵀHΔC) over B, whose
    /// solution AᵀHA·B = AᵀH·W does not depend on C.
    ///
    /// Where H says nothing the plain norm decides.
    func inputFactor(of weight: Tensor, output: OutputMetric?) throws(TensorError) -> Tensor {
        let transposed = try transpose()
        let gram = try transposed.matmul(self)
        var solution = try gram.gramSolve(transposed.matmul(weight))
        // One step of refinement: the Gram matrix has squared A's condition.
        let rest = try weight - matmul(solution)
        solution = try solution + gram.gramSolve(transposed.matmul(rest))
        guard let output else { return solution }
        let weighted = try output.times(self).transpose()
        let missed = try weight - matmul(solution)
        let correction = try weighted.matmul(self).gramSolve(weighted.matmul(missed))
        let corrected = try solution + correction
        let after = try weight - matmul(corrected)
        let (old, new) = (
            try (missed * output.times(missed)).sum().item(),
            try (after * output.times(after)).sum().item()
        )
        return new <= old ? corrected : solution
    }
}
