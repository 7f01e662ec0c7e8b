import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// A low rank without its gauge freedom.
@Suite struct InterpolativeTests {
    private func spec(_ rank: Int, _ format: String = "interpolative") -> FormatSpec {
        FormatSpec(format: format, ranks: [rank])
    }

    private func metrics(_ shape: [Int]) throws -> [Metric?] {
        [
            nil, try Samples.metric(shape[1], tokens: 200, seed: 320),
            try Samples.metric(shape[1], tokens: 10, seed: 321, outputs: shape[0]),
        ]
    }

    /// In exact arithmetic nothing is lost against the product of two factors.
    @Test(arguments: [[24, 36], [36, 24], [50, 7], [13, 13]])
    func isTheBestOfItsRank(shape: [Int]) throws {
        let weight = try Samples.normal(shape, seed: 322)
        for metric in try metrics(shape) {
            for rank in [1, 2, 5, 7] {
                let best = try LowRank.decompose(
                    weight, spec: spec(rank, "lowrank"), metric: metric
                ).reconstruct()
                let found = try Interpolative.decompose(weight, spec: spec(rank), metric: metric)
                let scale = try best.length()
                // X comes from a solve with pivots that span the columns to within √(r·(m−r))·2.
                let growth = Double(rank * shape[0]).squareRoot() * 2
                let bound = roundingBound(size: shape[0] + shape[1], steps: 4) * growth * scale
                #expect(try found.reconstruct().distance(to: best) <= bound)
                let saved = rank * rank - rank
                #expect(found.parameterCount == rank * (shape[0] + shape[1]) - saved)
            }
        }
    }

    @Test func coefficientsAreSmallAndRowsInPlace() throws {
        for seed in UInt64(330)..<336 {
            // Entries of very unequal size, as weights with outliers have.
            let weight =
                try Samples.normal([60, 40], seed: seed)
                * Samples.normal([60, 40], seed: seed + 10).exp().square()
            let stored = try Interpolative.decompose(weight, spec: spec(12), metric: nil)
            let coefficients = try #require(stored.coefficients)
            #expect(try coefficients.abs().max().item() <= 2)
            let pivots = try stored.pivots.values(as: Int32.self)
            #expect(zip(pivots, pivots.dropFirst()).allSatisfy(<))
            let matrix = try stored.reconstruct()
            for (place, pivot) in pivots.enumerated() {
                #expect(
                    try matrix.select(0, Int(pivot)).isIdentical(to: stored.rows.select(0, place)))
            }
        }
    }

    /// In bfloat16 the numbers saved do not cost accuracy: 2⁻⁹ relative per number on either side.
    @Test func bfloat16IsNoWorseThanLowRank() throws {
        let left = try Samples.normal([60, 40], seed: 340).qr().q
        let right = try Samples.normal([40, 40], seed: 341).qr().q
        let spectrum = try Tensor((0..<40).map { 1 / Double(1 + $0) })
        let weight = try (left * spectrum).matmul(right).to(dtype: .bfloat16)
        let exact = try weight.to(dtype: .float64)
        for metric in try metrics([60, 40]) {
            func error<Format: LinearWeight>(_ stored: Format) throws -> Double {
                // Multiplied in float64: rounding the product, too, would lead back to W's grid.
                let product = try Format(
                    spec: stored.spec, outputs: 60, inputs: 40,
                    tensors: stored.tensors.map {
                        $0.tensor.dtype == .bfloat16
                            ? try $0.tensor.to(dtype: .float64) : $0.tensor
                    }
                ).reconstruct()
                return try metric?.norm(product - exact) ?? product.distance(to: exact)
            }
            for rank in [4, 12] {
                let lowRank = try LowRank.decompose(
                    weight, spec: spec(rank, "lowrank"), metric: metric)
                let stored = try Interpolative.decompose(weight, spec: spec(rank), metric: metric)
                let tail = try WhitenedSVD(weight, metric: metric).squaredError(rank: rank)
                let scale = try metric?.norm(exact) ?? exact.length()
                #expect(try error(stored) <= error(lowRank) + scale * 0x1p-8, "rank \(rank)")
                #expect(try error(stored) >= tail.squareRoot() * (1 - 1e-6))
            }
        }
    }

    /// Rows without a place of their own make up for rounding where H couples them to pivots.
    @Test func compensationIsTheConditionalOptimum() throws {
        let metric = try Samples.metric(5, tokens: 50, seed: 342, outputs: 11)
        let output = try #require(metric.output)
        let difference = try Samples.normal([11, 5], seed: 343)
        let pivots: [Int] = [0, 1, 5, 8, 10]
        let others = (0..<11).filter { !pivots.contains($0) }
        let mask = try Tensor((0..<11).map { pivots.contains($0) ? 1.0 : 0 }, shape: [11, 1])
        let found = try output.compensation(of: difference * mask, fixed: mask)
        let dense = try output.dense()
        func unit(_ places: [Int]) throws -> Tensor {
            let all = try Tensor.identity(11, dtype: .float64)
            return try Tensor.cat(places.map { try all.narrow(0, $0..<$0 + 1) })
        }
        func picked(_ rows: [Int], _ columns: [Int]) throws -> Tensor {
            try unit(rows).matmul(dense).matmul(unit(columns).transpose())
        }
        let known = try Tensor.cat(pivots.map { try difference.narrow(0, $0..<$0 + 1) })
        let expected = try picked(others, others).solve(picked(others, pivots).matmul(known))
        for (place, other) in others.enumerated() {
            let distance = try found.select(0, other).distance(to: expected.select(0, place))
            // H is raised by 10⁻⁶ of its mean, its eigenvalues here are above 10⁻² of it.
            #expect(distance <= 1e-3 * (try expected.length()))
        }
        for pivot in pivots { #expect(try found.select(0, pivot).length() == 0) }
    }

    /// Values stay in the type, the error under C falls, and without correlation nothing is moved.
    @Test func roundingWithFeedbackLowersTheError() throws {
        for (size, seed) in [(40, UInt64(345)), (300, 346)] {
            let matrix = try Samples.normal([25, size], seed: seed)
            let metric = try Samples.metric(size, tokens: size / 3, seed: seed)
            let plain = try matrix.to(dtype: .bfloat16).to(dtype: .float64)
            let found = try matrix.rounded(to: .bfloat16, under: metric.input)
            let again = try found.to(dtype: .bfloat16).to(dtype: .float64)
            #expect(try again.isIdentical(to: found))
            #expect(
                try metric.norm(found - matrix) < metric.norm(plain - matrix))
            let diagonal =
                try Tensor.identity(size, dtype: .float64)
                * Samples.normal([size], seed: seed).square()
            let apart = try matrix.rounded(to: .bfloat16, under: diagonal)
            #expect(try apart.isIdentical(to: plain))
            let nothing = try matrix.rounded(to: .bfloat16, under: diagonal * 0)
            #expect(try nothing.isIdentical(to: plain))
        }
    }

    @Test func damagedPivotsAreRefused() throws {
        let weight = try Samples.normal([8, 12], seed: 344)
        let stored = try Interpolative.decompose(weight, spec: spec(3), metric: nil)
        var tensors = stored.tensors.map(\.tensor)
        for pivots in [[2, 1, 5], [1, 1, 5], [-1, 2, 5], [1, 2, 8], [0, 1, Int32.max]] {
            tensors[2] = try Tensor(pivots.map { Int32($0) })
            #expect(
                throws: FormatError.badIndices(
                    format: "interpolative", name: "pivots", count: 3, limit: 8)
            ) {
                try Interpolative(spec: spec(3), outputs: 8, inputs: 12, tensors: tensors)
            }
        }
        tensors[2] = try Tensor([Int64(1), 2, 5])
        #expect(throws: FormatError.self) {
            try Interpolative(spec: spec(3), outputs: 8, inputs: 12, tensors: tensors)
        }
    }
}
