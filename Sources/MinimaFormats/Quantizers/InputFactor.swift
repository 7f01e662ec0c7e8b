import MinimaCore
import MinimaTensor

/// How the rounding error of one input's weights is made up for by those of later inputs: C = R·D·Rᵀ
/// with R unit upper triangular.
///
/// R⁻¹ row j, past its diagonal, is what the error at column j adds to the columns after it (Frantar
/// et al. 2023, equation 3), and D what the error costs after that: the loss of the whole is
/// Σ_j D_j·Σ_i e_ij² over the errors e of rounding alone (Chee et al. 2023, theorem 1).
struct InputFactor {
    /// Damping relative to the mean diagonal; the loss changes by less than 0.1% between 0.001 and
    /// 0.01 (3 and 4 bits, layers 3 and 8 of ref-qwen3-20m).
    static let damping = 0.01

    /// R⁻¹ `[n, n]`, float32, unit upper triangular.
    let feedback: Tensor
    /// D `[n]`, float64, positive.
    let pivots: Tensor

    /// Factors C `[n, n]`, float64, symmetric and positive semidefinite: of any rank, zero included.
    ///
    /// - Complexity: O(n³) flops.
    init(_ moment: Tensor) throws(TensorError) {
        let (root, diagonal) = try Self.root(moment)
        let unit = try Tensor.identity(
            moment.shape[0], dtype: .float64, device: moment.device)
        let inverse = try root.solveTriangular(unit, upper: true)
        try inverse.multiplyInPlace(diagonal.unsqueeze(1))
        feedback = try inverse.to(dtype: .float32)
        pivots = try diagonal.square()
    }

    /// D alone.
    static func pivots(_ moment: Tensor) throws(TensorError) -> Tensor {
        try root(moment).diagonal.square()
    }

    /// R·D^½ of the damped C, and its diagonal; a C that rounding made indefinite is damped more.
    private static func root(_ moment: Tensor) throws(TensorError) -> (
        root: Tensor, diagonal: Tensor
    ) {
        let n = moment.shape[0]
        let mean = try moment.diagonal().mean().item()
        guard mean > 0 else {
            let unit = try Tensor.identity(n, dtype: .float64, device: moment.device)
            return (unit, try unit.diagonal())
        }
        var damping = damping
        while damping < 1e3 {
            // In place: C of 25600 inputs takes 5 GB.
            let damped = try moment.flip([0, 1]) / mean
            try damped.diagonal().addInPlace(
                .full([1], damping, dtype: .float64, device: moment.device))
            if let lower = try damped.cholesky() {
                let root = try lower.flip([0, 1])
                try root.multiplyInPlace(
                    .full([1], mean.squareRoot(), dtype: .float64, device: moment.device))
                return (root, try root.diagonal())
            }
            damping *= 10
        }
        throw .invalidArgument(
            function: "InputFactor", reason: "the second moment is far from positive semidefinite")
    }
}
