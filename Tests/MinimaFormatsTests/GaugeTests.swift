import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Interpolative factors stand for the matrices that they were made of.
@Suite struct GaugeTests {
    @Test(arguments: [[1, 1], [7, 1], [9, 4], [40, 39], [60, 25]])
    func aFactorIsFoundAgain(shape: [Int]) throws {
        let (rows, rank) = (shape[0], shape[1])
        let basis = try Samples.normal(shape, seed: 300).qr().q
        let (pivots, coefficients) = try basis.interpolation()
        #expect(pivots == Set(pivots).sorted())
        #expect(pivots.count == rank && pivots.allSatisfy((0..<rows).contains))
        #expect(coefficients.shape == [rows - rank, rank])
        if rank < rows { #expect(try coefficients.abs().max().item() <= 2 + 1e-12) }

        let factor = try InterpolativeFactor.fixing(basis, like: basis, format: "test")
        let found = try factor.expanded(like: basis).matmul(factor.pivotRows(basis))
        // |X| ≤ 2: the rounding errors of the pivot rows grow at most 2·rank-fold.
        let bound = roundingBound(size: rows + rank, steps: 2) * 2 * Double(rank)
        #expect(try found.distance(to: basis) <= bound)
        let stored = factor.tensors.reduce(0) { $0 + $1.count }
        #expect(stored == InterpolativeFactor.count(rows: rows, rank: rank))
        #expect(rank < rows || factor.tensors.isEmpty)

        let z = try Samples.normal([3, 2, rank], seed: 301)
        let expected = try z.linear(factor.expanded(like: basis))
        let error = try factor.apply(z).distance(to: expected)
        #expect(try error <= bound * z.length() * expected.length().squareRoot() + bound)
    }

    /// Columns that differ in size by many orders still have pivots that carry all of them.
    @Test func gradedColumnsKeepTheirDigits() throws {
        let scales = try Tensor((0..<6).map { 1 / Double(1 << (8 * $0)) }, shape: [6])
        let matrix = try Samples.normal([20, 6], seed: 302) * scales
        let basis = try matrix.qr().q
        let factor = try InterpolativeFactor.fixing(basis, like: basis, format: "test")
        let found = try factor.expanded(like: matrix).matmul(factor.pivotRows(matrix))
        for column in 0..<6 {
            let range = column..<column + 1
            let expected = try matrix.narrow(1, range)
            let error = try found.narrow(1, range).distance(to: expected)
            // The basis holds a column to ε of the first one's length.
            let bound = roundingBound(size: 26, steps: 2) * 12
            #expect(try error <= bound * matrix.length())
        }
    }

    @Test(arguments: [[3, 1], [2, 2], [0, 9], [-1, 4]])
    func foreignPivotsAreRefused(pivots: [Int]) throws {
        let tensors = [
            try Samples.normal([7, 2], seed: 303), try Tensor(pivots.map(Int32.init), shape: [2]),
        ]
        #expect(
            throws: FormatError.badIndices(format: "tt", name: "pivots", count: 2, limit: 9)
        ) {
            try InterpolativeFactor(rows: 9, rank: 2, tensors: tensors, format: "tt")
        }
    }
}
