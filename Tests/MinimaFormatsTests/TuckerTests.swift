import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// HOSVD and HOOI keep their error bounds.
@Suite struct TuckerTests {
    private static let ranks = [
        [1, 1, 1], [2, 3, 4], [3, 5, 10], [4, 6, 12], [4, 2, 8], [1, 6, 6],
    ]

    private func spec(_ ranks: [Int]) -> FormatSpec {
        FormatSpec(format: "tucker", outputModes: [4, 6], inputModes: [36], ranks: ranks)
    }

    /// Squared tails of the three unfoldings of W.
    private func tails(_ weight: Tensor, _ ranks: [Int]) throws -> [Double] {
        let tensor = try weight.reshape([4, 6, 36])
        return try ranks.indices.map { mode in
            let others = [0, 1, 2].filter { $0 != mode }
            return try tensor.permute([mode] + others).reshape([tensor.shape[mode], -1])
                .tailEnergy(past: ranks[mode])
        }
    }

    @Test(arguments: ranks) func errorLiesBetweenTheTails(ranks: [Int]) throws {
        for seed in 60..<64 {
            let weight = try Samples.normal([24, 36], seed: UInt64(seed))
            let norm = try weight.length()
            let slack = roundingBound(size: 24 + 36, steps: 4) * norm * norm
            let tails = try tails(weight, ranks)
            var last = Double.infinity
            for sweeps in [1, 2, 4] {
                let error = try Tucker.decompose(
                    weight, spec: spec(ranks), metric: nil, sweeps: sweeps
                ).reconstruct().distance(to: weight)
                #expect(error * error <= tails.reduce(0, +) + slack)
                #expect(error * error >= (tails.max() ?? 0) - slack)
                #expect(error <= last + slack)
                last = error
            }
        }
    }

    /// The projections alone, as De Lathauwer et al. define HOSVD.
    @Test(arguments: ranks) func theTruncatedHOSVDKeepsItsBound(ranks: [Int]) throws {
        let weight = try Samples.normal([24, 36], seed: 65)
        let tensor = try weight.reshape([4, 6, 36])
        let factors = try TuckerSolver.hosvd(tensor, ranks: ranks)
        let core = try TuckerSolver.project(tensor, factors, except: nil)
        let back = try TuckerSolver.project(core, factors.map { try $0.transpose() }, except: nil)
        let (error, tails) = (try back.distance(to: tensor), try tails(weight, ranks))
        let slack = roundingBound(size: 24 + 36, steps: 4) * (try weight.length() * weight.length())
        #expect(error * error <= tails.reduce(0, +) + slack)
        #expect(error * error >= (tails.max() ?? 0) - slack)
    }

    @Test func sweepsHelpWhereHOSVDIsNotOptimal() throws {
        let weight = try Samples.normal([24, 36], seed: 66)
        let spec = spec([2, 3, 4])
        func error(_ sweeps: Int) throws -> Double {
            try Tucker.decompose(weight, spec: spec, metric: nil, sweeps: sweeps)
                .reconstruct().distance(to: weight)
        }
        let tensor = try weight.reshape([4, 6, 36])
        let core = try TuckerSolver.project(
            tensor, TuckerSolver.hosvd(tensor, ranks: spec.ranks), except: nil)
        let lost = try tensor.length() * tensor.length() - core.length() * core.length()
        #expect(try error(1) < lost.squareRoot())
        #expect(try error(4) < error(1))
    }

    /// With both output modes whole, Tucker is low rank in the input mode, metric or not.
    @Test(arguments: [nil, 200, 8] as [Int?])
    func wholeOutputModesGiveTheWhitenedSVD(tokens: Int?) throws {
        let weight = try Samples.normal([24, 36], seed: 67)
        let metric = try tokens.map { try Samples.metric(36, tokens: $0, seed: 68) }
        let tucker = try Tucker.decompose(weight, spec: spec([4, 6, 7]), metric: metric)
        let lowRank = try LowRank.decompose(
            weight, spec: FormatSpec(format: "lowrank", ranks: [7]), metric: metric)
        let distance = try tucker.reconstruct().distance(to: lowRank.reconstruct())
        let bound = roundingBound(size: 24 + 36, steps: 4) * (try weight.length())
        #expect(distance <= bound)
    }

    @Test func aTuckerWeightIsFoundAgain() throws {
        let spec = spec([2, 3, 4])
        let weight = try Tensor.einsum(
            "abc,oa,pb,ic->opi", Samples.normal([2, 3, 4], seed: 70),
            Samples.normal([4, 2], seed: 71), Samples.normal([6, 3], seed: 72),
            Samples.normal([36, 4], seed: 73)
        ).reshape([24, 36])
        let found = try Tucker.decompose(weight, spec: spec, metric: nil).reconstruct()
        let bound = roundingBound(size: 24 + 36, steps: 4) * (try weight.length())
        #expect(try found.distance(to: weight) <= bound)
    }

    @Test func ranksThatOthersCannotFeedAreRefused() {
        #expect(
            throws: FormatError.rankOutOfRange(
                format: "tucker", rank: 7, position: 2, allowed: 1...6)
        ) {
            try Tucker.layout(spec([2, 3, 7]), outputs: 24, inputs: 36)
        }
        #expect(throws: FormatError.self) {
            try Tucker.spec(fitting: 1000, outputModes: [24], inputModes: [36])
        }
        #expect(throws: FormatError.self) {
            try Tucker.spec(fitting: 1000, outputModes: [Int.max, 2], inputModes: [36])
        }
    }

    /// Both orders of the output factors occur, and the count is that of the cheaper.
    @Test func multiplyAddsAreThoseOfTheCheaperOrder() throws {
        for (modes, ranks) in [
            ([4, 6], [1, 5, 5]), ([4, 6], [4, 1, 4]), ([2, 12], [2, 3, 6]),
        ] {
            let spec = FormatSpec(
                format: "tucker", outputModes: modes, inputModes: [36], ranks: ranks)
            let weight = try Samples.normal([24, 36], seed: 74)
            let stored = try Tucker.decompose(weight, spec: spec, metric: nil)
            let start = 36 * ranks[2] + (ranks[0] * ranks[1] - ranks[2]) * ranks[2]
            let first = (modes[0] - ranks[0]) * ranks[0]
            let second = (modes[1] - ranks[1]) * ranks[1]
            let firstFirst = ranks[1] * first + modes[0] * second
            let secondFirst = ranks[0] * second + modes[1] * first
            #expect(stored.multiplyAdds == start + min(firstFirst, secondFirst))
            let x = try Samples.normal([3, 36], seed: 75)
            let error = try stored.forward(x).distance(to: x.linear(stored.reconstruct()))
            #expect(
                try error <= roundingBound(size: 24 + 36, steps: 4) * x.length() * weight.length())
        }
    }
}
