import FoundationEssentials
import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// The optimum under a metric of both sides.
@Suite struct WhitenedSVDTests {
    static let shapes = [[24, 36], [36, 24], [20, 20], [50, 7]]

    private func product(_ svd: WhitenedSVD, _ rank: Int) throws -> Tensor {
        let (a, b) = try svd.factors(rank: rank)
        return try a.matmul(b)
    }

    /// numpy and scipy, by the roots of both matrices and an SVD; see `make_two_sided.py`.
    @Test func agreesWithSciPy() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Goldens/formats/two_sided.json")
        let cases = try #require(JSON(parsing: Array(Data(contentsOf: file)))["cases"]?.array)
        #expect(cases.count >= 4)
        for golden in cases {
            let weight = try tensor(golden["weight"])
            let runs = try #require(golden["runs"]?.array).map { try tensor($0) }
            let metric = try Metric(
                input: tensor(golden["input"]), output: OutputMetric(runs: runs))
            let svd = try WhitenedSVD(weight, metric: metric)
            let energies = try #require(golden["energies"]?.array).compactMap(\.double)
            #expect(svd.eigenvalues.count == energies.count)
            let bound = roundingBound(size: weight.shape.reduce(0, +), steps: 4)
            for (found, expected) in zip(svd.eigenvalues, energies) {
                #expect(abs(found - expected) <= bound * energies[0])
            }
            let rank = try #require(golden["rank"]?.int)
            let expected = try tensor(golden["product"])
            // The roots' condition numbers carry the rounding errors back.
            let condition =
                try metric.input.condition() * OutputMetric(runs: runs).dense().condition()
            let gap = (energies[rank - 1] - energies[rank]) / energies[0]
            let distance = try product(svd, rank).distance(to: expected)
            #expect(distance <= bound * condition.squareRoot() / gap * (try expected.length()))
        }
    }

    private func tensor(_ json: JSON?) throws -> Tensor {
        let json = try #require(json)
        guard let list = json.array else { return try Tensor([#require(json.double)], shape: []) }
        return try Tensor.cat(list.map { try tensor($0).unsqueeze(0) })
    }

    @Test(arguments: shapes, [true, false])
    func theErrorIsTheTail(shape: [Int], hasOutput: Bool) throws {
        let weight = try Samples.normal(shape, seed: 300)
        let metric = try Samples.metric(
            shape[1], tokens: 200, seed: 301, outputs: hasOutput ? shape[0] : nil)
        let svd = try WhitenedSVD(weight, metric: metric)
        let total = try metric.squaredNorm(weight)
        let bound = roundingBound(size: shape[0] + shape[1], steps: 4) * total
        #expect(svd.eigenvalues.count == shape.min())
        #expect(abs(svd.squaredError(rank: 0) - total) <= bound)
        #expect(svd.squaredError(rank: svd.eigenvalues.count) == 0)
        #expect(svd.squaredError(rank: .max) == 0)
        for (larger, smaller) in zip(svd.eigenvalues, svd.eigenvalues.dropFirst()) {
            #expect(larger >= smaller)
        }
        for rank in stride(from: 1, through: svd.eigenvalues.count, by: 3) {
            let error = try metric.squaredNorm(product(svd, rank) - weight)
            #expect(abs(error - svd.squaredError(rank: rank)) <= bound, "rank \(rank)")
        }
        for rank in [0, -1, svd.eigenvalues.count + 1] {
            #expect(throws: TensorError.self) { try svd.factors(rank: rank) }
        }
    }

    @Test(arguments: shapes) func knowingHBeatsNotKnowingIt(shape: [Int]) throws {
        let weight = try Samples.normal(shape, seed: 302)
        let metric = try Samples.metric(shape[1], tokens: 200, seed: 303, outputs: shape[0])
        let svd = try WhitenedSVD(weight, metric: metric)
        let blind = try WhitenedSVD(weight, metric: Metric(input: metric.input))
        for rank in [1, 3, 6] {
            let best = try product(svd, rank)
            let error = try metric.squaredNorm(best - weight)
            #expect(try error < metric.squaredNorm(product(blind, rank) - weight))
            for seed in UInt64(310)..<316 {
                let (a, b) = try svd.factors(rank: rank)
                let nudge = try Samples.normal(a.shape, seed: seed) * 1e-2
                let near = try (a + nudge).matmul(b)
                #expect(try metric.squaredNorm(near - weight) > error)
            }
        }
    }

    /// H = b·I changes nothing, nor does a factor on C; blocks are what they are within one matrix.
    @Test(arguments: shapes) func equalMetricsGiveEqualResults(shape: [Int]) throws {
        let weight = try Samples.normal(shape, seed: 304)
        let metric = try Samples.metric(shape[1], tokens: 200, seed: 305, outputs: shape[0])
        let output = try #require(metric.output)
        let ones = try Tensor.ones([shape[0]], dtype: .float64)
        let pairs: [(Metric, Metric, Double)] = [
            (
                try Metric(input: metric.input),
                try Metric(input: metric.input, output: OutputMetric(diagonal: ones * 8)), 8
            ),
            (metric, try Metric(input: metric.input * 3, output: output), 3),
            (
                metric,
                try Metric(input: metric.input, output: OutputMetric(full: output.dense())), 1
            ),
        ]
        for (left, right, factor) in pairs {
            let (one, other) = try (
                WhitenedSVD(weight, metric: left), WhitenedSVD(weight, metric: right)
            )
            let bound = roundingBound(size: shape[0] + shape[1], steps: 4)
            for (small, large) in zip(one.eigenvalues, other.eigenvalues) {
                #expect(abs(small * factor - large) <= bound * other.eigenvalues[0])
            }
            let gap = (one.eigenvalues[3] - one.eigenvalues[4]) / one.eigenvalues[0]
            let condition = try metric.input.condition() * output.dense().condition()
            let distance = try product(one, 4).distance(to: product(other, 4))
            #expect(distance <= bound / gap * condition.squareRoot() * (try weight.length()))
        }
    }

    /// Where neither C nor H sees anything, the plain norm decides, and full rank stays exact.
    @Test(arguments: shapes) func singularMetricsLoseNothing(shape: [Int]) throws {
        let weight = try Samples.normal(shape, seed: 306)
        let seen = try Tensor.cat([
            Tensor.ones([shape[0] - 4], dtype: .float64), Tensor.zeros([4], dtype: .float64),
        ])
        let blind = try OutputMetric(diagonal: seen)
        let none = try OutputMetric(diagonal: seen * 0)
        let one = try Samples.normal([shape[0], 1], seed: 307)
        let single = try OutputMetric(full: one.matmul(one.transpose()))
        for output in [blind, none, single] {
            for tokens in [200, 3] {
                let input = try Samples.metric(shape[1], tokens: tokens, seed: 308).input
                let metric = try Metric(input: input, output: output)
                let svd = try WhitenedSVD(weight, metric: metric)
                let full = try product(svd, svd.eigenvalues.count)
                // H^½ is of condition 10³ at most, past the number of outputs.
                let bound =
                    roundingBound(size: shape[0] + shape[1], steps: 4) * 1e3
                    * Double(shape[0]).squareRoot() * (try weight.length())
                #expect(try full.distance(to: weight) <= bound)
                let total = try metric.squaredNorm(weight)
                for rank in [1, 4] {
                    let error = try metric.squaredNorm(product(svd, rank) - weight)
                    // The raised eigenvalues take at most their own share of the norm.
                    let raised = try 1e-6 * output.diagonal().mean().item()
                    let own = try raised * Metric(input: input).squaredNorm(weight)
                    #expect(error <= svd.squaredError(rank: rank) + 1e-9 * total + own)
                }
            }
        }
    }

    /// A tall weight is reduced by QR, a flat one is not: both are the same problem transposed.
    @Test func bothSidesAreTheSameProblem() throws {
        let weight = try Samples.normal([14, 30], seed: 309)
        let c = try Samples.metric(30, tokens: 100, seed: 310).input
        let h = try Samples.metric(14, tokens: 100, seed: 311).input
        let flat = try WhitenedSVD(
            weight, metric: Metric(input: c, output: OutputMetric(full: h)))
        let tall = try WhitenedSVD(
            weight.transpose(), metric: Metric(input: h, output: OutputMetric(full: c)))
        let bound = roundingBound(size: 44, steps: 6)
        for (left, right) in zip(flat.eigenvalues, tall.eigenvalues) {
            #expect(abs(left - right) <= bound * flat.eigenvalues[0])
        }
        let gap = (flat.eigenvalues[4] - flat.eigenvalues[5]) / flat.eigenvalues[0]
        let condition = try (c.condition() * h.condition()).squareRoot()
        let distance = try product(flat, 5).distance(to: product(tall, 5).transpose())
        #expect(distance <= bound * condition / gap * (try weight.length()))
    }
}

extension Tensor {
    /// The ratio of the largest to the smallest eigenvalue of this symmetric matrix.
    fileprivate func condition() throws -> Double {
        let values = try eigh().values.values(as: Double.self)
        return (values.last ?? 0) / (values.first ?? 0)
    }
}
