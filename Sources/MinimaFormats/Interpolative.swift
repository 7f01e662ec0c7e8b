import MinimaCore
import MinimaTensor

/// A matrix of rank r given by r of its own rows: W ≈ P·[I; X]·R, R `[r, inputs]` the pivot rows,
/// X `[outputs − r, r]` the coefficients that interpolate the other rows from them, P the order.
///
/// The row interpolative decomposition (Cheng, Gimbutas, Martinsson & Rokhlin 2005, section 3) of
/// the best approximation of its rank. A product A·B of rank r has r² numbers to spare (A·G and
/// G⁻¹·B give the same for any invertible G); here G makes r rows of A the identity, which is not
/// stored: r·(outputs + inputs − r) numbers and r indices instead of r·(outputs + inputs).
///
/// Specification: no modes; ranks `[r]`, r ≤ min(outputs, inputs). Stored: `cores.0` = R,
/// `cores.1` = X (left out at r = outputs, where nothing is interpolated), `pivots` int32 `[r]`, the
/// ascending places of R's rows; those of X's rows follow in ascending order too.
///
/// Pivots come from LU with partial pivoting of an orthonormal basis of the columns, then swaps that
/// each enlarge the pivots' volume until all |X| ≤ 2 (Goreinov et al. 2010, "maxvol"). X is then
/// fitted to R as it is stored and rounded with feedback. On the stacked matrices of ref-qwen3-20m's
/// layers 0, 5 and 9 at 65% of the parameters, rounding to bfloat16 adds 0.01–0.7% to the error
/// (0.03–4.9% when X is rounded number by number), where the error is above 1% of the output.
public struct Interpolative: BudgetedFormat {
    /// `interpolative`.
    public static let name = "interpolative"

    /// Ranks `[r]`.
    public let spec: FormatSpec
    /// Rows of W.
    public let outputs: Int
    /// R `[r, inputs]`.
    public let rows: Tensor
    /// X `[outputs − r, r]`; `nil` when every row is a pivot.
    public let coefficients: Tensor?
    /// Places of R's rows, int32 `[r]`.
    public let pivots: Tensor
    /// Per output its place among the pivots and the others, int64 `[outputs]`.
    let order: Tensor

    /// Columns of R.
    public var inputs: Int { rows.shape[1] }
    /// R, X, pivots.
    public var tensors: [(name: String, tensor: Tensor)] {
        [("cores.0", rows)] + (coefficients.map { [("cores.1", $0)] } ?? []) + [("pivots", pivots)]
    }
    /// `r · (inputs + outputs − r)`.
    public var multiplyAdds: Int { spec.ranks[0] * (inputs + outputs - spec.ranks[0]) }

    /// R `[r, inputs]`, X `[outputs − r, r]`, pivots int32 `[r]`.
    public static func layout(_ spec: FormatSpec, outputs: Int, inputs: Int) throws(FormatError)
        -> [TensorLayout]
    {
        try check(spec, outputs: outputs, inputs: inputs, modeCounts: (0, 0), rankCount: 1)
        try checkRanks(spec.ranks, limits: [min(outputs, inputs, Int(Int32.max))])
        let rank = spec.ranks[0]
        let rest = outputs - rank
        return try cores([[rank, inputs]] + (rest > 0 ? [[rest, rank]] : []))
            + [TensorLayout(name: "pivots", shape: [rank], dtype: .int32)]
    }

    /// The largest rank that fits, at most the full one; a pivot counts as one parameter.
    public static func spec(fitting parameters: Int, outputs: Int, inputs: Int)
        throws(FormatError) -> FormatSpec
    {
        try checkSize(outputs: outputs, inputs: inputs)
        let search = RankSearch(
            caps: [min(outputs, inputs, Int(Int32.max))], limit: { _, _ in .max },
            count: { Sizes.saturatingProduct([$0[0], outputs + inputs - $0[0] + 1]) })
        guard let ranks = search.ranks(fitting: parameters) else {
            throw .budgetTooSmall(
                format: name, parameters: parameters, smallest: outputs + inputs)
        }
        return FormatSpec(format: name, ranks: ranks)
    }

    /// Interpolates the best approximation of rank r in the metric's norm.
    ///
    /// - Complexity: `WhitenedSVD`, then O(outputs·r²) flops and O(outputs·r) per swap.
    public static func decompose(_ weight: Tensor, spec: FormatSpec, metric: Metric?) throws
        -> Interpolative
    {
        let (outputs, inputs) = try checkWeight(weight, spec)
        let rank = spec.ranks[0]
        let exact = try exact(weight)
        let metric = try prepared(metric, for: weight)
        let (a, b) = try WhitenedSVD(exact, metric: metric).factors(rank: rank)
        let (places, coefficients) = try a.qr().q.interpolation()
        let pivots = try Tensor(places.map { Int32($0) }).to(weight.device)
        let chosen = try pivots.to(dtype: .int64)
        let rows = try a.selecting(0, chosen).matmul(b).stored(like: weight)
        guard rank < outputs else {
            return try Interpolative(
                spec: spec, outputs: outputs, inputs: inputs, tensors: [rows, pivots])
        }
        let others = try Tensor(InterpolativeFactor.others(places, of: outputs)).to(weight.device)
        let interpolated = try Interpolative(
            spec: spec, outputs: outputs, inputs: inputs,
            tensors: [rows, coefficients.stored(like: weight), pivots])
        // Unrounded, the interpolation is stationary already.
        guard weight.dtype != .float64 else { return interpolated }
        let storedRows = try rows.to(dtype: .float64)
        let seenRows = try metric.map { try storedRows.matmul($0.input) } ?? storedRows
        let gram = try seenRows.matmul(storedRows.transpose())
        let target = try target(exact, rows: storedRows, metric?.output, pivots: chosen)
        let missing = try target.selecting(0, others) - coefficients.matmul(storedRows)
        let move = try solution(gram, seenRows.matmul(missing.transpose()))
        guard let move else { return interpolated }
        let fitted = try (coefficients + move.transpose())
            .rounded(to: weight.dtype, under: gram)
        let refitted = try Interpolative(
            spec: spec, outputs: outputs, inputs: inputs,
            tensors: [rows, fitted.stored(like: weight), pivots])
        func error(_ candidate: Interpolative) throws -> Double {
            let difference = try candidate.exactMatrix() - exact
            return try metric?.squaredNorm(difference) ?? difference.square().sum().item()
        }
        return try error(refitted) < error(interpolated) ? refitted : interpolated
    }

    /// What the other rows should be beside the pivots' rounding errors Δ_p.
    ///
    /// H weighs the rows of X but does not move their optimum, except that where it couples them to
    /// pivots they make up for those errors: their targets move by H_oo⁻¹·H_op·Δ_p.
    private static func target(
        _ weight: Tensor, rows: Tensor, _ output: OutputMetric?, pivots: Tensor
    ) throws(TensorError) -> Tensor {
        guard let output else { return weight }
        let zero = try Tensor.zeros([weight.shape[0], 1], dtype: .float64, device: rows.device)
        let ones = try Tensor.ones([pivots.count, 1], dtype: .float64, device: rows.device)
        let places = try pivots.unsqueeze(1)
        let lost = try zero.expand(weight.shape).scatter(
            0, places.expand([-1, weight.shape[1]]), weight.selecting(0, pivots) - rows)
        return try weight
            + output.compensation(of: lost, fixed: zero.scatter(0, places, ones))
    }

    /// gram⁻¹·right, damped as far as float64 needs it; `nil` when C sees nothing of the rows.
    private static func solution(_ gram: Tensor, _ right: Tensor) throws(TensorError) -> Tensor? {
        let mean = try gram.diagonal().mean().item()
        let unit = try Tensor.identity(gram.shape[0], dtype: .float64, device: gram.device)
        guard mean > 0, let lower = try (gram + unit * (mean * 1e-10)).cholesky() else {
            return nil
        }
        let half = try lower.solveTriangular(right, upper: false)
        return try lower.transpose().solveTriangular(half, upper: true)
    }

    /// Takes `[R, X, pivots]`, or `[R, pivots]` when every row is a pivot.
    public init(spec: FormatSpec, outputs: Int, inputs: Int, tensors: [Tensor])
        throws(FormatError)
    {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        self.spec = spec
        self.outputs = outputs
        rows = tensors[0]
        coefficients = tensors.count == 3 ? tensors[1] : nil
        pivots = tensors[tensors.count - 1]
        guard let places = try? pivots.values(as: Int32.self).map({ Int($0) }),
            places.allSatisfy((0..<outputs).contains),
            zip(places, places.dropFirst()).allSatisfy(<),
            let order = try? Self.order(of: places, outputs: outputs).to(rows.device)
        else {
            throw .badIndices(
                format: Self.name, name: "pivots", count: spec.ranks[0], limit: outputs)
        }
        self.order = order
    }

    private init(_ other: Interpolative, rows: Tensor, coefficients: Tensor?) {
        (spec, outputs, pivots, order) = (other.spec, other.outputs, other.pivots, other.order)
        (self.rows, self.coefficients) = (rows, coefficients)
    }

    /// Keeps the pivots.
    public func replacing(_ tensors: [Tensor]) throws(FormatError) -> Interpolative {
        try Self.checkTensors(tensors, spec, outputs: outputs, inputs: inputs)
        return Interpolative(
            self, rows: tensors[0], coefficients: tensors.count == 3 ? tensors[1] : nil)
    }

    private static func order(of pivots: [Int], outputs: Int) throws(TensorError) -> Tensor {
        let others = InterpolativeFactor.others(pivots, of: outputs)
        return try Tensor(InterpolativeFactor.inverse(pivots + others.map { Int($0) }))
    }

    /// `x·Rᵀ` for the pivots, that times Xᵀ for the others, in the outputs' order.
    public func forward(_ x: Tensor) throws(TensorError) -> Tensor {
        let pivotal = try x.linear(rows)
        guard let coefficients else {
            return try pivotal.selecting(-1, order)
        }
        if coefficients.requiresGrad {
            // Recorded, the order of so many activations costs more than r² products per token.
            let unit = try Tensor.identity(
                rows.shape[0], dtype: coefficients.dtype, device: coefficients.device)
            return try pivotal.linear(Tensor.cat([unit, coefficients]).selecting(0, order))
        }
        let both = try Tensor.cat([pivotal, pivotal.linear(coefficients)], dim: -1)
        return try both.selecting(-1, order)
    }

    /// R and X·R in the outputs' order.
    public func reconstruct() throws(TensorError) -> Tensor {
        guard let coefficients else { return try rows.selecting(0, order) }
        return try Tensor.cat([rows, coefficients.matmul(rows)]).selecting(0, order)
    }
}

extension OutputMetric {
    /// H_oo⁻¹·H_op·Δ_p in the rows o that `fixed` `[outputs, 1]` marks with 0, for Δ `[outputs, n]`
    /// known in the rows p that it marks with 1; zero in those.
    func compensation(of difference: Tensor, fixed: Tensor) throws(TensorError) -> Tensor {
        let columns = difference.shape[1]
        let least = try Swift.max(diagonal().mean().item() * 1e-6, Double.leastNormalMagnitude)
        var (parts, start) = ([Tensor](), 0)
        for run in runs {
            let (count, size) = (run.shape[0], run.shape[1])
            let rows = start..<start + count * size
            start = rows.upperBound
            let known = try difference.narrow(0, rows)
            if size == 1 {
                parts.append(try known * 0)
                continue
            }
            let mask = try fixed.narrow(0, rows).reshape([count, size, 1])
            let free = try Tensor.ones([1], dtype: .float64, device: run.device) - mask
            let unit = try Tensor.identity(size, dtype: .float64, device: run.device)
            // The identity in the known rows; raised a little, as H may be singular.
            let block = try free * (run + unit * least) * free.transpose() + unit * mask
            let right = try free * run.matmul(mask * known.reshape([count, size, columns]))
            parts.append(try Self.solved(block, right).reshape([-1, columns]))
        }
        return try Tensor.cat(parts)
    }

    /// blocks⁻¹·right for symmetric positive definite `blocks` `[count, size, size]`.
    ///
    /// One block is solved without its batch dimension: batched solvers are made for small blocks.
    private static func solved(_ blocks: Tensor, _ right: Tensor) throws(TensorError) -> Tensor {
        guard blocks.shape[0] == 1, let lower = try blocks.select(0, 0).cholesky() else {
            return try batchedSolveOperator(.tensor(blocks), .tensor(right))
        }
        let half = try lower.solveTriangular(right.select(0, 0), upper: false)
        return try lower.transpose().solveTriangular(half, upper: true)
    }
}

private let batchedSolveOperator = Operator("aten::linalg_solve")
