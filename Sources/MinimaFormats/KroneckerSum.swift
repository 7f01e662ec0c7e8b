import MinimaCore
import MinimaTensor

/// W = Σ_k (F₁ₖ ⊗ F₂ₖ)·Bₖ: a sum of `blocks` terms over output modes `[o₁, o₂]` and an input that is
/// not split; F₁ₖ `[o₁, l]`, F₂ₖ `[o₂, m]`, Bₖ `[l·m, inputs]`.
///
/// CP decompositions (l = m = 1) and block-term decompositions share it.
struct KroneckerSum: Sendable {
    /// Sizes of a sum.
    struct Shape: Sendable, Hashable {
        let modes: [Int]
        let inputs: Int
        let blocks: Int
        /// l and m.
        let ranks: [Int]

        /// B `[blocks·l·m, inputs]`, F₁ `[o₁, blocks·l]`, F₂ `[o₂, blocks·m]`.
        var tensors: [[Int]] {
            [
                [Sizes.saturatingProduct([blocks, ranks[0], ranks[1]]), inputs],
                [modes[0], Sizes.saturatingProduct([blocks, ranks[0]])],
                [modes[1], Sizes.saturatingProduct([blocks, ranks[1]])],
            ]
        }

        /// Numbers in all tensors; `Int.max` when it overflows.
        var count: Int { Sizes.saturatingSum(tensors.map(Sizes.saturatingProduct)) }

        /// Tiles of l × m that cover the modes: with as many blocks a sum can be any matrix.
        var limit: Int {
            Sizes.saturatingProduct(
                zip(modes, ranks).map { ($0 - 1) / max($1, 1) + 1 })
        }

        /// Multiply-adds past B per vector, with F₂ first or F₁ first.
        var outputCosts: (secondFirst: Int, firstFirst: Int) {
            let core = Sizes.saturatingProduct([blocks, ranks[0], ranks[1]])
            func cost(_ first: Int, _ other: Int) -> Int {
                Sizes.saturatingSum([
                    Sizes.saturatingProduct([core, modes[first]]),
                    Sizes.saturatingProduct(modes + [blocks, ranks[other]]),
                ])
            }
            return (cost(1, 0), cost(0, 1))
        }
    }

    let shape: Shape
    /// B, F₁, F₂.
    let tensors: [Tensor]

    /// Multiply-adds of ``forward(_:)`` per vector.
    var multiplyAdds: Int {
        Sizes.saturatingSum([
            Sizes.saturatingProduct(shape.tensors[0]),
            min(shape.outputCosts.secondFirst, shape.outputCosts.firstFirst),
        ])
    }

    /// F₁ and F₂ per block: `[o₁, blocks, l]`, `[o₂, blocks, m]`.
    private func factors() throws(TensorError) -> (Tensor, Tensor) {
        (
            try tensors[1].reshape([shape.modes[0], shape.blocks, shape.ranks[0]]),
            try tensors[2].reshape([shape.modes[1], shape.blocks, shape.ranks[1]])
        )
    }

    /// `x` `[tokens, inputs]` times the transposed matrix: `[tokens, outputs]`.
    ///
    /// Tokens go through in groups whose intermediate results stay below `CoreChain.stateLimit`.
    func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        let secondFirst = shape.outputCosts.secondFirst <= shape.outputCosts.firstFirst
        let state = Sizes.saturatingProduct([
            shape.blocks, shape.ranks[secondFirst ? 0 : 1], shape.modes[secondFirst ? 1 : 0],
        ])
        let (first, second) = try factors()
        let group = max(CoreChain.stateLimit / state, 1)
        var results: [Tensor] = []
        for start in stride(from: 0, to: max(x.shape[0], 1), by: group) {
            let rows = try x.narrow(0, start..<min(start + group, x.shape[0]))
            let inner = try rows.linear(tensors[0])
                .reshape([rows.shape[0], shape.blocks, shape.ranks[0], shape.ranks[1]])
            let result: Tensor
            if secondFirst {
                let half = try Tensor.einsum("tkij,ykj->tkiy", inner, second)
                    .reshape([rows.shape[0], shape.blocks * shape.ranks[0], shape.modes[1]])
                result = try tensors[1].matmul(half)
            } else {
                let half = try Tensor.einsum("tkij,xki->tkjx", inner, first)
                    .reshape([rows.shape[0], shape.blocks * shape.ranks[1], shape.modes[0]])
                result = try tensors[2].matmul(half).transpose()
            }
            results.append(try result.reshape([rows.shape[0], shape.modes[0] * shape.modes[1]]))
        }
        return results.count == 1 ? results[0] : try Tensor.cat(results)
    }

    /// The matrix `[outputs, inputs]`.
    func reconstruct() throws(TensorError) -> Tensor {
        try outputBasis().matmul(tensors[0])
    }

    /// All F₁ₖ ⊗ F₂ₖ side by side: `[outputs, blocks·l·m]`.
    private func outputBasis() throws(TensorError) -> Tensor {
        let (first, second) = try factors()
        return try Tensor.einsum("xki,ykj->xykij", first, second)
            .reshape([shape.modes[0] * shape.modes[1], shape.tensors[0][0]])
    }
}

extension KroneckerSum {
    /// Sweeps of alternating least squares at most.
    static let sweeps = 8

    /// Fits a sum to `exact` `[outputs, inputs]`, float64, under `metric`.
    ///
    /// C is absorbed exactly, H by a Kronecker product over the output modes. The sum starts as those
    /// tiles of the HOSVD's core (De Lathauwer, De Moor & Vandewalle 2000a) that hold most, whose
    /// error is what the others hold; alternating least squares (De Lathauwer & Nion 2008, part III)
    /// never raises it. B is then solved for under H itself, beside factors of the weight's type.
    static func fit(
        _ weight: Tensor, exact: Tensor, shape: Shape, metric: Metric?, sweeps: Int
    ) throws(TensorError) -> KroneckerSum {
        let whitening = try Whitening(
            exact, outputModes: shape.modes, inputModes: [shape.inputs], metric: metric,
            solvesInput: true)
        let target = whitening.target
        var best = try start(target, shape)
        let whole = try target.square().sum().item()
        var smallest = try best.squaredError(target)
        for _ in 0..<sweeps {
            guard smallest > DType.float64.epsilon * whole else { break }
            let next = try best.swept(target)
            let now = try next.squaredError(target)
            guard now < smallest else { break }
            let gain = smallest - now
            (best, smallest) = (next, now)
            guard gain > 1e-6 * smallest else { break }
        }
        var tensors = [best.tensors[0]]
        for mode in 0..<2 {
            let factor = best.tensors[1 + mode]
            tensors.append(
                try whitening.turned(
                    factor.reshape([1, shape.modes[mode], 1, -1]), mode: mode, back: true
                ).reshape(factor.shape).stored(like: weight))
        }
        let rounded = KroneckerSum(
            shape: shape,
            tensors: [tensors[0]]
                + [try tensors[1].to(dtype: .float64), try tensors[2].to(dtype: .float64)])
        tensors[0] = try rounded.outputBasis().inputFactor(of: exact, output: metric?.output)
            .stored(like: weight)
        return KroneckerSum(shape: shape, tensors: tensors)
    }

    /// The tiles of T's HOSVD with the most energy.
    private static func start(_ target: Tensor, _ shape: Shape) throws(TensorError)
        -> KroneckerSum
    {
        let tensor = try target.reshape(shape.modes + [-1])
        let bases = try TuckerSolver.rotations(tensor)
        let energies = try TuckerSolver.project(tensor, bases, except: nil).square().sum([2])
            .values(as: Double.self)
        let tiles = tiles(energies, modes: shape.modes, ranks: shape.ranks)
        // Stable: among equals the first.
        let chosen = tiles.indices
            .sorted { (-tiles[$0].energy, $0) < (-tiles[$1].energy, $1) }
            .prefix(shape.blocks).sorted().map { tiles[$0] }
        func picked(_ basis: Tensor, _ starts: [Int], _ rank: Int) throws(TensorError) -> Tensor {
            let indices = starts.flatMap { start in (start..<start + rank).map(Int64.init) }
            return try basis.selecting(
                1, Tensor(indices, shape: [indices.count]).to(basis.device))
        }
        let sum = KroneckerSum(
            shape: shape,
            tensors: [
                target, try picked(bases[0], chosen.map(\.row), shape.ranks[0]),
                try picked(bases[1], chosen.map(\.column), shape.ranks[1]),
            ])
        return try sum.withInputFactor(target)
    }

    /// The l × m tiles that cover a matrix of `energies` `[o₁·o₂]`, the last of a row or column moved
    /// inwards where they do not fit; its energy is then that of what no other tile covers.
    static func tiles(_ energies: [Double], modes: [Int], ranks: [Int])
        -> [(row: Int, column: Int, energy: Double)]
    {
        func starts(_ mode: Int) -> [Int] {
            Array(stride(from: 0, to: modes[mode], by: ranks[mode]))
        }
        return starts(0).flatMap { row in
            starts(1).map { column in
                var energy = 0.0
                for x in row..<min(row + ranks[0], modes[0]) {
                    for y in column..<min(column + ranks[1], modes[1]) {
                        energy += energies[x * modes[1] + y]
                    }
                }
                return (min(row, modes[0] - ranks[0]), min(column, modes[1] - ranks[1]), energy)
            }
        }
    }

    private func withInputFactor(_ target: Tensor) throws(TensorError) -> KroneckerSum {
        let basis = try outputBasis()
        let transposed = try basis.transpose()
        let input = try transposed.matmul(basis).gramSolve(transposed.matmul(target))
        return KroneckerSum(shape: shape, tensors: [input, tensors[1], tensors[2]])
    }

    private func squaredError(_ target: Tensor) throws(TensorError) -> Double {
        try (target - reconstruct()).square().sum().item()
    }

    /// One sweep: F₁, F₂, then B, each the best beside the others.
    private func swept(_ target: Tensor) throws(TensorError) -> KroneckerSum {
        let (blocks, l, m) = (shape.blocks, shape.ranks[0], shape.ranks[1])
        let inner = tensors[0]
        let seen = try target.matmul(inner.transpose()).reshape(shape.modes + [blocks, l, m])
        let inputGram = try inner.matmul(inner.transpose()).reshape([blocks, l, m, blocks, l, m])
        var (first, second) = try factors()

        func gram(_ factor: Tensor) throws(TensorError) -> Tensor {
            let size = factor.shape
            let columns = try factor.reshape([size[0], size[1] * size[2]])
            return try columns.transpose().matmul(columns)
                .reshape([size[1], size[2], size[1], size[2]])
        }
        let secondGram = try Tensor.einsum("kjlq,kijlpq->kilp", gram(second), inputGram)
            .reshape([blocks * l, blocks * l])
        let secondSide = try Tensor.einsum("xykij,ykj->xki", seen, second)
            .reshape([shape.modes[0], blocks * l])
        first = try secondGram.gramSolve(secondSide.transpose()).transpose()
            .reshape(first.shape)
        let firstGram = try Tensor.einsum("kilp,kijlpq->kjlq", gram(first), inputGram)
            .reshape([blocks * m, blocks * m])
        let firstSide = try Tensor.einsum("xykij,xki->ykj", seen, first)
            .reshape([shape.modes[1], blocks * m])
        second = try firstGram.gramSolve(firstSide.transpose()).transpose()
        let next = KroneckerSum(
            shape: shape,
            tensors: [
                inner, try first.reshape([shape.modes[0], blocks * l]).withUnitColumns(),
                try second.withUnitColumns(),
            ])
        return try next.withInputFactor(target)
    }
}

extension Tensor {
    /// The columns divided by their lengths; empty ones stay.
    fileprivate func withUnitColumns() throws(TensorError) -> Tensor {
        let lengths = try square().sum([0], keepDims: true).sqrt()
        return try self / (lengths + lengths.equals(0).to(dtype: dtype))
    }
}
