import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

@Suite("Quantising rows in turn") struct QuantizedRowsTests {
    private let spec = FormatSpec(
        format: Quantized.name, bits: 4, groupSize: 16, parts: [FormatSpec(format: Dense.name)])

    private func weight() throws -> Tensor {
        try .randn([50, 40], generator: RandomGenerator(seed: 2))
    }

    private func moment() throws -> Tensor {
        let x = try Tensor.randn([200, 40], generator: RandomGenerator(seed: 3))
            .to(dtype: .float64)
        return try x.transpose().matmul(x)
    }

    /// All rows at once are the usual decomposition; slices choose their candidate each, so that
    /// together they are no worse.
    @Test func slicesMakeTheWhole() throws {
        let weight = try weight()
        for moment in [nil, try moment()] {
            let metric = try moment.map { try Metric(input: $0) }
            let usual = try Quantized.decompose(weight, spec: spec, metric: metric)
            func error(_ other: Quantized) throws -> Double {
                let difference = try other.reconstruct() - weight
                return try metric.map { try $0.squaredNorm(difference) }
                    ?? difference.square().sum().item()
            }
            var seen: [Range<Int>] = []
            let whole = try Quantized.decompose(
                weight, spec: spec, moment: moment, rowsPerSlice: 64
            ) { rows, _ in seen.append(rows) }
            #expect(seen == [0..<50])
            for (own, other) in zip(whole.tensors, usual.tensors) {
                #expect(try own.tensor.isIdentical(to: other.tensor), "\(own.name)")
            }
            var parts: [Tensor] = []
            let sliced = try Quantized.decompose(
                weight, spec: spec, moment: moment, rowsPerSlice: 16
            ) { rows, part in
                #expect(part.outputs == rows.count)
                parts.append(try part.reconstruct())
            }
            #expect(parts.count == 4)
            #expect(try Tensor.cat(parts).isIdentical(to: sliced.reconstruct()))
            #expect(try error(sliced) <= error(usual) * (1 + 1e-6))
        }
    }

    @Test func whatCannotBeSlicedIsRefused() throws {
        var other = spec
        other.parts = [FormatSpec(format: LowRank.name, ranks: [4])]
        #expect(throws: FormatError.self) {
            try Quantized.decompose(weight(), spec: other, moment: nil, rowsPerSlice: 8) { _, _ in }
        }
        #expect(throws: FormatError.self) {
            try Quantized.decompose(
                weight(), spec: spec, moment: .identity(39, dtype: .float64), rowsPerSlice: 8
            ) { _, _ in }
        }
    }
}
