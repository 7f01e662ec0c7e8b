import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// The whitened SVD is the best approximation of its rank.
@Suite struct LowRankTests {
    private func decomposed(_ weight: Tensor, _ rank: Int, _ metric: Metric? = nil) throws
        -> LowRank
    {
        try LowRank.decompose(
            weight, spec: FormatSpec(format: "lowrank", ranks: [rank]), metric: metric)
    }

    /// Eckart & Young: the error is the tail of the spectrum of W·C^½, here by an SVD of its own.
    @Test(arguments: [[24, 36], [36, 24], [20, 20], [50, 7]], [nil, 200, 15] as [Int?])
    func errorIsTheTailOfTheSpectrum(shape: [Int], tokens: Int?) throws {
        let weight = try Samples.normal(shape, seed: 40)
        let metric = try tokens.map { try Samples.metric(shape[1], tokens: $0, seed: 41) }
        var root = try Tensor.identity(shape[1], dtype: .float64)
        if let metric {
            let (values, vectors) = try metric.input.eigh()
            root = try (vectors * values.clamp(min: 0).sqrt())
        }
        let whitened = try weight.matmul(root)
        let scale = try whitened.length()
        for rank in stride(from: 1, through: shape.min() ?? 1, by: 3) {
            let delta = try decomposed(weight, rank, metric).reconstruct() - weight
            let error = try metric?.norm(delta) ?? delta.length()
            let tail = try whitened.tailEnergy(past: rank)
            let bound = roundingBound(size: shape[0] + shape[1], steps: 2) * scale * scale
            #expect(abs(error * error - tail) <= bound, "rank \(rank)")
        }
    }

    @Test func noCompetitorOfTheSameRankIsBetter() throws {
        let weight = try Samples.normal([24, 36], seed: 42)
        for metric in [nil, try Samples.metric(36, tokens: 200, seed: 43)] {
            func error(_ matrix: Tensor) throws -> Double {
                try metric?.norm(matrix - weight) ?? matrix.distance(to: weight)
            }
            let best = try decomposed(weight, 6, metric)
            let smallest = try error(best.reconstruct())
            for seed in 50..<60 {
                let nudge = try Samples.normal([24, 6], seed: UInt64(seed)) * 1e-2
                let near = try (best.up + nudge).matmul(best.down)
                #expect(try error(near) > smallest)
                let far = try Samples.ofRank(6, 24, 36, seed: UInt64(seed))
                #expect(try error(far) > smallest)
            }
        }
    }

    /// Past the rank of C the metric is indifferent; what is left is filled by the plain norm.
    @Test(arguments: [[24, 36], [36, 24]])
    func directionsWithoutInputsFollowThePlainNorm(shape: [Int]) throws {
        let weight = try Samples.normal(shape, seed: 44)
        let metric = try Samples.metric(shape[1], tokens: 5, seed: 45)
        let scale = try metric.norm(weight)
        let five = try decomposed(weight, 5, metric)
        let bound = roundingBound(size: shape[0] + shape[1], steps: 2).squareRoot() * scale
        #expect(try metric.norm(five.reconstruct() - weight) <= bound)
        // The five directions are given; the rest must be what an SVD of the remainder keeps.
        let basis = five.up
        let remainder = try weight - basis.matmul(basis.transpose().matmul(weight))
        for rank in [6, 12, 20] {
            let error = try decomposed(weight, rank, metric).reconstruct().distance(to: weight)
            let best = try remainder.tailEnergy(past: rank - 5)
            #expect(abs(error * error - best) <= 1e-9 * (try weight.length()))
        }
    }

    /// The Gram matrix squares the spectrum; directions below √ε·σ₁ must still be told apart.
    @Test(arguments: [[24, 36], [36, 24]])
    func tinySingularValuesAreOrdered(shape: [Int]) throws {
        let left = try Samples.normal([shape[0], 24], seed: 46).qr().q
        let right = try Samples.normal([shape[1], 24], seed: 47).qr().q
        let spectrum = try Tensor((0..<24).map { $0 < 6 ? 1.0 : 1e-10 * Double(30 - $0) })
        let weight = try (left * spectrum).matmul(right.transpose())
        for rank in [6, 8, 16, 23] {
            let error = try decomposed(weight, rank).reconstruct().distance(to: weight)
            let tail = try spectrum.narrow(0, rank..<24).length()
            #expect(abs(error - tail) <= 1e-2 * tail, "rank \(rank)")
        }
    }

    @Test func theUpFactorIsOrthonormal() throws {
        let weight = try Samples.normal([24, 36], seed: 48)
        for metric in [nil, try Samples.metric(36, tokens: 5, seed: 49)] {
            let up = try decomposed(weight, 12, metric).up
            let identity = try Tensor.identity(12, dtype: .float64)
            let bound = roundingBound(size: 24 + 36, steps: 2)
            #expect(try up.transpose().matmul(up).distance(to: identity) <= bound)
        }
    }

    /// Rounding to bfloat16 is relative, so rescaling the factors by powers of two moves nothing.
    @Test func balancingTheFactorsWouldNotHelpBFloat16() throws {
        let weight = try Samples.normal([24, 36], seed: 50)
        let stored = try decomposed(weight, 8)
        func rounded(_ scale: Double) throws -> Tensor {
            let up = try (stored.up * scale).to(dtype: .bfloat16).to(dtype: .float64)
            let down = try (stored.down / scale).to(dtype: .bfloat16).to(dtype: .float64)
            return try up.matmul(down)
        }
        let plain = try rounded(1)
        for scale in [0.25, 2, 64] {
            #expect(try rounded(scale).isIdentical(to: plain))
        }
    }
}
