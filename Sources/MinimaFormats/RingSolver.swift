import MinimaCore
import MinimaTensor

/// Fits a tensor ring to a float64 tensor `[N₁, …, N_d]`; its cores are `[r_{k−1}, N_k, r_k]`.
struct RingSolver {
    let bonds: [Int]
    let tensor: Tensor
    private(set) var cores: [Tensor] = []

    private var order: Int { bonds.count }
    private var sizes: [Int] { tensor.shape }

    /// A solver without cores.
    init(bonds: [Int], tensor: Tensor) {
        self.bonds = bonds
        self.tensor = tensor
    }

    /// TR-SVD: the first unfolding keeps r₀·r₁ directions, the others are those of TT-SVD.
    ///
    /// Where the first core has fewer than r₀·r₁ directions the missing ones are zero.
    mutating func initialise() throws(TensorError) {
        let first = try tensor.reshape([sizes[0], -1])
        let (width, columns) = (bonds[0] * bonds[1], first.shape[1])
        let kept = min(width, sizes[0], columns)
        let basis = try first.leadingBasis(kept)
        var rest = try basis.transpose().matmul(first)
        cores = [
            try padded(basis, 1, to: width).reshape([sizes[0], bonds[0], bonds[1]])
                .permute([1, 0, 2])
        ]
        // [r₀, r₁, N₂⋯N_d] to [r₁, N₂⋯N_d, r₀]: the closing bond travels with the last core.
        rest = try padded(rest, 0, to: width).reshape([bonds[0], bonds[1], columns])
            .permute([1, 2, 0])
        for index in 1..<(order - 1) {
            let unfolding = try rest.reshape([bonds[index] * sizes[index], -1])
            let basis = try unfolding.leadingBasis(bonds[index + 1])
            cores.append(try basis.reshape([bonds[index], sizes[index], bonds[index + 1]]))
            rest = try basis.transpose().matmul(unfolding)
        }
        cores.append(try rest.reshape([bonds[order - 1], sizes[order - 1], bonds[0]]))
    }

    /// Sweeps of alternating least squares; the cores with the smallest error are kept.
    ///
    /// A core solves normal equations, exact to √ε: a ring closer than that is left as it is, and a
    /// sweep that gains less than that is the last.
    mutating func improve(sweeps: Int) throws(TensorError) {
        let precision = DType.float64.epsilon.squareRoot()
        let scale = try tensor.norm().item()
        var smallest = try error()
        for _ in 0..<sweeps {
            guard smallest > precision * scale else { return }
            let before = cores
            for index in 0..<order { try solve(index) }
            let now = try error()
            guard now < smallest else {
                cores = before
                return
            }
            guard smallest - now > precision * scale else { return }
            smallest = now
        }
    }

    /// The core at `index` that fits best beside the others.
    ///
    /// With S `[rest, r·r′]` the product of the other cores and T `[N, rest]` the unfolding,
    /// G = T·S·(SᵀS + λ)⁻¹; λ = ε·tr(SᵀS) keeps the system regular where directions of S vanish.
    private mutating func solve(_ index: Int) throws(TensorError) {
        let (left, right) = (bonds[index], bonds[(index + 1) % order])
        let others = (1..<order).map { (index + $0) % order }
        // [r′, rest, r] to [rest, r, r′].
        let product = try chained(others).permute([1, 2, 0]).reshape([-1, left * right])
        let unfolding = try tensor.permute([index] + others).reshape([sizes[index], -1])
        let gram = try product.transpose().matmul(product)
        let ridge = try gram.diagonal().sum().item() * DType.float64.epsilon
        let identity = try Tensor.identity(
            left * right, dtype: .float64, device: tensor.device)
        let solution = try (gram + identity * ridge).solve(
            unfolding.matmul(product).transpose())
        cores[index] = try solution.reshape([left, right, sizes[index]]).permute([0, 2, 1])
    }

    /// The product of the cores at `indices` `[first bond, all modes, last bond]`.
    private func chained(_ indices: [Int]) throws(TensorError) -> Tensor {
        var product = cores[indices[0]]
        for index in indices.dropFirst() {
            product = try product.tensordot(cores[index], [2], [0])
                .reshape([product.shape[0], -1, cores[index].shape[2]])
        }
        return product
    }

    /// The Frobenius norm of what the ring misses.
    private func error() throws(TensorError) -> Double {
        let open = try chained(Array(1..<order))
        let closed = try cores[0].tensordot(open, [2, 0], [0, 2])
        return try (closed - tensor.reshape([sizes[0], -1])).norm().item()
    }

    private func padded(_ matrix: Tensor, _ dim: Int, to size: Int) throws(TensorError) -> Tensor {
        var missing = matrix.shape
        guard missing[dim] < size else { return matrix }
        missing[dim] = size - missing[dim]
        return try Tensor.cat(
            [matrix, .zeros(missing, dtype: .float64, device: matrix.device)], dim: dim)
    }
}
