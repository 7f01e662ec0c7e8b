import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Leaves of every registered format, by itself and inside others, at the checkers' specifications.
@Suite("Trainable weights")
struct TrainableWeightTests {
    static let cases: [FormatSpec] = {
        let samples = FormatRegistry.all.flatMap { (try? Samples.specs($0)) ?? [] }
        let tucker = try? Tucker.spec(
            fitting: 400, outputs: Samples.rows, inputs: Samples.columns)
        let train = try? TensorTrain.spec(
            fitting: 400, outputs: Samples.rows / 2, inputs: Samples.columns)
        let insideOut = FormatSpec(
            format: "blocks", outputModes: [12, 12],
            parts: [
                FormatSpec(
                    format: "quantized", bits: 3, groupSize: 8,
                    parts: [FormatSpec(format: "dense")]),
                FormatSpec(
                    format: "quantized", bits: 5, groupSize: 7, parts: [train].compactMap(\.self)),
            ])
        return samples
            + [tucker.map { FormatSpec(format: "quantized", bits: 6, groupSize: 8, parts: [$0]) }]
            .compactMap(\.self) + [insideOut]
    }()

    private static let roles = Set(TrainedTensor.Role.allCases)
    private let outputs = Samples.rows
    private let inputs = Samples.columns

    private func decomposed(_ spec: FormatSpec) throws -> any LinearWeight {
        let weight = try Samples.normal([outputs, inputs], seed: 40)
        return try FormatRegistry.format(spec.format).decompose(
            weight, spec: spec, metric: Samples.metric(inputs, tokens: 90, seed: 41))
    }

    /// The weight that runs; libtorch multiplies in another order where gradients are recorded.
    private func frozen(_ trained: TrainableWeight) throws -> any LinearWeight {
        for leaf in trained.tensors { try leaf.tensor.setRequiresGrad(false) }
        return trained.weight
    }

    private func leaves(_ trained: TrainableWeight) -> [Tensor] { trained.tensors.map(\.tensor) }

    @Test("every floating-point tensor has a leaf", arguments: cases)
    func complete(spec: FormatSpec) throws {
        let weight = try decomposed(spec)
        let layout = try FormatRegistry.format(spec.format).layout(
            spec, outputs: outputs, inputs: inputs)
        let trained = try TrainableWeight(weight, roles: Self.roles)
        let expected = layout.filter {
            $0.dtype == nil || $0.name.hasSuffix(".codes") || $0.name.hasSuffix(".scales")
        }
        #expect(trained.tensors.map(\.name) == expected.map(\.name))
        for leaf in trained.tensors {
            #expect(leaf.tensor.requiresGrad)
            let isPacked = leaf.role == .quantised || leaf.role == .scale
            #expect(leaf.tensor.dtype == (isPacked ? .float32 : .float64), "\(leaf.name)")
            #expect(isPacked == ["codes", "scales"].contains { leaf.name.hasSuffix(".\($0)") })
        }
        for leaf in trained.tensors where leaf.role == .dense {
            #expect(leaf.name.hasSuffix("weight"))
        }
    }

    @Test("before the first step nothing has changed", arguments: cases)
    func start(spec: FormatSpec) throws {
        let weight = try decomposed(spec)
        let x = try Samples.normal([3, inputs], seed: 42)
        let trained = try TrainableWeight(weight, roles: Self.roles)
        #expect(try frozen(trained).forward(x).isIdentical(to: weight.forward(x)))
        let stored = try trained.stored()
        #expect(stored.spec == weight.spec)
        for (new, old) in zip(stored.tensors, weight.tensors) {
            #expect(new.name == old.name)
            #expect(!new.tensor.requiresGrad)
            #expect(try new.tensor.isIdentical(to: old.tensor), "\(spec) \(new.name)")
        }
    }

    @Test("what has no role is shared and stays", arguments: cases)
    func frozen(spec: FormatSpec) throws {
        let weight = try decomposed(spec)
        let before = try weight.tensors.map { try $0.tensor.clone() }
        let trained = try TrainableWeight(weight, roles: [.norm, .bias])
        #expect(trained.tensors.isEmpty)
        let x = try Samples.normal([3, inputs], seed: 43)
        let y = try trained.weight.forward(x)
        #expect(!y.requiresGrad)
        #expect(try y.isIdentical(to: weight.forward(x)))
        // One role after the other: the others' numbers are the same afterwards.
        for role in [TrainedTensor.Role.core, .dense, .quantised, .scale] {
            let trained = try TrainableWeight(weight, roles: [role])
            #expect(trained.tensors.allSatisfy { $0.role == role })
            try descend(trained, steps: 2)
            let moved = Set(trained.tensors.map(\.name))
            for (new, old) in zip(try trained.stored().tensors, weight.tensors)
            where !moved.contains(new.name) {
                #expect(try new.tensor.isIdentical(to: old.tensor), "\(spec) \(new.name)")
            }
        }
        for (old, copy) in zip(weight.tensors, before) {
            #expect(try old.tensor.isIdentical(to: copy))
        }
    }

    @Test("gradients through the forward are those through the matrix", arguments: cases)
    func gradients(spec: FormatSpec) throws {
        let trained = try TrainableWeight(decomposed(spec), roles: Self.roles)
        let x = try Samples.normal([5, inputs], seed: 44)
        let probe = try Samples.normal([5, outputs], seed: 45)
        let forward = try (trained.weight.forward(x) * probe).sum()
            .gradients(leaves(trained))
        let matrix = try trained.weight.reconstruct().to(dtype: .float64)
        let through = try (matrix * probe.transpose().matmul(x)).sum()
            .gradients(leaves(trained))
        let scale = try x.length() * probe.length() * trained.weight.reconstruct().length()
        for ((leaf, one), other) in zip(zip(trained.tensors, forward), through) {
            let (one, other) = (try #require(one), try #require(other))
            #expect(one.shape == leaf.tensor.shape)
            #expect(try one.length() > 0, "\(spec) \(leaf.name)")
            // Packed numbers are multiplied in float32 on the way through the matrix.
            let dtype: DType = matrix.requiresGrad && spec.holds("quantized") ? .float32 : .float64
            let bound = roundingBound(
                size: outputs + inputs, steps: trained.tensors.count, dtype: dtype)
            #expect(try one.distance(to: other) <= bound * scale, "\(spec) \(leaf.name)")
        }
    }

    @Test("thirty steps lower the loss, and what is stored computes the same", arguments: cases)
    func steps(spec: FormatSpec) throws {
        let trained = try TrainableWeight(decomposed(spec), roles: Self.roles)
        let losses = try descend(trained, steps: 30)
        let (first, last) = (try #require(losses.first), try #require(losses.last))
        #expect(last < first, "\(spec)")
        let stored = try trained.stored()
        let again = try FormatRegistry.format(spec.format).init(
            spec: stored.spec, outputs: outputs, inputs: inputs,
            tensors: stored.tensors.map(\.tensor))
        for dtype in [DType.float64, .float32, .bfloat16] where spec.isPacked || dtype == .float64 {
            let x = try Samples.normal([7, inputs], seed: 46).to(dtype: dtype)
            let y = try frozen(trained).forward(x)
            #expect(try again.forward(x).isIdentical(to: y), "\(spec) \(dtype)")
        }
    }

    /// Steps of AdamW towards another weight's outputs; the losses before each, and after the last.
    @discardableResult
    private func descend(_ trained: TrainableWeight, steps: Int) throws -> [Double] {
        guard !trained.tensors.isEmpty else { return [] }
        let x = try Samples.normal([64, inputs], seed: 47)
        let target = try x.linear(Samples.normal([outputs, inputs], seed: 48))
        let optimiser = try AdamW(
            trained.tensors.map { AdamW.Parameter(name: $0.name, tensor: $0.tensor) })
        var losses: [Double] = []
        for step in 0...steps {
            let loss = try (trained.weight.forward(x) - target).square().mean()
            losses.append(try loss.item())
            guard step < steps else { break }
            try optimiser.accumulate(loss.gradients(leaves(trained)))
            try optimiser.step(learningRate: 3e-3)
        }
        return losses
    }

    @Test func originalsOfOtherShapesAreRefused() throws {
        let weight = try decomposed(FormatSpec(format: "dense"))
        let original = try Tensor.zeros([outputs, inputs + 1])
        #expect(throws: FormatError.self) {
            try TrainableWeight(weight, roles: Self.roles, original: original)
        }
    }
}

extension FormatSpec {
    fileprivate func holds(_ name: String) -> Bool {
        format == name || parts.contains { $0.holds(name) }
    }

    /// Whether all numbers are behind codes.
    fileprivate var isPacked: Bool { format == "quantized" }
}
