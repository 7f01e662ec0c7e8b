import Glibc
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// Quantised matrices with latents behind them.
@Suite("Straight-through quantisation")
struct StraightThroughTests {
    /// Rows end in a group of 4 under groups of 16, in a whole one under groups of 12.
    private let rows = 10
    private let columns = 36

    private func matrix(
        _ bits: Int, groupSize: Int?, levels: FormatSpec.Levels = .normal
    ) throws -> (Quantized, original: Tensor) {
        let original = try Samples.normal([rows, columns], seed: 50)
        // A row of zeros has scales of zero.
        try original.narrow(0, 3..<4).copy(from: .zeros([1, 1], dtype: .float64))
        let spec = FormatSpec(
            format: "quantized", bits: bits, groupSize: groupSize, levels: levels,
            parts: [FormatSpec(format: "dense")])
        let metric = try Samples.metric(columns, tokens: 80, seed: 51)
        return (try Quantized.decompose(original, spec: spec, metric: metric), original)
    }

    /// Normal levels, or others that codes of so many bits can have.
    private func levels(_ bits: Int, isOther: Bool) -> FormatSpec.Levels {
        isOther ? bits == 8 ? .float8 : .uniform : .normal
    }

    @Test(
        "what is stored are the numbers of the last forward, bit for bit",
        arguments: Codebook.allowedBits,
        [Set<TrainedTensor.Role>([.quantised]), [.scale], [.quantised, .scale]])
    func exact(bits: Int, roles: Set<TrainedTensor.Role>) throws {
        for groupSize in [nil, 12, 16, 1] {
            let levels = levels(bits, isOther: groupSize == 16)
            let (weight, original) = try matrix(bits, groupSize: groupSize, levels: levels)
            for start in [nil, original] {
                let trained = try TrainableWeight(weight, roles: roles, original: start)
                #expect(trained.tensors.map(\.role) == roles.sorted { $0.rawValue < $1.rawValue })
                try walk(trained, steps: 3)
                let values = try trained.weight.reconstruct()
                let stored = try trained.stored()
                #expect(try stored.reconstruct().isIdentical(to: values.detach()))
                #expect(try !stored.reconstruct().isIdentical(to: weight.reconstruct()))
                for dtype in [DType.bfloat16, .float16] {
                    let x = try Tensor.identity(columns, dtype: dtype)
                    let y = try trained.weight.forward(x)
                    #expect(y.dtype == dtype)
                    #expect(try stored.forward(x).isIdentical(to: y.detach()))
                }
            }
        }
    }

    /// Random steps that are long enough to change codes and scales.
    private func walk(_ trained: TrainableWeight, steps: Int) throws {
        for step in 0..<steps {
            for (index, leaf) in trained.tensors.enumerated() {
                let noise = try Samples.normal(
                    leaf.tensor.shape, seed: UInt64(60 + 9 * step + index)
                )
                .to(dtype: .float32)
                try withoutGradients { try leaf.tensor.addInPlace(noise, scale: 0.3) }
            }
        }
    }

    @Test("starting near the original keeps the codes", arguments: Codebook.allowedBits)
    func original(bits: Int) throws {
        for groupSize in [nil, 12, 16] {
            let levels = levels(bits, isOther: groupSize == 12)
            let (weight, original) = try matrix(bits, groupSize: groupSize, levels: levels)
            let near = try TrainableWeight(weight, roles: [.quantised], original: original)
            let plain = try TrainableWeight(weight, roles: [.quantised])
            for (new, old) in zip(try near.stored().tensors, weight.tensors) {
                #expect(try new.tensor.isIdentical(to: old.tensor))
            }
            let distances = try [near, plain].map {
                try $0.tensors[0].tensor.distance(to: original)
            }
            #expect(distances[0] < distances[1])
        }
    }

    @Test("latents take the gradient of the values", arguments: [nil, 16])
    func latents(groupSize: Int?) throws {
        let (weight, _) = try matrix(4, groupSize: groupSize)
        let trained = try TrainableWeight(weight, roles: [.quantised, .scale])
        try walk(trained, steps: 1)
        let probe = try Samples.normal([rows, columns], seed: 52).to(dtype: .float32)
        let gradient = try (trained.weight.reconstruct() * probe).sum()
            .gradients([trained.tensors[0].tensor])[0]
        #expect(try #require(gradient).isIdentical(to: probe))
    }

    /// d(level · scale) / d(log₂ scale) = ln 2 · value, number by number.
    @Test("scales take the gradient of fixed codes", arguments: [nil, 12, 16], [true, false])
    func scales(groupSize: Int?, trainsValues: Bool) throws {
        let (weight, _) = try matrix(3, groupSize: groupSize)
        let roles: Set<TrainedTensor.Role> = trainsValues ? [.quantised, .scale] : [.scale]
        let trained = try TrainableWeight(weight, roles: roles)
        try walk(trained, steps: 1)
        let leaf = try #require(trained.tensors.first { $0.role == .scale }).tensor
        let probe = try Samples.normal([rows, columns], seed: 53).to(dtype: .float32)
        let matrix = try trained.weight.reconstruct()
        let result = try (matrix * probe).sum().gradients([leaf])[0]
        let found: [Double] = try #require(result).values()
        let (values, directions): ([Double], [Double]) = (try matrix.values(), try probe.values())
        let (size, groups) = (groupSize ?? columns, leaf.count / rows)
        let unit = M_LN2 * StraightThrough.octaves
        for (index, found) in found.enumerated() {
            let start = index / groups * columns
            let group =
                start + index % groups
                * size..<min(start + (index % groups + 1) * size, start + columns)
            let terms = group.map { values[$0] * directions[$0] * unit }
            let bound = terms.reduce(0) { $0 + abs($1) }
            #expect(
                abs(found - terms.reduce(0, +))
                    <= Double(size + 4) * DType.float32.epsilon * bound)
        }
    }

    @Test("codes do not follow the scales")
    func codesStay() throws {
        let (weight, _) = try matrix(4, groupSize: 12)
        let trained = try TrainableWeight(weight, roles: [.quantised, .scale])
        let exponents = trained.tensors[1].tensor
        let octave = try Tensor.full(exponents.shape, -1 / StraightThrough.octaves)
        try withoutGradients { try exponents.addInPlace(octave) }
        let (stored, half) = (try trained.stored(), try weight.reconstruct() * 0.5)
        #expect(try stored.tensors[0].tensor.isIdentical(to: weight.tensors[0].tensor))
        #expect(try stored.reconstruct().isIdentical(to: half))
    }

    @Test("numbers that are none are not hidden by codes")
    func broken() throws {
        let (weight, _) = try matrix(4, groupSize: 12)
        for bad in [Double.nan, .infinity] {
            let trained = try TrainableWeight(weight, roles: [.quantised])
            try withoutGradients {
                try trained.tensors[0].tensor.narrow(0, 0..<1).narrow(1, 0..<1)
                    .copy(from: .full([1, 1], bad))
            }
            #expect(try trained.weight.reconstruct().isFinite().not().sum().item() == 1)
        }
    }
}
