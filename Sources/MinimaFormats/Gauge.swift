import MinimaCore
import MinimaTensor

private let luFactorOperator = Operator("aten::linalg_lu_factor")

extension Tensor {
    /// Rows of this matrix F `[p, r]`, p ≥ r, of full column rank, that carry all of it:
    /// F = P·[I; X]·F[pivots], with P the order of rows that puts the pivots first.
    ///
    /// Computed in float64: LU with partial pivoting, then exchanges of rows that raise the volume
    /// of the pivot rows (maxvol; Goreinov, Oseledets, Savostyanov, Tyrtyshnikov & Zamarashkin 2010)
    /// until |X| ≤ 2, at most ``InterpolativeFactor/exchanges`` of them.
    ///
    /// - Returns: `pivots`, r ascending rows; `coefficients` X `[p − r, r]`, float64, whose rows
    ///   stand for the other rows of F, ascending.
    /// - Complexity: O(p·r²) flops, O(p·r) per exchange.
    func interpolation() throws(TensorError) -> (pivots: [Int], coefficients: Tensor) {
        let (rows, rank) = (shape[0], shape[1])
        let factors = try luFactorOperator.tensors(.tensor(to(dtype: .float64)))
        var order = Array(0..<rows)
        for (step, pivot) in try factors[1].values(as: Int32.self).enumerated() {
            order.swapAt(step, Int(pivot) - 1)
        }
        let unit = try Tensor.identity(rank, dtype: .float64, device: device)
        let upper = try factors[0].narrow(0, 0..<rank).tril(-1) + unit
        let lower = try factors[0].narrow(0, rank..<rows)
        // X·L₁ = L₂.
        let below = try upper.transpose().solveTriangular(lower.transpose(), upper: true)
            .transpose()
        var pivots = Array(order[..<rank])
        let inverse = InterpolativeFactor.inverse(order)
        let all = try Tensor.cat([unit, below])
            .selecting(0, Tensor(inverse, shape: [rows]).to(device)).contiguous()
        for _ in 0..<(rank < rows ? InterpolativeFactor.exchanges : 0) {
            let magnitudes = try all.abs().reshape([-1])
            let position = Int(try magnitudes.argmax(0).item())
            let (row, column) = (position / rank, position % rank)
            let value = try all.narrow(0, row..<row + 1).narrow(1, column..<column + 1)
            guard try value.item().magnitude > 2 else { break }
            // B − B[:, j]·(B[i, :] − e_j) / B[i, j]: row i becomes e_j.
            let change =
                try (all.narrow(0, row..<row + 1) - unit.narrow(0, column..<column + 1)) / value
            try all.addInPlace(all.narrow(1, column..<column + 1).matmul(change), scale: -1)
            pivots[column] = row
        }
        let sorted = pivots.indices.sorted { pivots[$0] < pivots[$1] }
        let ascending = sorted.map { pivots[$0] }
        let rest = InterpolativeFactor.others(ascending, of: rows)
        let coefficients = try all.selecting(0, Tensor(rest, shape: [rest.count]).to(device))
            .selecting(1, Tensor(sorted.map(Int64.init), shape: [rank]).to(device))
        return (ascending, coefficients)
    }
}

/// A matrix `[rows, rank]` of which `rank` rows, the pivots, are the identity: P·[I; X].
///
/// A bond of rank r between two factors is free to change its basis, which makes r² of their numbers
/// redundant. Here the basis is that of the pivot rows, and only the other rows X
/// `[rows − rank, rank]` and the pivots (int32 `[rank]`, ascending) are stored. A square factor is
/// the identity: nothing is stored at all.
struct InterpolativeFactor: Sendable {
    /// Exchanges of rows that improve the pivots, at most.
    static let exchanges = 128

    let rows: Int
    let rank: Int
    /// X and the pivots; none where the factor is square.
    let tensors: [Tensor]
    /// For every row, its place in [I; X]; `nil` where the factor is square.
    private let order: Tensor?

    /// What such a factor stores: `cores.index` X, then `pivots.index`.
    static func layout(rows: Int, rank: Int, index: Int) -> [TensorLayout] {
        guard rank < rows else { return [] }
        return [
            TensorLayout(name: "cores.\(index)", shape: [rows - rank, rank]),
            TensorLayout(name: "pivots.\(index)", shape: [rank], dtype: .int32),
        ]
    }

    /// Numbers that such a factor stores, pivots included; `Int.max` when it overflows.
    static func count(rows: Int, rank: Int) -> Int {
        rank < rows
            ? Sizes.saturatingSum([Sizes.saturatingProduct([rows - rank, rank]), rank]) : 0
    }

    /// Multiply-adds of ``apply(_:)`` per vector; `Int.max` when it overflows.
    static func multiplyAdds(rows: Int, rank: Int) -> Int {
        rank < rows ? Sizes.saturatingProduct([rows - rank, rank]) : 0
    }

    /// A factor from what ``layout(rows:rank:index:)`` names.
    ///
    /// - Throws: `FormatError.badIndices` when the pivots are not ascending rows.
    init(rows: Int, rank: Int, tensors: [Tensor], format: String) throws(FormatError) {
        self.rows = rows
        self.rank = rank
        self.tensors = tensors
        guard tensors.count == 2 else {
            order = nil
            return
        }
        var pivots: [Int] = []
        do throws(TensorError) {
            pivots = try tensors[1].values(as: Int32.self).map(Int.init)
            guard zip(pivots, pivots.dropFirst()).allSatisfy(<),
                let first = pivots.first, let last = pivots.last, first >= 0, last < rows
            else { throw TensorError.invalidArgument(function: format, reason: "pivots") }
            let places = Self.inverse(pivots + Self.others(pivots, of: rows).map(Int.init))
            order = try Tensor(places, shape: [rows]).to(tensors[1].device)
        } catch {
            throw .badIndices(format: format, name: "pivots", count: rank, limit: rows)
        }
    }

    private init(_ factor: InterpolativeFactor, coefficients: Tensor) {
        (rows, rank, order) = (factor.rows, factor.rank, factor.order)
        tensors = [coefficients, factor.tensors[1]]
    }

    /// This factor with the first of `tensors` in place of X, taking as many from it as it stores.
    func taking(from tensors: inout ArraySlice<Tensor>) -> InterpolativeFactor {
        guard let coefficients = tensors.first, self.tensors.count == 2 else { return self }
        tensors = tensors.dropFirst(2)
        return InterpolativeFactor(self, coefficients: coefficients)
    }

    /// The interpolative factor that spans the columns of F `[rows, rank]`, of full column rank:
    /// F = factor·(pivot rows of F).
    ///
    /// - Parameter weight: The factor is stored in its dtype.
    static func fixing(_ factor: Tensor, like weight: Tensor, format: String) throws
        -> InterpolativeFactor
    {
        let (rows, rank) = (factor.shape[0], factor.shape[1])
        guard rank < rows else {
            return try InterpolativeFactor(rows: rows, rank: rank, tensors: [], format: format)
        }
        let (pivots, coefficients) = try factor.interpolation()
        let indices = try Tensor(pivots.map(Int32.init), shape: [rank]).to(factor.device)
        return try InterpolativeFactor(
            rows: rows, rank: rank, tensors: [coefficients.stored(like: weight), indices],
            format: format)
    }

    /// The pivot rows of `matrix` `[rows, columns]`.
    func pivotRows(_ matrix: Tensor) throws(TensorError) -> Tensor {
        guard tensors.count == 2 else { return matrix }
        return try matrix.selecting(0, tensors[1].to(dtype: .int64))
    }

    /// `z` `[…, rank]` times the transposed factor: `[…, rows]`.
    func apply(_ z: Tensor) throws(TensorError) -> Tensor {
        guard let order else { return z }
        return try Tensor.cat([z, z.linear(tensors[0])], dim: -1).selecting(-1, order)
    }

    /// The factor `[rows, rank]` in the type of X.
    ///
    /// - Parameter like: Gives type and device where nothing is stored.
    func expanded(like other: Tensor) throws(TensorError) -> Tensor {
        let unit = try Tensor.identity(rank, dtype: other.dtype, device: other.device)
        guard let order else { return unit }
        return try Tensor.cat([unit, tensors[0].to(dtype: other.dtype)]).selecting(0, order)
    }

    /// Where each element of the permutation `order` stands.
    static func inverse(_ order: [Int]) -> [Int64] {
        var places = [Int64](repeating: 0, count: order.count)
        for (place, element) in order.enumerated() { places[element] = Int64(place) }
        return places
    }

    /// The rows of `0..<rows` that are not among `pivots`, ascending.
    static func others(_ pivots: [Int], of rows: Int) -> [Int64] {
        var isPivot = [Bool](repeating: false, count: rows)
        for pivot in pivots { isPivot[pivot] = true }
        return (0..<rows).lazy.filter { !isPivot[$0] }.map(Int64.init)
    }
}
