import MinimaCore
import MinimaTensor

/// Fits core, F₁ and F₂ of a Tucker decomposition to a whitened weight.
struct TuckerSolver {
    private let whitening: Whitening
    private let ranks: [Int]
    /// T `[o₁, o₂, columns]`.
    private let tensor: Tensor

    /// A solver for ranks `[r₁, r₂, r₃]`.
    init(whitening: Whitening, ranks: [Int]) throws(TensorError) {
        self.whitening = whitening
        self.ranks = ranks
        tensor = try whitening.target.reshape(whitening.outputModes + [-1])
    }

    /// Core `[r₁·r₂, r₃]`, F₁ and F₂ in the coordinates of W.
    func solved(sweeps: Int) throws(TensorError) -> [Tensor] {
        var factors = try Self.hosvd(tensor, ranks: ranks)
        try improve(&factors, sweeps: sweeps)
        var core = try innerBasis(factors)
        if !whitening.isExact {
            (core, factors) = try refined(core, factors, sweeps: sweeps)
        }
        var turned = [core]
        for mode in 0..<2 {
            let (size, rank) = (tensor.shape[mode], ranks[mode])
            turned.append(
                try whitening.turned(
                    factors[mode].reshape([1, size, 1, rank]), mode: mode, back: true
                ).reshape([size, rank]))
        }
        return turned
    }

    /// The leading left singular vectors of each unfolding of `tensor`: `[modes[k], ranks[k]]`.
    static func hosvd(_ tensor: Tensor, ranks: [Int]) throws(TensorError) -> [Tensor] {
        var factors: [Tensor] = []
        for mode in ranks.indices {
            factors.append(try factor(tensor, mode, rank: ranks[mode]))
        }
        return factors
    }

    /// All left singular vectors of the first two unfoldings, the leading ones first.
    static func rotations(_ tensor: Tensor) throws(TensorError) -> [Tensor] {
        [
            try unfolded(tensor, 0).leadingBasis(tensor.shape[0]),
            try unfolded(tensor, 1).leadingBasis(tensor.shape[1]),
        ]
    }

    /// `tensor` times the transposed factor of every mode but one, the order of modes unchanged.
    static func project(_ tensor: Tensor, _ factors: [Tensor], except skipped: Int?)
        throws(TensorError) -> Tensor
    {
        var projected = tensor
        for (mode, factor) in factors.enumerated() where mode != skipped {
            projected = try projected.transpose(mode, 2).matmul(factor).transpose(mode, 2)
        }
        return projected
    }

    /// Orthonormal columns for `mode`; a mode that is kept whole needs no turning.
    private static func factor(_ tensor: Tensor, _ mode: Int, rank: Int) throws(TensorError)
        -> Tensor
    {
        guard rank < tensor.shape[mode] else {
            return try .identity(tensor.shape[mode], dtype: .float64, device: tensor.device)
        }
        return try unfolded(tensor, mode).leadingBasis(rank)
    }

    private static func unfolded(_ tensor: Tensor, _ mode: Int) throws(TensorError) -> Tensor {
        let others = [0, 1, 2].filter { $0 != mode }
        return try tensor.permute([mode] + others).reshape([tensor.shape[mode], -1])
    }

    /// Alternates over the modes: each factor becomes the best one beside the others.
    ///
    /// The projection's norm never falls. A sweep that raises it by less than 10⁻¹² of the whole is
    /// the last: it is at the rounding errors of the Gram matrices.
    private func improve(_ factors: inout [Tensor], sweeps: Int) throws(TensorError) {
        let total = try tensor.norm().item()
        var captured = try Self.project(tensor, factors, except: nil).norm().item()
        for _ in 0..<sweeps {
            for mode in ranks.indices {
                let projected = try Self.project(tensor, factors, except: mode)
                factors[mode] = try Self.factor(projected, mode, rank: ranks[mode])
            }
            let now = try Self.project(tensor, factors, except: nil).norm().item()
            guard now - captured > 1e-12 * total else { return }
            captured = now
        }
    }

    /// The core's columns `[r₁·r₂, r₃]` that hold most of the projected tensor.
    private func innerBasis(_ factors: [Tensor]) throws(TensorError) -> Tensor {
        try Self.project(tensor, Array(factors[..<2]), except: nil)
            .reshape([ranks[0] * ranks[1], -1]).leadingBasis(ranks[2])
    }
}

extension TuckerSolver {
    /// Sweeps of alternating least squares over F₁, F₂ and the input's factor under H; what has the
    /// smallest error is kept.
    private func refined(_ core: Tensor, _ factors: [Tensor], sweeps: Int) throws(TensorError)
        -> (core: Tensor, factors: [Tensor])
    {
        var parts = Array(factors[..<2])
        var core = core
        var inner = try inputSide(core, parts)
        var best = (core: core, factors: parts)
        var smallest = try squaredError(parts, inner)
        for _ in 0..<sweeps {
            for mode in 0..<2 where ranks[mode] < tensor.shape[mode] {
                parts[mode] = try solve(mode, parts, inner)
                // Orthonormal columns; the inner part takes what they leave.
                let (q, r) = try parts[mode].qr()
                parts[mode] = q
                inner = try inner.transpose(mode, 2).matmul(r.transpose()).transpose(mode, 2)
            }
            core = try inner.reshape([ranks[0] * ranks[1], -1]).leadingBasis(ranks[2])
            inner = try inputSide(core, parts)
            let now = try squaredError(parts, inner)
            guard now < smallest else { break }
            let gain = smallest - now
            (smallest, best) = (now, (core, parts))
            guard gain > 1e-6 * smallest else { break }
        }
        return best
    }

    /// The input's factor beside fixed others, times the core: `[r₁, r₂, columns]`.
    private func inputSide(_ core: Tensor, _ factors: [Tensor]) throws(TensorError) -> Tensor {
        let basis = try expand(factors, core.reshape([ranks[0], ranks[1], ranks[2]]))
        let weighted = try whitening.weighted(basis).transpose()
        let solution = try weighted.matmul(basis)
            .gramSolve(weighted.matmul(whitening.target))
        return try core.matmul(solution).reshape([ranks[0], ranks[1], -1])
    }

    /// (F₁ ⊗ F₂)·inner as a matrix `[outputs, columns]`.
    private func expand(_ factors: [Tensor], _ inner: Tensor) throws(TensorError) -> Tensor {
        let full = try TuckerSolver.project(
            inner, [factors[0].transpose(), factors[1].transpose()], except: nil)
        return try full.reshape([-1, inner.shape[2]])
    }

    private func squaredError(_ factors: [Tensor], _ inner: Tensor) throws(TensorError) -> Double {
        try whitening.squaredError(whitening.target - expand(factors, inner))
    }

    /// The factor of `mode` that fits better beside the others, by conjugate gradients.
    private func solve(_ mode: Int, _ factors: [Tensor], _ inner: Tensor) throws(TensorError)
        -> Tensor
    {
        var others = factors
        others[mode] = try .identity(ranks[mode], dtype: .float64, device: tensor.device)
        let turned = [try others[0].transpose(), try others[1].transpose()]
        let side = try Self.unfolded(Self.project(inner, turned, except: mode), mode)
        let order = mode == 0 ? [0, 1, 2] : [1, 0, 2]
        let shape = order.map { tensor.shape[$0] }
        func weighted(_ unfolding: Tensor) throws(TensorError) -> Tensor {
            let matrix = try unfolding.reshape(shape).permute(order)
                .reshape(whitening.target.shape)
            return try Self.unfolded(whitening.weighted(matrix).reshape(tensor.shape), mode)
        }
        let transposed = try side.transpose()
        let inverse = try side.matmul(transposed).pseudoInverse()
        let missed = try Self.unfolded(tensor, mode) - factors[mode].matmul(side)
        return try ConjugateGradients.solve(
            from: factors[mode], residual: weighted(missed).matmul(transposed),
            operator: { (factor) throws(TensorError) in
                try weighted(factor.matmul(side)).matmul(transposed)
            },
            preconditioner: { (factor) throws(TensorError) in try factor.matmul(inverse) })
    }
}
