import Glibc
import MinimaCore
import MinimaTensor
import Testing

@Suite("Gradients and optimisers")
struct AutogradTests {
    @Test func gradientsAgreeWithFiniteDifferences() throws {
        let x = try random([3, 4], seed: 1)
        let weight = try random([4], seed: 2)
        func loss(_ x: Tensor) throws -> Tensor {
            let normed = try x.rmsNorm(weight, epsilon: 1e-6)
            return try (normed.silu() * x.softmax()).sum()
        }
        try x.setRequiresGrad()
        #expect(x.requiresGrad)
        let gradient = try #require(try loss(x).gradients([x])[0])
        // Central differences: error h²·|f‴|/6 + n·ε·|f|/h, least near h = ε^⅓. The third
        // derivative is a difference itself, whose error is least near ε^⅕.
        let epsilon = DType.float64.epsilon
        let (h, wide) = (pow(epsilon, 1.0 / 3), pow(epsilon, 0.2))
        let base: [Double] = try x.detach().values()
        let found: [Double] = try gradient.values()
        for index in base.indices {
            func moved(_ step: Double) throws -> Double {
                var values = base
                values[index] += step
                return try loss(Tensor(values, shape: [3, 4])).item()
            }
            let difference = try (moved(h) - moved(-h)) / (2 * h)
            let third =
                try (moved(2 * wide) - 2 * moved(wide) + 2 * moved(-wide) - moved(-2 * wide))
                / (2 * wide * wide * wide)
            let rounding = try Double(base.count) * epsilon * abs(moved(0)) / h
            #expect(abs(found[index] - difference) <= h * h * abs(third) / 6 + rounding)
        }
    }

    @Test func unusedInputsHaveNoGradient() throws {
        let (x, y) = (try Tensor.ones([2]), try Tensor.ones([2]))
        try x.setRequiresGrad()
        try y.setRequiresGrad()
        let gradients = try (x * 3).sum().gradients([x, y])
        #expect(try gradients[0]?.values(as: Float.self) == [3, 3])
        #expect(gradients[1] == nil)
    }

    @Test func gradientsOfGradients() throws {
        let x = try Tensor([2.0])
        try x.setRequiresGrad()
        let cube = try (x * x * x).sum()
        let first = try #require(try cube.gradients([x], createGraph: true)[0])
        let second = try #require(try first.sum().gradients([x])[0])
        #expect(try first.item() == 12)
        #expect(try second.item() == 12)
    }

    @Test func nothingIsRecordedWithoutGradients() throws {
        let x = try Tensor.ones([2])
        try x.setRequiresGrad()
        let y = try withoutGradients { try x * 2 }
        #expect(!y.requiresGrad)
        #expect(try (x * 2).requiresGrad)
        #expect(throws: TensorError.self) { try y.sum().gradients([x]) }
        struct Failure: Error {}
        #expect(throws: Failure.self) { try withoutGradients { throw Failure() } }
        #expect(try (x * 2).requiresGrad, "grad mode is restored after an error")
    }

    @Test func wholeNumbersHaveNoGradient() throws {
        #expect(throws: TensorError.self) { try Tensor.arange(0..<2).setRequiresGrad() }
    }

    @Test("AdamW follows PyTorch's trajectory")
    func adamW() throws {
        let golden = try TensorGoldens()
        let names = ["w1", "b1", "w2", "b2"]
        let parameters = try names.map { try golden("adamw.\($0).0").clone() }
        let matrices = try AdamW(
            [parameters[0], parameters[2]],
            .init(learningRate: 1e-2, betas: (0.9, 0.95), weightDecay: 0.1))
        let biases = try AdamW(
            [parameters[1], parameters[3]],
            .init(learningRate: 3e-2, betas: (0.9, 0.999), weightDecay: 0))
        for parameter in parameters { try parameter.setRequiresGrad() }
        let (x, y) = (try golden("adamw.x"), try golden("adamw.y"))
        for step in 0..<10 {
            let hidden = try Operator("aten::tanh")(
                .tensor(x.linear(parameters[0], bias: parameters[1])))
            let error = try hidden.linear(parameters[2], bias: parameters[3]) - y
            let gradients = try error.square().mean().gradients(parameters)
            try matrices.step([gradients[0], gradients[2]])
            try biases.step([gradients[1], gradients[3]])
            for (name, parameter) in zip(names, parameters) {
                // Ten steps of float32 rounding on values of about 1.
                let expected = try golden("adamw.\(name).\(step + 1)")
                #expect(
                    try distance(parameter.detach(), expected)
                        <= 8 * Double(step + 1) * DType.float32.epsilon, "\(name) after \(step)")
            }
        }
    }

    @Test("AdamW's epsilon stands outside the root")
    func adamWEpsilon() throws {
        let golden = try TensorGoldens()
        let p = try golden("quadratic.p.0").clone()
        let (a, b) = (try golden("quadratic.a"), try golden("quadratic.b"))
        let optimiser = try AdamW(
            [p], .init(learningRate: 1e-2, betas: (0.9, 0.95), epsilon: 1e-3, weightDecay: 0.1))
        for step in 1...10 {
            try optimiser.step([a.matmul(p.unsqueeze(1)).squeeze(1) - b])
            #expect(
                try distance(p, golden("quadratic.p.\(step)"))
                    <= 8 * Double(step) * DType.float32.epsilon)
        }
    }

    @Test func adamWRefusesAnotherNumberOfGradients() throws {
        let p = try Tensor.ones([2])
        let optimiser = try AdamW([p])
        #expect(throws: TensorError.self) { try optimiser.step([]) }
        try optimiser.step([nil])
        #expect(try p.values(as: Float.self) == [1, 1])
    }
}
