import MinimaCore
import MinimaTensor

/// Fits a closed chain of cores to a whitened weight; a train is a ring whose first bond is 1.
///
/// Cores are `[r_k, N_k, r_{k+1}]`, with N_k the product of output and input mode k.
struct ChainSolver {
    /// Shapes in whitened coordinates.
    let chain: CoreChain
    private let whitening: Whitening
    /// T, one dimension per core.
    private let tensor: Tensor
    /// The cores found so far.
    var cores: [Tensor] = []

    private var order: Int { chain.order }
    private var sizes: [Int] { tensor.shape }

    /// A solver without cores.
    init(bonds: [Int], whitening: Whitening) throws(TensorError) {
        self.whitening = whitening
        chain = CoreChain(
            outputModes: whitening.outputModes, inputModes: whitening.inputModes, bonds: bonds)
        tensor = try chain.paired(whitening.target)
    }

    /// TT-SVD (Oseledets 2011, algorithm 1), or TR-SVD (Zhao et al. 2016, algorithm 1), whose first
    /// unfolding keeps r₀·r₁ directions.
    ///
    /// Where the first core has fewer than r₀·r₁ directions the missing ones are zero.
    mutating func initialise() throws(TensorError) {
        let bonds = chain.bonds
        let first = try tensor.reshape([sizes[0], -1])
        let (width, columns) = (bonds[0] * bonds[1], first.shape[1])
        let basis = try first.leadingBasis(min(width, sizes[0], columns))
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

    /// Sweeps of alternating least squares under the metric; the cores with the smallest error are
    /// kept, and a sweep that gains less than 10⁻⁶ of it is the last.
    ///
    /// TR-SVD is optimal at order 2, as TT-SVD is, where the whitening takes the whole metric.
    mutating func improve(sweeps: Int) throws(TensorError) {
        if order == 2, whitening.isExact { return }
        let whole = try whitening.squaredError(whitening.target)
        var smallest = try squaredError()
        for _ in 0..<sweeps {
            // Below √ε only rounding errors are left.
            guard smallest > DType.float64.epsilon * whole else { return }
            let before = cores
            for index in 0..<order {
                try solve(index)
                if index < order - 1 { try orthogonalise(index) }
            }
            let now = try squaredError()
            guard now < smallest else {
                cores = before
                return
            }
            guard smallest - now > 1e-6 * smallest else { return }
            smallest = now
        }
    }

    /// What the cores miss, squared, under the metric.
    func squaredError() throws(TensorError) -> Double {
        try whitening.squaredError(whitening.target - chain.reconstruct(chain.split(cores)))
    }

    /// Gives the core at `index` orthonormal columns and their basis to its right neighbour.
    private mutating func orthogonalise(_ index: Int) throws(TensorError) {
        let shape = cores[index].shape
        guard shape[0] * shape[1] >= shape[2] else { return }
        let (q, r) = try cores[index].reshape([shape[0] * shape[1], shape[2]]).qr()
        cores[index] = try q.reshape(shape)
        cores[index + 1] = try r.tensordot(cores[index + 1], [1], [0])
    }

    /// The core at `index` that fits better beside the others: minimises ⟨T − J·g, M·(T − J·g)⟩ by
    /// conjugate gradients from the present core on.
    ///
    /// With L and R the products of the cores on either side, the operator Jᵀ·J is nearly
    /// (Σ LᵀL) ⊗ (Σ RᵀR), and exactly that in a train; its inverse preconditions.
    mutating func solve(_ index: Int) throws(TensorError) {
        let environment = try Environment(
            left: index > 0 ? chained(0..<index) : nil,
            right: index < order - 1 ? chained((index + 1)..<order) : nil,
            size: sizes[index])
        let (leftInverse, rightInverse) = try environment.inverses()
        let present = try environment.expand(cores[index])
        let missed = try tensor.reshape(present.shape) - present
        cores[index] = try ConjugateGradients.solve(
            from: cores[index], residual: environment.collect(weighted(missed)),
            operator: { (core) throws(TensorError) in
                try environment.collect(weighted(environment.expand(core)))
            },
            preconditioner: { (core) throws(TensorError) in
                try leftInverse.tensordot(core, [1], [0]).matmul(rightInverse)
            })
    }

    /// M applied to a difference whose dimensions are groups of the cores' sizes.
    private func weighted(_ difference: Tensor) throws(TensorError) -> Tensor {
        guard !whitening.isExact else { return difference }
        let matrix = try chain.unpaired(difference)
        return try chain.paired(whitening.weighted(matrix)).reshape(difference.shape)
    }

    /// The product of the cores in `range` `[first bond, all sizes, last bond]`.
    private func chained(_ range: Range<Int>) throws(TensorError) -> Tensor {
        var product = cores[range.lowerBound]
        for index in range.dropFirst() {
            product = try product.tensordot(cores[index], [2], [0])
                .reshape([product.shape[0], -1, cores[index].shape[2]])
        }
        return product
    }

    private func padded(_ matrix: Tensor, _ dim: Int, to size: Int) throws(TensorError) -> Tensor {
        var missing = matrix.shape
        guard missing[dim] < size else { return matrix }
        missing[dim] = size - missing[dim]
        return try Tensor.cat(
            [matrix, .zeros(missing, dtype: .float64, device: matrix.device)], dim: dim)
    }
}

/// The other cores as one core sees them: L `[r₀, left sizes, r]` and R `[r′, right sizes, r₀]`, one
/// of them missing at an end of the chain.
private struct Environment {
    let left: Tensor?
    let right: Tensor?
    /// Size of the core's own dimension.
    let size: Int

    /// J·g: the tensor `[left sizes, size, right sizes]` of the chain with `core` in this place.
    func expand(_ core: Tensor) throws(TensorError) -> Tensor {
        guard let left else {
            guard let right else { return core }
            return try core.tensordot(right, [2, 0], [0, 2]).unsqueeze(0)
        }
        guard let right else {
            return try left.tensordot(core, [2, 0], [0, 2]).unsqueeze(2)
        }
        return try left.tensordot(core, [2], [0]).tensordot(right, [3, 0], [0, 2])
    }

    /// Jᵀ·v: what a tensor of ``expand(_:)``'s shape says to the core `[r, size, r′]`.
    func collect(_ tensor: Tensor) throws(TensorError) -> Tensor {
        guard let left else {
            guard let right else { return tensor }
            return try tensor.squeeze(0).tensordot(right, [1], [1]).permute([2, 0, 1])
        }
        guard let right else {
            return try left.tensordot(tensor.squeeze(2), [1], [0]).permute([1, 2, 0])
        }
        return try left.tensordot(tensor.tensordot(right, [2], [1]), [0, 1], [3, 0])
    }

    /// Inverses of the Gram matrices over the left and the right bond.
    func inverses() throws(TensorError) -> (left: Tensor, right: Tensor) {
        func inverse(_ tensor: Tensor, _ summed: [Int]) throws(TensorError) -> Tensor {
            let gram = try tensor.tensordot(tensor, summed, summed)
            let unit = try Tensor.identity(
                gram.shape[0], dtype: .float64, device: gram.device)
            // Vanishing directions of the environment stay vanishing, but finite.
            let mean = try gram.diagonal().mean().item()
            guard mean > 0 else { return unit }
            let regular = try gram + unit * (mean * 1e-12)
            return try regular.solve(unit)
        }
        // At an end of the chain the missing side's bond is the closing one.
        guard let outer = left ?? right, let other = right ?? left else {
            let one = try Tensor.ones([1, 1], dtype: .float64)
            return (one, one)
        }
        return (try inverse(outer, [0, 1]), try inverse(other, [1, 2]))
    }
}
