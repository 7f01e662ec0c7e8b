import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

@testable import MinimaModels

/// Layers that form their matrix for many rows, against the weight's own contraction.
@Suite("Linear layers")
struct LinearTests {
    private let outputs = 48
    private let inputs = 40

    private func weight(_ spec: FormatSpec) throws -> any LinearWeight {
        let generator = try RandomGenerator(seed: 3)
        return try FormatRegistry.format(spec.format).decompose(
            Tensor.randn([outputs, inputs], generator: generator).to(dtype: .float64),
            spec: spec, metric: nil)
    }

    /// Of ranks that cost 1.4 and 1.65 times the matrix, the second is multiplied out from 256 rows on.
    @Test(arguments: [(36, 300, true), (36, 255, false), (30, 300, false)])
    func manyRowsGoThroughTheMatrix(rank: Int, rows: Int, isFormed: Bool) throws {
        let weight = try weight(FormatSpec(format: "lowrank", ranks: [rank]))
        #expect(weight.multiplyAdds == rank * (outputs + inputs))
        #expect(Linear.isDenseCheaper(weight, rows: rows) == isFormed)
        let generator = try RandomGenerator(seed: 4)
        let x = try Tensor.randn([1, rows, inputs], generator: generator).to(dtype: .float64)
        let bias = try Tensor.randn([outputs], generator: generator).to(dtype: .float64)
        let found = try Linear(name: "a", weight: weight, biases: [bias])(x)
        let expected = try weight.forward(x) + bias
        // Sums over a rank, over the inputs, and a bias.
        let scale = try x.norm().item() * weight.reconstruct().norm().item()
        let bound = Double(rank + inputs + 1) * DType.float64.epsilon * scale
        #expect(try (found - expected).norm().item() <= bound)
    }

    @Test func anAdapterBesideAFrozenMatrixStaysBesideIt() throws {
        let adapter = try LowRankAdapter(
            beside: weight(FormatSpec(format: "dense")), rank: 8, dtype: .float64, seed: 0)
        #expect(adapter.weight.multiplyAdds > outputs * inputs)
        #expect(!Linear.isDenseCheaper(adapter.weight, rows: 4096))
    }
}
