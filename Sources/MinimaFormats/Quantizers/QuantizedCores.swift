import MinimaCore
import MinimaTensor

/// A format of which some tensors stand between two matrices: W = left · core · right.
///
/// Such cores are quantised by GPTQ under the metric that they see, and refitted in closed form.
protocol SandwichedCores: LinearWeight {
    /// What stands left and right of tensor `index`, `nil` for nothing; `nil` when it does not stand
    /// between two matrices.
    func surroundings(of index: Int) throws(TensorError) -> (left: Tensor?, right: Tensor?)?
}

extension LowRank: SandwichedCores {
    func surroundings(of index: Int) throws(TensorError) -> (left: Tensor?, right: Tensor?)? {
        index == 0 ? (up, nil) : (nil, down)
    }
}

extension Interpolative: SandwichedCores {
    /// The pivot rows stand right of everything; the coefficients between an order and a sum.
    func surroundings(of index: Int) throws(TensorError) -> (left: Tensor?, right: Tensor?)? {
        guard index == 0 else { return nil }
        let rank = rows.shape[0]
        let unit = try Tensor.identity(rank, dtype: rows.dtype, device: rows.device)
        do throws(FormatError) {
            let order = try Interpolative(
                spec: spec, outputs: outputs, inputs: rank,
                tensors: [unit] + (coefficients.map { [$0] } ?? []) + [pivots])
            return (try? order.reconstruct()).map { ($0, nil) }
        } catch {
            return nil
        }
    }
}

/// Quantises the tensors of a decomposed weight in turn.
///
/// Each is rounded while the others stay, and before that refitted to those that are rounded
/// already: W is linear in every one of them, so that is a least-squares problem under the metric.
struct QuantizedCores {
    /// Rounds over all tensors; of the results the one with the least error is kept.
    static let rounds = 3
    /// Iterations of conjugate gradients per refit; each lowers the error or leaves it.
    static let iterations = 20

    let weight: Tensor
    let spec: FormatSpec
    let metric: Metric?
    private let inside: any LinearWeight.Type

    /// For `weight` `[outputs, inputs]` in float64.
    init(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws {
        self.weight = weight
        self.spec = spec
        self.metric = metric
        inside = try FormatRegistry.format(spec.parts[0].format)
    }

    /// The stored pieces with the least error.
    func fitted() throws -> [Quantized.Piece] {
        let (_, layout) = try Quantized.parts(
            spec, outputs: weight.shape[0], inputs: weight.shape[1])
        var cores = try inside.decompose(weight, spec: spec.parts[0], metric: metric)
            .tensors.map(\.tensor)
        let quantised = layout.indices.filter { Quantized.matrix(layout[$0], spec) != nil }
        var pieces = zip(layout, cores).map {
            Quantized.Piece.plain($1, isFloating: $0.dtype == nil)
        }
        var (best, error) = (pieces, Double.infinity)
        for round in 0..<(quantised.count > 1 ? Self.rounds : 1) {
            for index in quantised {
                let isFirst = round == 0 && index == quantised.first
                let core = try isFirst ? cores[index] : refitted(cores, index)
                guard let size = Quantized.matrix(layout[index], spec) else { continue }
                let matrix = try quantizer(size.columns).quantize(
                    core.reshape([size.rows, size.columns]), bits: spec.bits ?? 8,
                    groupSize: spec.groupSize ?? size.columns,
                    metric: seen(by: index, of: cores, columns: size.columns))
                cores[index] = try matrix.dense(dtype: .float64).reshape(core.shape)
                pieces[index] = .matrix(matrix, shape: core.shape)
            }
            let found = try squaredError(cores)
            if found < error { (best, error) = (pieces, found) }
        }
        return best
    }

    private func quantizer(_ columns: Int) -> MatrixQuantizer {
        MatrixQuantizer(columns: columns)
    }

    private func built(_ cores: [Tensor]) throws -> any LinearWeight {
        try inside.init(
            spec: spec.parts[0], outputs: weight.shape[0], inputs: weight.shape[1],
            tensors: cores)
    }

    private func squaredError(_ cores: [Tensor]) throws -> Double {
        let difference = try built(cores).reconstruct() - weight
        return try metric?.squaredNorm(difference) ?? difference.square().sum().item()
    }

    /// The metric of an error in tensor `index`; `nil` where it is not known in this form.
    private func seen(by index: Int, of cores: [Tensor], columns: Int) throws -> Metric? {
        let built = try built(cores)
        if built is Dense { return metric }
        guard let sandwich = built as? any SandwichedCores,
            let (left, right) = try sandwich.surroundings(of: index)
        else { return nil }
        let input = try right.map { try $0.matmul(times(input: $0.transpose())) }
        let output = try left.map { try $0.transpose().matmul(times(output: $0)) }
        let unit =
            try input == nil && metric == nil
            ? Tensor.identity(columns, dtype: .float64, device: weight.device) : nil
        guard let seen = input ?? metric?.input ?? unit else { return nil }
        return try Metric(
            input: seen, output: output.map { try OutputMetric(full: $0) } ?? metric?.output)
    }

    /// C·M.
    private func times(input matrix: Tensor) throws(TensorError) -> Tensor {
        try metric?.input.matmul(matrix) ?? matrix
    }

    /// H·M.
    private func times(output matrix: Tensor) throws(TensorError) -> Tensor {
        try metric?.output?.times(matrix) ?? matrix
    }

    /// Tensor `index` as it fits best to the others.
    private func refitted(_ cores: [Tensor], _ index: Int) throws -> Tensor {
        if let sandwich = try built(cores) as? any SandwichedCores,
            let (left, right) = try sandwich.surroundings(of: index)
        {
            return try solved(left, right)
        }
        return try descended(cores, index)
    }

    /// (LᵀHL)⁻¹·LᵀH·W·CRᵀ·(RCRᵀ)⁻¹, damped by rounding errors' size.
    private func solved(_ left: Tensor?, _ right: Tensor?) throws -> Tensor {
        var core = weight
        if let left {
            let weighted = try times(output: left).transpose()
            core = try Self.damped(weighted.matmul(left)).solve(weighted.matmul(core))
        }
        if let right {
            let weighted = try times(input: right.transpose())
            core = try Self.damped(right.matmul(weighted))
                .solve(core.matmul(weighted).transpose()).transpose()
        }
        return core
    }

    private static func damped(_ gram: Tensor) throws(TensorError) -> Tensor {
        let mean = try gram.diagonal().mean().item()
        let unit = try Tensor.identity(gram.shape[0], dtype: .float64, device: gram.device)
        return try gram + unit * (mean > 0 ? mean * 1e-9 : 1)
    }

    /// Conjugate gradients on the normal equations of the core (Hestenes & Stiefel 1952), from where
    /// it is; products with the Jacobian are reconstructions and their gradients.
    private func descended(_ cores: [Tensor], _ index: Int) throws -> Tensor {
        var core = cores[index]
        let constant = try image(of: core * 0, cores, index)
        var residual = try pulledBack(weight - image(of: core, cores, index), cores, index)
        var direction = residual
        var power = try residual.square().sum().item()
        let goal = power * 1e-12
        for _ in 0..<Self.iterations where power > goal {
            let moved = try image(of: direction, cores, index) - constant
            let curved = try pulledBack(moved, cores, index)
            let curvature = try (direction * curved).sum().item()
            guard curvature > 0 else { break }
            core = try core + direction * (power / curvature)
            residual = try residual - curved * (power / curvature)
            let next = try residual.square().sum().item()
            direction = try residual + direction * (next / power)
            power = next
        }
        return core
    }

    /// The matrix with `core` in place of tensor `index`.
    private func image(of core: Tensor, _ cores: [Tensor], _ index: Int) throws -> Tensor {
        var cores = cores
        cores[index] = core
        return try built(cores).reconstruct()
    }

    /// Jᵀ·(H·M·C), J the derivative of the matrix by tensor `index`.
    private func pulledBack(_ matrix: Tensor, _ cores: [Tensor], _ index: Int) throws -> Tensor {
        let weighted = try times(input: times(output: matrix).transpose()).transpose()
        let leaf = try cores[index].detach().clone()
        try leaf.setRequiresGrad()
        // Whoever compresses has switched recording off.
        return try withGradients {
            let product = try (image(of: leaf, cores, index) * weighted).sum()
            return try product.gradients([leaf])[0] ?? leaf.detach() * 0
        }
    }
}
