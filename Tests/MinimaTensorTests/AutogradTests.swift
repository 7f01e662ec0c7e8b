import Glibc
import MinimaCore
import MinimaTensor
import Testing

@Suite("Gradients")
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

    @Test func recordingGoesOnInsideOfNoRecording() throws {
        let x = try Tensor.ones([2])
        try x.setRequiresGrad()
        let (inside, after) = try withoutGradients {
            (try withGradients { try x * 2 }, try x * 2)
        }
        #expect(inside.requiresGrad)
        #expect(!after.requiresGrad, "grad mode is restored")
    }

    /// The gradients at a cut of the graph go on to those of the whole.
    @Test func backPropagationGoesOnFromGivenDirections() throws {
        let (x, unused) = (try random([3, 4], seed: 1), try Tensor.ones([2], dtype: .float64))
        let probe = try random([3, 4], seed: 2)
        for leaf in [x, unused] { try leaf.setRequiresGrad() }
        let outputs = [try x.silu(), try x.square()]
        let loss = try (outputs[0] * probe).sum() + outputs[1].sum() * 3
        let expected = try #require(try loss.gradients([x], retainGraph: true)[0])
        let directions = [probe, try Tensor.full([3, 4], 3, dtype: .float64)]
        let found = try Tensor.gradients(of: outputs, along: directions, [x, unused])
        #expect(try #require(found[0]).isIdentical(to: expected))
        #expect(found[1] == nil)
        #expect(throws: TensorError.self) {
            try Tensor.gradients(of: outputs, along: [probe], [x])
        }
        #expect(try Tensor.gradients(of: [], along: [], [x]).map { $0 == nil } == [true])
    }

    @Test func wholeNumbersHaveNoGradient() throws {
        #expect(throws: TensorError.self) { try Tensor.arange(0..<2).setRequiresGrad() }
    }
}
