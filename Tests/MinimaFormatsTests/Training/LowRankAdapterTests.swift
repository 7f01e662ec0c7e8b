import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Adapters beside weights of every format.
@Suite("Low-rank adapters")
struct LowRankAdapterTests {
    private let outputs = Samples.rows
    private let inputs = Samples.columns
    private let rank = 3

    private func adapter(_ spec: FormatSpec, dtype: DType = .float64, seed: UInt64 = 1) throws -> (
        weight: any LinearWeight, adapter: LowRankAdapter
    ) {
        let dense = try Samples.normal([outputs, inputs], seed: 70).to(dtype: dtype)
        let weight = try FormatRegistry.format(spec.format).decompose(
            dense, spec: spec, metric: nil)
        return (weight, try LowRankAdapter(beside: weight, rank: rank, dtype: dtype, seed: seed))
    }

    /// Moves both factors, so far that roundings to few bits see it.
    private func train(_ adapter: LowRankAdapter) throws {
        for (index, leaf) in adapter.tensors.enumerated() {
            let noise = try Samples.normal(leaf.tensor.shape, seed: UInt64(71 + index))
                .to(dtype: leaf.tensor.dtype)
            try withoutGradients { try leaf.tensor.addInPlace(noise, scale: 0.5) }
        }
    }

    @Test(
        "training starts at the weight, and trains the adapter only",
        arguments: TrainableWeightTests.cases)
    func start(spec: FormatSpec) throws {
        let (weight, adapter) = try adapter(spec)
        let x = try Samples.normal([4, inputs], seed: 73)
        let y = try adapter.weight.forward(x)
        #expect(try y.detach().isIdentical(to: weight.forward(x)))
        #expect(adapter.tensors.map(\.role) == [.adapter, .adapter])
        #expect(adapter.tensors.map(\.tensor.shape) == [[rank, inputs], [outputs, rank]])
        let gradients = try y.square().sum().gradients(adapter.tensors.map(\.tensor))
        // A is zero, so the loss does not see B yet.
        #expect(try #require(gradients[0]).length() == 0)
        #expect(try #require(gradients[1]).length() > 0)
        let all = Dictionary(
            uniqueKeysWithValues: adapter.weight.tensors.map { ($0.name, $0.tensor) })
        for leaf in adapter.tensors {
            #expect(try #require(all[leaf.name]).isIdentical(to: leaf.tensor))
        }
        #expect(adapter.weight.tensors.count { $0.tensor.requiresGrad } == 2)
    }

    @Test("kept, it is a sum that is stored like any", arguments: TrainableWeightTests.cases)
    func kept(spec: FormatSpec) throws {
        let (_, adapter) = try adapter(spec)
        try train(adapter)
        let kept = try adapter.kept()
        #expect(kept.spec.format == Sum.name)
        #expect(kept.spec.parts.last == FormatSpec(format: LowRank.name, ranks: [rank]))
        let again = try Sum(
            spec: kept.spec, outputs: outputs, inputs: inputs, tensors: kept.tensors.map(\.tensor))
        let x = try Samples.normal([4, inputs], seed: 74)
        #expect(try again.forward(x).isIdentical(to: adapter.weight.forward(x).detach()))
        #expect(!kept.tensors.contains { $0.tensor.requiresGrad })
    }

    @Test("merged, it keeps the format and says the error", arguments: TrainableWeightTests.cases)
    func merged(spec: FormatSpec) throws {
        let (weight, adapter) = try adapter(spec)
        try train(adapter)
        let sum = try adapter.kept().reconstruct()
        let (merged, error) = try adapter.merged()
        #expect(merged.spec == weight.spec)
        #expect(merged.tensors.map(\.name) == weight.tensors.map(\.name))
        #expect(merged.byteCount == weight.byteCount)
        let found = try merged.reconstruct().distance(to: sum) / sum.length()
        let rounding = roundingBound(size: outputs + inputs, steps: 4, dtype: sum.dtype)
        #expect(abs(found - error) <= rounding, "\(spec)")
        // At least as good as leaving the adapter away; CP and block terms are not solved exactly.
        let without = try weight.reconstruct().distance(to: sum) / sum.length()
        #expect(error <= without * (1 + rounding), "\(spec)")
        if !["cp", "blockterm"].contains(spec.format) { #expect(error < without, "\(spec)") }
        if spec.format == Dense.name { #expect(error <= rounding) }
    }

    @Test func halfPrecisionMergesUpToRounding() throws {
        let (_, adapter) = try adapter(FormatSpec(format: "dense"), dtype: .bfloat16)
        try train(adapter)
        let (merged, error) = try adapter.merged()
        #expect(merged.tensors[0].tensor.dtype == .bfloat16)
        #expect(error > 0 && error <= DType.bfloat16.epsilon)
    }

    @Test func seedsDecide() throws {
        let spec = FormatSpec(format: "dense")
        let factors = try [1, 1, 2].map { try adapter(spec, seed: $0).adapter.tensors[0].tensor }
        #expect(try factors[0].isIdentical(to: factors[1]))
        #expect(try !factors[0].isIdentical(to: factors[2]))
    }

    @Test func ranksAreAtMostFull() throws {
        let weight = Dense(try Samples.normal([4, 6], seed: 75))
        let adapter = try LowRankAdapter(beside: weight, rank: 64, dtype: .float64, seed: 0)
        #expect(adapter.tensors.map(\.tensor.shape) == [[4, 6], [4, 4]])
    }
}
