import MinimaCore
import Synchronization

private enum Ops {
    static let eigh = Operator("aten::linalg_eigh")
    static let cholesky = Operator("aten::linalg_cholesky_ex")
    static let qr = Operator("aten::linalg_qr")
    static let svd = Operator("aten::linalg_svd")
    static let solveTriangular = Operator("aten::linalg_solve_triangular")
    static let solve = Operator("aten::linalg_solve")
}

/// libtorch loads its CUDA solvers at their first use, and fails when two threads are first at once
/// ("lazy wrapper should be called at most once", seen on an H200): one thread goes first here.
private let cudaSolversAreLoaded = Mutex(false)

private func loadCUDASolvers(_ device: Device) throws(TensorError) {
    let result = cudaSolversAreLoaded.withLock { isLoaded -> Result<Void, TensorError> in
        if isLoaded { return .success(()) }
        do throws(TensorError) {
            let one = try Tensor.identity(1, dtype: .float64, device: device)
            _ = try Ops.cholesky.tensors(.tensor(one))
            isLoaded = true
            return .success(())
        } catch {
            return .failure(error)
        }
    }
    try result.get()
}

extension Tensor {
    /// Throws when a value is NaN or infinite: LAPACK would not return or return garbage.
    private func requireFinite(_ function: String) throws(TensorError) {
        let finite = Int(try isFinite().sum(dtype: .int64).item())
        guard finite == count else {
            throw .notFinite(function: function, count: count - finite)
        }
    }

    private func requireMatrix(_ function: String, square: Bool = false) throws(TensorError) {
        let shape = shape
        guard shape.count == 2, shape.allSatisfy({ $0 > 0 }), !square || shape[0] == shape[1] else {
            throw .invalidArgument(
                function: function,
                reason: "needs a \(square ? "square " : "")matrix, not \(summary)")
        }
        try requireFinite(function)
        if device.isCUDA { try loadCUDASolvers(device) }
    }

    private func requireRank(_ rank: Int, _ function: String) throws(TensorError) {
        guard (1...Swift.min(shape[0], shape[1])).contains(rank) else {
            throw .invalidArgument(
                function: function,
                reason: "rank \(rank) is not within 1...\(Swift.min(shape[0], shape[1]))")
        }
    }

    /// Eigenvalues, ascending, and orthonormal eigenvectors (columns) of this symmetric matrix.
    ///
    /// Only the lower triangle is read.
    /// - Returns: `values` `[n]`, `vectors` `[n, n]`.
    /// - Throws: `TensorError.notFinite`, or the solver's own failure.
    public func eigh() throws(TensorError) -> (values: Tensor, vectors: Tensor) {
        try requireMatrix("eigh", square: true)
        let results = try Ops.eigh.tensors(.tensor(self))
        return (results[0], results[1])
    }

    /// The lower triangle `L` `[n, n]` with `L·Lᵀ` equal to this symmetric matrix, or `nil` when it
    /// is not numerically positive definite.
    public func cholesky() throws(TensorError) -> Tensor? {
        try requireMatrix("cholesky", square: true)
        let results = try Ops.cholesky.tensors(.tensor(self))
        return try results[1].item() == 0 ? results[0] : nil
    }

    /// `q` `[m, k]` with orthonormal columns and upper triangular `r` `[k, n]`, `k = min(m, n)`.
    public func qr() throws(TensorError) -> (q: Tensor, r: Tensor) {
        try requireMatrix("qr")
        let results = try Ops.qr.tensors(.tensor(self))
        return (results[0], results[1])
    }

    /// `u` `[m, k]`, `s` `[k]` descending, `vT` `[k, n]`, `k = min(m, n)`.
    public func svd() throws(TensorError) -> (u: Tensor, s: Tensor, vT: Tensor) {
        try requireMatrix("svd")
        let results = try Ops.svd.tensors(.tensor(self), .bool(false))
        return (results[0], results[1], results[2])
    }

    /// The `rank` largest singular triplets of this matrix.
    ///
    /// - Parameter rank: Triplets to keep, `1...min(m, n)`.
    /// - Returns: `u` `[m, rank]`, `s` `[rank]` descending, `vT` `[rank, n]`.
    /// - Throws: `TensorError` on NaN input or exhausted memory.
    /// - Complexity: O(m·n·min(m, n)) flops.
    public func truncatedSVD(rank: Int) throws(TensorError) -> (u: Tensor, s: Tensor, vT: Tensor) {
        try requireMatrix("truncatedSVD")
        try requireRank(rank, "truncatedSVD")
        let (u, s, vT) = try svd()
        return (try u.narrow(1, 0..<rank), try s.narrow(0, 0..<rank), try vT.narrow(0, 0..<rank))
    }

    /// About the `rank` largest singular triplets, from a random sketch of the column space.
    ///
    /// - Parameters:
    ///   - rank: Triplets to keep, `1...min(m, n)`.
    ///   - oversampling: Sketch columns past `rank`.
    ///   - powerIterations: Passes that sharpen a slowly decaying spectrum.
    /// - Returns: `u` `[m, rank]`, `s` `[rank]` descending, `vT` `[rank, n]`.
    /// - Complexity: O(m·n·rank) flops per pass; (m + n)·(rank + oversampling) values.
    /// - Note: Halko, Martinsson & Tropp 2011, algorithms 4.4 and 5.1; defaults as in section 1.3.
    public func randomizedSVD(
        rank: Int, oversampling: Int = 10, powerIterations: Int = 2, generator: RandomGenerator
    ) throws(TensorError) -> (u: Tensor, s: Tensor, vT: Tensor) {
        try requireMatrix("randomizedSVD")
        try requireRank(rank, "randomizedSVD")
        let (rows, columns) = (shape[0], shape[1])
        let width = Swift.min(rank + Swift.max(oversampling, 0), Swift.min(rows, columns))
        let sketch = try Tensor.randn(
            [columns, width], dtype: dtype, device: device, generator: generator)
        var basis = try matmul(sketch).qr().q
        for _ in 0..<powerIterations {
            let dual = try transpose().matmul(basis).qr().q
            basis = try matmul(dual).qr().q
        }
        let (u, s, vT) = try basis.transpose().matmul(self).svd()
        return (
            try basis.matmul(u.narrow(1, 0..<rank)), try s.narrow(0, 0..<rank),
            try vT.narrow(0, 0..<rank)
        )
    }

    /// `x` with `self · x = right` for this triangular matrix `[n, n]` and `right` `[n, k]`.
    public func solveTriangular(_ right: Tensor, upper: Bool) throws(TensorError) -> Tensor {
        try Ops.solveTriangular(.tensor(self), .tensor(right), .bool(upper))
    }

    /// `x` with `self · x = right` for this matrix `[n, n]` and `right` `[n, k]`.
    public func solve(_ right: Tensor) throws(TensorError) -> Tensor {
        try requireMatrix("solve", square: true)
        return try Ops.solve(.tensor(self), .tensor(right))
    }
}
