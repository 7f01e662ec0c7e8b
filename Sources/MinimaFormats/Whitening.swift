import MinimaCore
import MinimaTensor

/// A weight in coordinates in which its metric is nearly the identity, mode by mode.
///
/// `target` T = (⊗ H_k^½)·W·(⊗ C_k^½), with H ≈ ⊗ H_k over the output modes and C ≈ ⊗ C_k over the
/// input modes (Van Loan & Pitsianis 1993). A side of one mode is absorbed exactly. An input of one
/// mode is never turned back: whatever the output side is, the input's factor is a least-squares
/// problem of W itself, so T may have any columns with T·Tᵀ = W·C·Wᵀ, and has at most
/// min(outputs, inputs) of them.
struct Whitening {
    /// T `[outputs, columns]`, float64.
    let target: Tensor
    /// Modes of the rows of T.
    let outputModes: [Int]
    /// Modes of the columns of T; a single input mode shrinks to T's columns.
    let inputModes: [Int]
    private let outputRoots: [Root]
    private let inputRoots: [Root]
    /// What the whitening leaves of the metric; `nil` where it takes all.
    private let outputRest: OutputMetric?
    private let inputRest: Tensor?

    /// The square root of one mode's metric and its inverse, in equal blocks along the mode.
    private struct Root {
        let root: OutputMetric
        let inverse: OutputMetric
    }

    /// Whether the plain norm of T is the metric's.
    var isExact: Bool { outputRest == nil && inputRest == nil }

    /// Whitens `weight` `[outputs, inputs]`, float64.
    ///
    /// - Parameters:
    ///   - metric: On the device of `weight`; `nil` is the Frobenius norm.
    ///   - solvesInput: Whether the last input mode, then the only one, belongs to a factor of its
    ///     own that is solved for in the end.
    init(
        _ weight: Tensor, outputModes: [Int], inputModes: [Int], metric: Metric?,
        solvesInput: Bool
    ) throws(TensorError) {
        self.outputModes = outputModes
        let rows = outputModes.filter { $0 > 1 }
        var target = weight
        if let output = metric?.output {
            let metrics =
                try rows.count < 2
                ? [output] : Self.factors(of: output, modes: outputModes)
            var roots: [Root] = []
            for metric in metrics { roots.append(try Self.root(metric)) }
            outputRoots = roots
            outputRest = rows.count < 2 ? nil : output
            target = try Self.along(
                target, rows.count < 2 ? [weight.shape[0]] : outputModes, roots.map(\.root))
        } else {
            (outputRoots, outputRest) = ([], nil)
        }
        guard !solvesInput else {
            target = try target.reduced(metric?.input)
            self.target = target
            self.inputModes = inputModes.dropLast() + [target.shape[1]]
            (inputRoots, inputRest) = ([], nil)
            return
        }
        self.inputModes = inputModes
        guard let moment = metric?.input else {
            self.target = target
            (inputRoots, inputRest) = ([], nil)
            return
        }
        var roots: [Root] = []
        for factor in try Self.factors(of: moment, modes: inputModes) {
            roots.append(try Self.root(OutputMetric(full: factor)))
        }
        self.target = try Self.along(target.transpose(), inputModes, roots.map(\.root)).transpose()
        inputRoots = roots
        inputRest = inputModes.count { $0 > 1 } > 1 ? moment : nil
    }

    /// M·Δ for Δ in the coordinates of T, so that ⟨Δ, M·Δ⟩ is its squared error under the metric.
    func weighted(_ difference: Tensor) throws(TensorError) -> Tensor {
        var result = difference
        if let outputRest {
            result = try outputRest.times(turnedBack(outputs: result))
            result = try turnedBack(outputs: result)
        }
        if let inputRest {
            result = try turnedBack(inputs: result).matmul(inputRest)
            result = try turnedBack(inputs: result)
        }
        return result
    }

    /// The squared error of Δ under the metric.
    func squaredError(_ difference: Tensor) throws(TensorError) -> Double {
        try max((difference * weighted(difference)).sum().item(), 0)
    }

    private func turnedBack(outputs matrix: Tensor) throws(TensorError) -> Tensor {
        guard !outputRoots.isEmpty else { return matrix }
        return try Self.along(
            matrix, outputRoots.count == 1 ? [matrix.shape[0]] : outputModes,
            outputRoots.map(\.inverse))
    }

    private func turnedBack(inputs matrix: Tensor) throws(TensorError) -> Tensor {
        try Self.along(matrix.transpose(), inputModes, inputRoots.map(\.inverse)).transpose()
    }

    /// A core `[left, output mode, input mode, right]` from the coordinates of T to those of W, or
    /// the other way.
    func turned(_ core: Tensor, mode: Int, back: Bool) throws(TensorError) -> Tensor {
        let shape = core.shape
        var result = core
        func pick(_ root: Root) -> OutputMetric { back ? root.inverse : root.root }
        let whole = outputRoots.count == 1 && outputModes.count > 1
        if !outputRoots.isEmpty, !whole || mode == outputModes.firstIndex(of: target.shape[0]) {
            let root = outputRoots[whole ? 0 : mode]
            let rows = try result.permute([1, 0, 2, 3]).reshape([shape[1], -1])
            result = try pick(root).times(rows)
                .reshape([shape[1], shape[0], shape[2], shape[3]]).permute([1, 0, 2, 3])
        }
        if !inputRoots.isEmpty {
            let rows = try result.permute([2, 0, 1, 3]).reshape([shape[2], -1])
            result = try pick(inputRoots[mode]).times(rows)
                .reshape([shape[2], shape[0], shape[1], shape[3]]).permute([1, 2, 0, 3])
        }
        return result
    }

    /// H_k^½ of a Kronecker product near H, one per output mode; none without H.
    static func outputRoots(_ output: OutputMetric?, modes: [Int]) throws(TensorError)
        -> [OutputMetric]
    {
        guard let output else { return [] }
        var roots: [OutputMetric] = []
        for factor in try factors(of: output, modes: modes) {
            roots.append(try root(factor).root)
        }
        return roots
    }

    /// Applies one symmetric matrix per mode to the rows of `matrix`.
    static func along(_ matrix: Tensor, _ modes: [Int], _ factors: [OutputMetric])
        throws(TensorError) -> Tensor
    {
        let shape = matrix.shape
        var tensor = matrix
        for (mode, factor) in zip(modes, factors) {
            // The first mode goes last: after all of them the order is the old one.
            let rest = shape[0] * shape[1] / mode
            tensor = try factor.times(tensor.reshape([mode, rest]))
                .transpose()
        }
        let columns = shape[1]
        return try tensor.reshape([columns, shape[0]]).transpose()
    }
}

extension Whitening {
    /// To what share of their mean eigenvalues are raised before a root is inverted.
    ///
    /// The roots are coordinates only: the sweeps measure with the metric itself.
    private static let floor = 1e-8

    private static func root(_ metric: OutputMetric) throws(TensorError) -> Root {
        let (root, inverse) = try metric.roots(floor: floor)
        return Root(root: root, inverse: inverse)
    }

    /// Rows up to which a block-diagonal matrix is split as a dense one: 512 MiB.
    private static let denseRows = 8192

    /// H ≈ ⊗ H_k. Beyond ``denseRows`` the couplings between indices of the first mode are left to
    /// the sweeps: its factor is diagonal.
    private static func factors(of output: OutputMetric, modes: [Int]) throws(TensorError)
        -> [OutputMetric]
    {
        var factors: [OutputMetric] = []
        guard output.outputs > denseRows else {
            for factor in try Self.factors(of: output.dense(), modes: modes) {
                factors.append(try OutputMetric(full: factor))
            }
            return factors
        }
        let size = output.outputs / modes[0]
        func block(_ index: Int) throws(TensorError) -> Tensor {
            try output.narrow(index * size..<(index + 1) * size).dense()
        }
        var mean = try block(0)
        for index in 1..<modes[0] { mean = try mean + block(index) }
        var weights: [Tensor] = []
        for index in 0..<modes[0] { weights.append(try (block(index) * mean).sum().reshape([1])) }
        factors.append(try OutputMetric(diagonal: .cat(weights)))
        for factor in try Self.factors(of: mean, modes: Array(modes[1...])) {
            factors.append(try OutputMetric(full: factor))
        }
        return factors
    }

    /// The nearest Kronecker product, one mode split off after the other, from the partial trace on.
    ///
    /// Every factor is positive semidefinite. Three passes of the power iteration are enough for
    /// coordinates to start from.
    private static func factors(of matrix: Tensor, modes: [Int]) throws(TensorError) -> [Tensor] {
        guard modes.count > 1 else { return [matrix] }
        let (first, rest) = (modes[0], matrix.shape[0] / modes[0])
        let blocks = try matrix.reshape([first, rest, first, rest])
        var inner = try Tensor.identity(rest, dtype: .float64, device: matrix.device)
        var outer = inner
        for _ in 0..<3 {
            outer = try Tensor.einsum("iajb,ab->ij", blocks, inner)
            let scale = try outer.norm().item()
            guard scale > 0 else { break }
            outer = try outer / scale
            inner = try Tensor.einsum("iajb,ij->ab", blocks, outer)
        }
        return [outer] + (try factors(of: inner, modes: Array(modes[1...])))
    }
}

extension Tensor {
    /// T with T·Tᵀ = M·(C + δ)·Mᵀ for this float64 matrix M `[m, n]`, with at most min(m, n) columns.
    ///
    /// δ is 10⁻¹⁰ of C's mean eigenvalue: where C says nothing the plain norm decides, and what C says
    /// stays as it is to ten digits. Roots are not inverted.
    func reduced(_ moment: Tensor?) throws(TensorError) -> Tensor {
        let (m, n) = (shape[0], shape[1])
        let mean = try moment?.diagonal().mean().item() ?? 0
        guard let moment, mean > 0 else {
            return try n <= m ? self : transpose().qr().r.transpose()
        }
        let unit = try Tensor.identity(n, dtype: .float64, device: device)
        let regular = try moment + unit * (1e-10 * mean)
        let small = try n <= m ? regular : matmul(regular).matmul(transpose())
        let (values, vectors) = try small.eigh()
        let root = try vectors * values.clamp(min: 0).sqrt()
        return try n <= m ? matmul(root) : root
    }
}
