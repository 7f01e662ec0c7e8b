import MinimaCore
import MinimaTensor

extension Tensor {
    /// This float64 matrix `[rows, n]` rounded to `dtype`, each column making up for the rounding
    /// errors of those before it so that tr(Δ·C·Δᵀ) is small; float64.
    ///
    /// GPTQ (Frantar et al. 2023, algorithm 1) with a floating-point type as its grid. A bfloat16
    /// keeps 2⁻⁹ of each value, but inputs of very unequal loudness, and factors whose products
    /// nearly cancel, make more of it.
    /// - Parameter moment: C `[n, n]`, float64, symmetric and positive semidefinite.
    /// - Complexity: O(n²·(n + rows)) flops, four operators per column.
    func rounded(to dtype: DType, under moment: Tensor) throws(TensorError) -> Tensor {
        let feedback = try InputFactor(moment).feedback.to(dtype: .float64)
        let values = try transpose().clone().contiguous()
        let (columns, rows) = (values.shape[0], values.shape[1])
        for start in stride(from: 0, to: columns, by: GPTQ.block) {
            let block = start..<Swift.min(start + GPTQ.block, columns)
            let errors = try Tensor.empty(
                [block.count, rows], dtype: .float64, device: device)
            for column in block {
                let target = try values.select(0, column)
                let rounded = try target.to(dtype: dtype)
                let error = try rounded - target
                try errors.select(0, column - start).copy(from: error)
                try target.copy(from: rounded)
                let rest = column + 1..<block.upperBound
                guard !rest.isEmpty else { continue }
                let shares = try feedback.select(0, column).narrow(0, rest).unsqueeze(1)
                try values.narrow(0, rest).addInPlace(shares * error.unsqueeze(0))
            }
            let rest = block.upperBound..<columns
            guard !rest.isEmpty else { continue }
            let shares = try feedback.narrow(0, block).narrow(1, rest)
            try values.narrow(0, rest).addInPlace(shares.transpose().matmul(errors))
        }
        return try values.transpose()
    }
}
