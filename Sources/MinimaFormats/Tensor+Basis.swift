import MinimaCore
import MinimaTensor

extension Tensor {
    /// Orthonormal columns `[m, rank]` that hold most of this float64 matrix M `[m, n]`: U with the
    /// largest tr(Uᵀ·M·C·Mᵀ·U).
    ///
    /// They are the leading eigenvectors of M·C·Mᵀ, in descending order, the largest entry of each
    /// positive. Nothing is inverted, so M and C may be singular. With n < m the eigenvectors are
    /// those of R·C·Rᵀ `[n, n]`, M = Q·R, times Q, which costs O(n³) instead of O(m³).
    ///
    /// - Parameters:
    ///   - rank: Columns to keep, `1...m`.
    ///   - metric: C `[n, n]`, symmetric and positive semidefinite; `nil` is the identity.
    func leadingBasis(_ rank: Int, metric: Tensor? = nil) throws(TensorError) -> Tensor {
        let (m, n) = (shape[0], shape[1])
        if n < m, rank <= n {
            let (q, r) = try qr()
            let columns = try q.matmul(r.leadingBasis(rank, metric: metric))
            return try columns * columns.peakSigns()
        }
        let columns = try principalDirections(metric: metric).vectors.narrow(1, 0..<rank)
        return try columns * columns.peakSigns()
    }

    /// Eigenvalues, descending and not negative, and eigenvectors `[m, m]` of M·C·Mᵀ for this
    /// float64 matrix M `[m, n]`.
    ///
    /// Eigenvalues below m·ε·λ₁ are rounding errors and count as zero; their eigenvectors are turned
    /// within the space they span into those of M·Mᵀ: where C says nothing, the plain norm decides,
    /// and directions whose singular values lie below √ε·σ₁ come out in order.
    func principalDirections(metric: Tensor? = nil) throws(TensorError)
        -> (values: [Double], vectors: Tensor)
    {
        let m = shape[0]
        let weighted = try metric.map { metric throws(TensorError) in try matmul(metric) } ?? self
        let (values, vectors) = try weighted.matmul(transpose()).eigh()
        let spectrum = try values.values(as: Double.self)
        let floor = Swift.max(spectrum.last ?? 0, 0) * Double(m) * DType.float64.epsilon
        let significant = spectrum.count { $0 > floor }
        let descending = spectrum.reversed().map { $0 > floor ? $0 : 0 }
        let leading = try vectors.narrow(1, (m - significant)..<m).flip([1])
        guard significant < m else { return (descending, leading) }
        let null = try vectors.narrow(1, 0..<(m - significant))
        let rest = try null.transpose().matmul(self)
        let turned = try null.matmul(rest.matmul(rest.transpose()).eigh().vectors).flip([1])
        return (descending, try Tensor.cat([leading, turned], dim: 1))
    }

    /// The sign `[columns]` of the largest entry of each column.
    ///
    /// Eigenvectors are determined up to their sign; this makes every solver choose the same.
    func peakSigns() throws(TensorError) -> Tensor {
        let peaks = try gather(0, abs().argmax(0).unsqueeze(0))
        return try (peaks / peaks.abs()).reshape([-1])
    }
}
