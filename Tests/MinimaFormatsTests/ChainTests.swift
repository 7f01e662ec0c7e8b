import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Tensor train and tensor ring: error bounds, and the chain of cores that both are.
@Suite struct ChainTests {
    private static let modes = [
        ([4, 6], [6, 6]), ([2, 3, 4], [3, 3, 4]), ([4, 3, 2], [2, 3, 6]),
        ([2, 3, 2, 2], [3, 2, 2, 3]), ([1, 24, 1], [6, 1, 6]),
    ]

    /// Squared tails of the unfoldings of W past each inner bond.
    private func tails(_ weight: Tensor, _ chain: CoreChain, _ ranks: [Int]) throws -> [Double] {
        let paired = try chain.paired(weight)
        return try ranks.enumerated().map { index, rank in
            let rows = chain.pairs[...index].reduce(1, *)
            return try paired.reshape([rows, -1]).tailEnergy(past: rank)
        }
    }

    @Test(arguments: modes, [0.15, 0.4, 0.65, 0.9])
    func ttSVDKeepsItsBounds(modes: ([Int], [Int]), share: Double) throws {
        let budget = Int(share * 24 * 36)
        guard
            let spec = try? TensorTrain.spec(
                fitting: budget, outputModes: modes.0, inputModes: modes.1)
        else { return #expect(share < 0.3 || modes.0 == [1, 24, 1]) }
        let chain = CoreChain(outputModes: modes.0, inputModes: modes.1, bonds: [1] + spec.ranks)
        #expect(chain.gaugedCount <= budget)
        for seed in 80..<83 {
            let weight = try Samples.normal([24, 36], seed: UInt64(seed))
            let stored = try TensorTrain.decompose(weight, spec: spec, metric: nil)
            let error = try stored.reconstruct().distance(to: weight)
            let tails = try tails(weight, chain, spec.ranks)
            let norm = try weight.length()
            let slack = roundingBound(size: 24 + 36, steps: 4) * norm * norm
            #expect(error * error <= tails.reduce(0, +) + slack)
            #expect(error * error >= (tails.max() ?? 0) - slack)
        }
    }

    @Test(arguments: modes) func fullBondsAreExactAtAnyOrder(modes: ([Int], [Int])) throws {
        let weight = try Samples.normal([24, 36], seed: 84)
        let bound = roundingBound(size: 24 + 36, steps: 4) * (try weight.length())
        let train = try TensorTrain.decompose(
            weight,
            spec: TensorTrain.spec(fitting: .max, outputModes: modes.0, inputModes: modes.1),
            metric: nil)
        #expect(try train.reconstruct().distance(to: weight) <= bound)
        let ring = try TensorRing.decompose(
            weight, spec: TensorRing.spec(fitting: .max, outputModes: modes.0, inputModes: modes.1),
            metric: nil)
        #expect(try ring.reconstruct().distance(to: weight) <= bound)
    }

    @Test(arguments: modes, [0.3, 0.65])
    func ringsForwardAndImprove(modes: ([Int], [Int]), share: Double) throws {
        guard
            let spec = try? TensorRing.spec(
                fitting: Int(share * 24 * 36), outputModes: modes.0, inputModes: modes.1)
        else { return #expect(share < 0.5) }
        for weight in [
            try Samples.normal([24, 36], seed: 85), try Samples.ofRank(4, 24, 36, seed: 86),
        ] {
            let started = try TensorRing.decompose(weight, spec: spec, metric: nil, sweeps: 0)
            let improved = try TensorRing.decompose(weight, spec: spec, metric: nil)
            let before = try started.reconstruct().distance(to: weight)
            let after = try improved.reconstruct().distance(to: weight)
            #expect(after <= before)
            #expect(before <= (try weight.length()))
            let x = try Samples.normal([2, 3, 36], seed: 87)
            let error = try improved.forward(x).distance(to: x.linear(improved.reconstruct()))
            var norms = try x.length()
            for (_, core) in improved.tensors { norms *= try core.length() }
            #expect(error <= roundingBound(size: 24 + 36, steps: 4) * norms)
        }
    }

    /// A real ring (closing bond above 1) beats TR-SVD by alternating least squares.
    @Test func alternatingLeastSquaresGains() throws {
        let weight = try Samples.normal([24, 36], seed: 88)
        let spec = FormatSpec(
            format: "tr", outputModes: [2, 3, 4], inputModes: [3, 3, 4], ranks: [2, 3, 5])
        let before = try TensorRing.decompose(weight, spec: spec, metric: nil, sweeps: 0)
            .reconstruct().distance(to: weight)
        let after = try TensorRing.decompose(weight, spec: spec, metric: nil)
            .reconstruct().distance(to: weight)
        #expect(after < before * 0.99)
    }

    /// Bonds that TR-SVD cannot fill make the normal equations singular; no sweep may lose by it.
    @Test(arguments: [[4, 4, 2], [6, 4, 2], [4, 6, 3], [5, 5, 5]])
    func alternatingLeastSquaresNeverLoses(ranks: [Int]) throws {
        let spec = FormatSpec(
            format: "tr", outputModes: [2, 3, 4], inputModes: [3, 3, 4], ranks: ranks)
        for seed in 200..<204 {
            let noise = try Samples.normal([24, 36], seed: UInt64(seed))
            for weight in [noise, try Samples.ofRank(1, 24, 36, seed: 210) + noise * 1e-6] {
                let before = try TensorRing.decompose(weight, spec: spec, metric: nil, sweeps: 0)
                    .reconstruct().distance(to: weight)
                let after = try TensorRing.decompose(weight, spec: spec, metric: nil)
                    .reconstruct().distance(to: weight)
                let rounding = roundingBound(size: 24 + 36, steps: 3) * (try weight.length())
                #expect(after <= before + rounding)
            }
        }
    }

    /// At order 2 a ring is a train whose bond is the product of the ring's.
    @Test func aRingOfTwoIsATrain() throws {
        let weight = try Samples.normal([24, 36], seed: 89)
        func spec(_ format: String, _ ranks: [Int]) -> FormatSpec {
            FormatSpec(format: format, outputModes: [4, 6], inputModes: [6, 6], ranks: ranks)
        }
        let ring = try TensorRing.decompose(weight, spec: spec("tr", [3, 4]), metric: nil)
        let train = try TensorTrain.decompose(weight, spec: spec("tt", [12]), metric: nil)
        // The train's one bond is fixed whole, of the ring's two only r₁ = 4.
        #expect(train.parameterCount == (24 - 12) * 12 + 12 + 12 * 36)
        #expect(ring.parameterCount == (3 * 24 - 4) * 4 + 4 + 4 * 36 * 3)
        let bound = roundingBound(size: 24 + 36, steps: 2) * (try weight.length())
        #expect(try ring.reconstruct().distance(to: train.reconstruct()) <= bound)
    }

    @Test func aTrainOfOneSplitSideIsLowRank() throws {
        let weight = try Samples.normal([24, 36], seed: 90)
        let train = try TensorTrain.decompose(
            weight,
            spec: FormatSpec(
                format: "tt", outputModes: [24, 1], inputModes: [1, 36], ranks: [5]), metric: nil)
        let lowRank = try LowRank.decompose(
            weight, spec: FormatSpec(format: "lowrank", ranks: [5]), metric: nil)
        let bound = roundingBound(size: 24 + 36, steps: 2) * (try weight.length())
        #expect(try train.reconstruct().distance(to: lowRank.reconstruct()) <= bound)
        #expect(train.multiplyAdds == lowRank.multiplyAdds - 5 * 5)
        #expect(train.parameterCount == lowRank.parameterCount - 5 * 5 + 5)
    }

    @Test func bondsThatNeighboursCannotFillAreRefused() {
        func refused(_ format: any LinearWeight.Type, _ ranks: [Int], _ position: Int) -> Bool {
            let spec = FormatSpec(
                format: format.name, outputModes: [2, 3, 4], inputModes: [3, 3, 4], ranks: ranks)
            do throws(FormatError) {
                _ = try format.layout(spec, outputs: 24, inputs: 36)
                return false
            } catch {
                guard case .rankOutOfRange(_, _, position, _) = error else { return false }
                return true
            }
        }
        #expect(refused(TensorTrain.self, [7, 3], 0))
        #expect(refused(TensorTrain.self, [1, 10], 1))
        #expect(refused(TensorTrain.self, [1, 0], 1))
        #expect(refused(TensorTrain.self, [Int.max, 1], 0))
        #expect(refused(TensorRing.self, [1, 7, 1], 1))
        #expect(refused(TensorRing.self, [17, 1, 1], 0))
        #expect(!refused(TensorRing.self, [3, 7, 4], 1))
    }

    @Test func groupsOfTokensGiveTheSame() throws {
        let chain = CoreChain(outputModes: [4, 6], inputModes: [6, 6], bonds: [2, 5])
        let path = chain.cheapestPath()
        var cores: [Tensor] = []
        for (index, shape) in chain.coreShapes.enumerated() {
            cores.append(try Samples.normal(shape, seed: UInt64(93 + index)))
        }
        let x = try Samples.normal([7, 36], seed: 95)
        let whole = try chain.forward(x, cores, along: path)
        let norms = try x.length() * cores[0].length() * cores[1].length()
        for limit in [1, path.largestState * 2, path.largestState * 3 + 1] {
            let grouped = try chain.forward(x, cores, along: path, stateLimit: limit)
            #expect(grouped.shape == [7, 24])
            #expect(try grouped.distance(to: whole) <= roundingBound(size: 60, steps: 2) * norms)
        }
    }

    /// As many cores as a stored specification may have: computed or refused, never a trap.
    @Test(arguments: [20, 64]) func longChainsAreHandled(order: Int) throws {
        let padding = Array(repeating: 1, count: order - 2)
        let spec = FormatSpec(
            format: "tt", outputModes: [4] + padding + [6], inputModes: [6] + padding + [6],
            ranks: Array(repeating: 12, count: order - 1))
        let weight = try Samples.normal([24, 36], seed: 91)
        let x = try Samples.normal([3, 36], seed: 92)
        do {
            let stored = try TensorTrain.decompose(weight, spec: spec, metric: nil)
            let error = try stored.forward(x) - x.linear(stored.reconstruct())
            var norms = try (x.norm() * weight.norm()).item()
            norms *= roundingBound(size: 24 + 36, steps: order)
            #expect(try error.norm().item() <= norms)
        } catch let error as TensorError {
            // libtorch's operators stop at 64 dimensions.
            #expect(order == 64, "\(error)")
        }
    }
}
