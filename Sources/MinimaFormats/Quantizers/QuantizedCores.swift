import MinimaCore
import MinimaTensor

/// Where a core stands in its weight: W = left · core · right + rest.
struct CoreSurroundings {
    /// `nil` for the identity.
    var left: Tensor?
    /// `nil` for the identity.
    var right: Tensor?
    /// What the core has no part in, `[outputs, inputs]`; `nil` for nothing.
    var rest: Tensor?
}

/// A format of which some tensors stand between two matrices.
///
/// Such cores are quantised by GPTQ under the metric that they see, and refitted in closed form.
protocol SandwichedCores: LinearWeight {
    /// What stands around tensor `index`; `nil` when it does not stand between two matrices.
    func surroundings(of index: Int) throws(TensorError) -> CoreSurroundings?
}

extension LowRank: SandwichedCores {
    func surroundings(of index: Int) throws(TensorError) -> CoreSurroundings? {
        index == 0 ? CoreSurroundings(left: up) : CoreSurroundings(right: down)
    }
}

extension Interpolative: SandwichedCores {
    /// The pivot rows R stand right of P·[I; X]; the coefficients X stand between the columns of P
    /// that place the other rows and R, beside R in its own places.
    func surroundings(of index: Int) throws(TensorError) -> CoreSurroundings? {
        let rank = rows.shape[0]
        let unit = try Tensor.identity(rank, dtype: rows.dtype, device: rows.device)
        if index == 0 { return CoreSurroundings(left: try rebuilt(unit, coefficients)) }
        // The places of the other rows are a matrix here: 4096 of them take 128 MiB.
        guard index == 1, let coefficients, outputs <= 4096 else { return nil }
        let others = try Tensor.identity(
            outputs - rank, dtype: rows.dtype, device: rows.device)
        // P·[I; X] of X = 0 places R; its other columns are those of the identity that are left.
        let placed = try rebuilt(rows, coefficients * 0)
        let padded = try Tensor.cat([
            .zeros([rank, outputs - rank], dtype: rows.dtype, device: rows.device), others,
        ])
        return CoreSurroundings(left: try padded.selecting(0, order), right: rows, rest: placed)
    }

    /// P·[I; X]·R with other factors.
    private func rebuilt(_ rows: Tensor, _ coefficients: Tensor?) throws(TensorError) -> Tensor {
        guard let coefficients else { return try rows.selecting(0, order) }
        return try Tensor.cat([rows, coefficients.matmul(rows)]).selecting(0, order)
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
                    levels: spec.levels,
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
            let around = try sandwich.surroundings(of: index)
        else { return nil }
        let input = try around.right.map { try $0.matmul(times(input: $0.transpose())) }
        let output = try around.left.map { try $0.transpose().matmul(times(output: $0)) }
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
            let around = try sandwich.surroundings(of: index)
        {
            return try solved(around)
        }
        return try descended(cores, index)
    }

    /// (LᵀHL)⁻¹·LᵀH·(W − rest)·CRᵀ·(RCRᵀ)⁻¹, damped by rounding errors' size.
    private func solved(_ around: CoreSurroundings) throws -> Tensor {
        var core = try around.rest.map { try weight - $0 } ?? weight
        if let left = around.left {
            let weighted = try times(output: left).transpose()
            core = try Self.damped(weighted.matmul(left)).solve(weighted.matmul(core))
        }
        if let right = around.right {
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
