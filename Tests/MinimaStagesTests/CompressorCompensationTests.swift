import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Compensation")
struct CompressorCompensationTests {
    /// Inputs of a dense and of a compressed model, as rows.
    private func inputs(tokens: Int, width: Int) throws -> (x: Tensor, y: Tensor) {
        let generator = try RandomGenerator(seed: 7)
        let x = try Tensor.randn([tokens, width], dtype: .float64, generator: generator)
        let noise = try Tensor.randn([tokens, width], dtype: .float64, generator: generator)
        return (x, try x * 0.8 + noise * 0.3)
    }

    private func moments(_ x: Tensor, _ y: Tensor) throws -> (moment: Tensor, cross: Tensor) {
        let count = Double(x.shape[0])
        return (
            try y.transpose().matmul(y) / count, try (x - y).transpose().matmul(y) / count
        )
    }

    @Test("targets are W·(Ĉ + βE)·Ĉ⁻¹", arguments: [5, 40], [0, 0.5, 0.9])
    func formula(outputs: Int, share: Double) throws {
        let (x, y) = try inputs(tokens: 300, width: 20)
        let (moment, cross) = try moments(x, y)
        let weight = try Tensor.randn(
            [outputs, 20], dtype: .float64, generator: RandomGenerator(seed: 1))
        let targets = try CompensatedTargets(
            weight, moment: moment, cross: cross, ridge: 0, site: "s")
        let found = try targets(share)
        let right = try weight.matmul(moment + cross * share).transpose()
        let expected = try moment.solve(right).transpose()
        let scale = try expected.norm().item()
        // The least damping, √ε of the mean diagonal, over the least eigenvalue.
        let least = try #require(try moment.eigh().values.values(as: Double.self).first)
        let damping =
            try DType.float64.epsilon.squareRoot() * moment.diagonal().mean().item() / least
        #expect(try (found - expected).norm().item() <= 2 * damping * scale)
        // It minimises (1 − β)·‖WX̂ − TX̂‖² + β·‖WX − TX̂‖².
        func loss(_ target: Tensor) throws -> Double {
            let (own, dense) = (
                try y.linear(weight - target), try x.linear(weight) - y.linear(target)
            )
            return try (1 - share) * own.square().sum().item()
                + share * dense.square().sum().item()
        }
        let smallest = try loss(found)
        let generator = try RandomGenerator(seed: 2)
        for _ in 0..<4 {
            let step = try Tensor.randn(found.shape, dtype: .float64, generator: generator)
            #expect(try loss(found + step * 1e-3) > smallest)
        }
    }

    @Test func fewTokensLeaveTheRestAlone() throws {
        let (x, y) = try inputs(tokens: 6, width: 24)
        let (moment, cross) = try moments(x, y)
        let weight = try Tensor.randn(
            [10, 24], dtype: .float64, generator: RandomGenerator(seed: 1))
        for ridge in [0, 1e-6, 1e-2] {
            let target = try CompensatedTargets(
                weight, moment: moment, cross: cross, ridge: ridge, site: "s")(0.75)
            // A direction that no input has.
            let (_, vectors) = try moment.eigh()
            let unseen = try vectors.narrow(1, 0..<12)
            let change = try (target - weight).matmul(unseen).norm().item()
            // Rounding errors of 24-term products, divided by the least damping.
            let rounding = 24 * DType.float64.epsilon.squareRoot()
            #expect(change <= rounding * (try weight.norm().item()))
            #expect(try (target - weight).norm().item() > 1e-3)
        }
        #expect(throws: CompressionError.singular(site: "s")) {
            let zero = try Tensor.zeros([24, 24], dtype: .float64)
            _ = try CompensatedTargets(weight, moment: zero, cross: zero, ridge: 0.1, site: "s")
        }
    }

    @Test("on text that was not calibrated on, compensation lowers KL")
    func heldOutDivergence() throws {
        let scratch = try Scratch()
        let parent = try exampleModel()
        let model = try parent.loadModel()
        let text = try sampledText(model, windows: 28, length: 72, seed: 11)
        let (calibration, heldOut) = (Array(text[..<24]), Array(text[24...]))
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.35, format: LowRank.name, version: "test")
        var divergence: [String: Double] = [:]
        for compensation in [Compensation.off, .fixed(0.5), .automatic] {
            var request = try compression(
                parent, plan, compensation: compensation,
                sources: [CalibrationSource(name: "self", windows: calibration)])
            request.tokensPerPass = 2048
            let output = "\(scratch.path)/\(compensation)"
            let result = try Compressor(parent, request).run(output: output)
            let small = try Checkpoint(path: output).loadModel()
            let measured = try Evaluator(small, against: model).measure(heldOut)
            divergence["\(compensation)"] = measured.kl
            let shares = Set(result.modules.compactMap(\.compensation))
            #expect(
                shares.isSubset(of: compensation == .fixed(0.5) ? [0.5] : [0, 0.25, 0.5, 0.75]))
            #expect((compensation == .automatic) == (shares.count > 1))
        }
        let off = try #require(divergence["off"])
        let half = try #require(divergence["0.5"])
        let chosen = try #require(divergence["auto"])
        #expect(half < off && chosen < off, "\(divergence)")
    }
}
