import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
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

    private func moments(_ x: Tensor, _ y: Tensor, lost: Tensor? = nil) throws
        -> InputMoments.Compressed
    {
        let count = Double(x.shape[0])
        return InputMoments.Compressed(
            moment: try y.transpose().matmul(y) / count,
            cross: try (x - y).transpose().matmul(y) / count,
            residual: try lost.map { try $0.transpose().matmul(y) / count })
    }

    @Test(
        "targets are [W·(Ĉ + βE) + βF]·Ĉ⁻¹",
        arguments: [(5, false), (40, false), (5, true), (40, true)], [0, 0.5, 0.9])
    func formula(shape: (outputs: Int, addsToResidual: Bool), share: Double) throws {
        let (x, y) = try inputs(tokens: 300, width: 20)
        let outputs = shape.outputs
        // What the residual stream has lost goes along with what the inputs have.
        let mix = try Tensor.randn(
            [outputs, 20], dtype: .float64, generator: RandomGenerator(seed: 3))
        let lost =
            try shape.addsToResidual
            ? (x - y).linear(mix)
            : Tensor.zeros(
                [300, outputs], dtype: .float64)
        let all = try moments(x, y, lost: shape.addsToResidual ? lost : nil)
        let (moment, cross) = (all.moment, all.cross)
        let weight = try Tensor.randn(
            [outputs, 20], dtype: .float64, generator: RandomGenerator(seed: 1))
        let targets = try CompensatedTargets(weight, all, ridge: 0, site: "s")
        let found = try targets(share)
        let residual = try lost.transpose().matmul(y) / 300
        let right = try (weight.matmul(moment + cross * share) + residual * share).transpose()
        let expected = try moment.solve(right).transpose()
        let scale = try expected.norm().item()
        // The least damping, √ε of the mean diagonal, over the least eigenvalue.
        let least = try #require(try moment.eigh().values.values(as: Double.self).first)
        let damping =
            try DType.float64.epsilon.squareRoot() * moment.diagonal().mean().item() / least
        #expect(try (found - expected).norm().item() <= 2 * damping * scale)
        // It minimises (1 − β)·‖WX̂ − TX̂‖² + β·‖R + WX − R̂ − TX̂‖².
        func loss(_ target: Tensor) throws -> Double {
            let (own, dense) = (
                try y.linear(weight - target), try x.linear(weight) + lost - y.linear(target)
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
        let moments = try moments(x, y)
        let weight = try Tensor.randn(
            [10, 24], dtype: .float64, generator: RandomGenerator(seed: 1))
        for ridge in [0, 1e-6, 1e-2] {
            let target = try CompensatedTargets(
                weight, moments, ridge: ridge, site: "s")(0.75)
            // A direction that no input has.
            let (_, vectors) = try moments.moment.eigh()
            let unseen = try vectors.narrow(1, 0..<12)
            let change = try (target - weight).matmul(unseen).norm().item()
            // Rounding errors of 24-term products, divided by the least damping.
            let rounding = 24 * DType.float64.epsilon.squareRoot()
            #expect(change <= rounding * (try weight.norm().item()))
            #expect(try (target - weight).norm().item() > 1e-3)
        }
        #expect(throws: CompressionError.singular(site: "s")) {
            let zero = try Tensor.zeros([24, 24], dtype: .float64)
            let moments = InputMoments.Compressed(moment: zero, cross: zero)
            _ = try CompensatedTargets(weight, moments, ridge: 0.1, site: "s")
        }
    }

    /// What is measured in two models that run side by side, against what a compression stored.
    ///
    /// Its products are summed in float32 over 64 tokens at a time, and the damping bounds what
    /// dividing by Ĉ makes of their errors; the target is stored in float32.
    @Test("a lossless module stores its target", arguments: ["self_attn.o_proj", "mlp.down_proj"])
    func residualStream(role: String) throws {
        let scratch = try Scratch()
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let sites = try parent.sites()
        let first = try #require(sites.first { $0.addsToResidual })
        let site = try #require(sites.first { $0.layer == 1 && $0.name.hasSuffix(role) })
        let full = min(site.outputs, site.inputs)
        let plan = MinimaStagesTests.plan(
            parent,
            [(first, 2), (site, full)].map { site, rank in
                (
                    site.name, [site.outputs, site.inputs],
                    FormatSpec(format: LowRank.name, ranks: [rank])
                )
            })
        let (share, ridge) = (0.5, 0.01)
        var request = try compression(parent, plan, compensation: .fixed(share))
        request.ridge = ridge
        _ = try Compressor(parent, request).run(output: "\(scratch.path)/small")
        let small = try Checkpoint(path: "\(scratch.path)/small").loadModel()
        let dense = try parent.loadModel()
        // Rows of the site's inputs, and of the residual stream that it adds to.
        func rows(_ model: any LanguageModel) throws -> (input: Tensor, stream: Tensor) {
            var chain = try ActivationChain(
                TokenBatch.batches(request.sources, tokensPerPass: 64), embeddedBy: model)
            try chain.advance(layer: model)
            var (inputs, streams) = ([Tensor](), [Tensor]())
            for index in chain.batches.indices {
                _ = try chain.output(index, of: model) { name, x, _ in
                    if name == site.name { inputs.append(x) }
                } residualObserver: { name, stream in
                    if name == site.name { streams.append(stream) }
                }
            }
            func joined(_ parts: [Tensor]) throws -> Tensor {
                try Tensor.cat(parts).to(dtype: .float64).reshape([-1, parts[0].shape[2]])
            }
            return (try joined(inputs), try joined(streams))
        }
        let (x, y) = (try rows(dense), try rows(small))
        let weight = try parent.tensor("\(site.name).weight").to(dtype: .float64)
        let moments = try moments(x.input, y.input, lost: x.stream - y.stream)
        let target = try CompensatedTargets(weight, moments, ridge: ridge, site: "s")(share)
        let stored = try Checkpoint(path: "\(scratch.path)/small")
        let found = try stored.tensor("\(site.name).cores.1").to(dtype: .float64)
            .matmul(stored.tensor("\(site.name).cores.0").to(dtype: .float64))
        let shift = try (target - weight).norm().item()
        let bound = try 64 * 0x1p-23 / ridge * shift + 64 * 0x1p-23 * target.norm().item()
        #expect(try (found - target).norm().item() <= bound)
        // Without the stream's share it would be another one.
        let alone = InputMoments.Compressed(moment: moments.moment, cross: moments.cross)
        let other = try CompensatedTargets(weight, alone, ridge: ridge, site: "s")(share)
        #expect(try (other - target).norm().item() > 10 * bound)
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
