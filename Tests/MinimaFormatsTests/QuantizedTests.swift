import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// The wrapper as a format: layout, bytes, refusals, forward.
@Suite struct QuantizedTests {
    private let spec = QuantizerErrorTests.spec

    private var parts: [FormatSpec] {
        [
            FormatSpec(format: "dense"), FormatSpec(format: "lowrank", ranks: [5]),
            FormatSpec(format: "interpolative", ranks: [5]),
            FormatSpec(format: "tucker", outputModes: [6, 4], inputModes: [36], ranks: [3, 2, 5]),
        ]
    }

    @Test func bytesAreExact() throws {
        let weight = try Samples.normal([24, 36], seed: 1).to(dtype: .bfloat16)
        for part in parts {
            for bits in [3, 8] {
                for groupSize in [nil, 7] as [Int?] {
                    let spec = spec(bits, groupSize, part)
                    let layout = try Quantized.layout(spec, outputs: 24, inputs: 36)
                    let stored = try Quantized.decompose(weight, spec: spec, metric: nil)
                    #expect(stored.tensors.map(\.name) == layout.map(\.name))
                    #expect(stored.tensors.map(\.tensor.shape) == layout.map(\.shape))
                    #expect(
                        zip(stored.tensors, layout).allSatisfy {
                            $0.tensor.dtype == $1.dtype ?? .bfloat16
                        })
                    let bytes = try Quantized.byteCount(
                        spec, outputs: 24, inputs: 36, dtype: .bfloat16)
                    #expect(stored.byteCount == bytes)
                }
            }
        }
    }

    /// W = left · core · right + rest for every tensor that says so.
    @Test func coresStandBetweenTheirSurroundings() throws {
        let weight = try Samples.normal([24, 36], seed: 3)
        for (part, count) in [
            (parts[1], 2), (parts[2], 2), (FormatSpec(format: "interpolative", ranks: [24]), 1),
        ] {
            let stored = try FormatRegistry.format(part.format).decompose(
                weight, spec: part, metric: nil)
            let sandwich = try #require(stored as? any SandwichedCores)
            for index in 0..<count {
                let around = try #require(try sandwich.surroundings(of: index))
                var product = stored.tensors[index].tensor
                if let left = around.left { product = try left.matmul(product) }
                if let right = around.right { product = try product.matmul(right) }
                if let rest = around.rest { product = try product + rest }
                let error = try (product - stored.reconstruct()).abs().max().item()
                #expect(error < 1e-12, "\(part.format) \(index)")
            }
        }
    }

    @Test func sizesByHand() throws {
        func bytes(_ bits: Int, _ groupSize: Int?, _ outputs: Int, _ inputs: Int) throws -> Int {
            try Quantized.byteCount(
                spec(bits, groupSize, nil), outputs: outputs, inputs: inputs, dtype: .bfloat16)
        }
        // Codes, a byte per group, a float32 base.
        #expect(try bytes(4, 64, 24, 128) == 24 * 64 + 24 * 2 + 4)
        #expect(try bytes(3, 50, 24, 129) == 24 * (33 + 17) + 24 * 3 + 4)
        #expect(try bytes(8, nil, 5, 7) == 5 * 7 + 5 + 4)
        #expect(try bytes(5, 1000, 5, 7) == 5 * (4 + 1) + 5 + 4)
        let names = try Quantized.layout(spec(4, 8, parts[1]), outputs: 24, inputs: 36)
        #expect(
            names.map(\.name) == [
                "cores.0.codes", "cores.0.scales", "cores.0.base", "cores.1.codes",
                "cores.1.scales", "cores.1.base",
            ])
        let count = try Quantized.parameterCount(spec(4, 8, nil), outputs: 24, inputs: 36)
        #expect(count == 24 * 36)
        let any: any LinearWeight = try Quantized.decompose(
            Samples.normal([24, 36], seed: 2), spec: spec(4, 8, nil), metric: nil)
        #expect(any.parameterCount == 24 * 36)
    }

    @Test func loadingGivesTheSame() throws {
        let weight = try Samples.normal([24, 36], seed: 3).to(dtype: .bfloat16)
        let metric = try QuantizerErrorTests.metric(24, 36, tokens: 200, seed: 4)
        let x = try Samples.normal([2, 3, 36], seed: 5).to(dtype: .bfloat16)
        for part in parts {
            let stored = try Quantized.decompose(weight, spec: spec(3, 16, part), metric: metric)
            // As compression calls it: with gradients switched off.
            let again = try withoutGradients {
                try Quantized.decompose(weight, spec: spec(3, 16, part), metric: metric)
            }
            let loaded = try Quantized(
                spec: stored.spec, outputs: 24, inputs: 36, tensors: stored.tensors.map(\.tensor))
            for (first, second) in zip(stored.tensors, again.tensors) {
                #expect(try first.tensor.isIdentical(to: second.tensor))
            }
            let forward = try loaded.forward(x)
            #expect(forward.shape == [2, 3, 24] && forward.dtype == .bfloat16)
            #expect(try forward.isIdentical(to: stored.forward(x)))
        }
    }

    @Test func forwardIsTheMatrix() throws {
        let weight = try Samples.normal([24, 36], seed: 6)
        for part in parts {
            let stored = try Quantized.decompose(weight, spec: spec(4, 7, part), metric: nil)
            let matrix = try stored.reconstruct()
            #expect(matrix.dtype == .float32)
            for leading in [[], [4], [0], [2, 3]] {
                let x = try Samples.normal(leading + [36], seed: 7).to(dtype: .float32)
                let expected = try x.linear(matrix)
                var norms = try x.length()
                for (_, tensor) in try stored.part(dtype: .float32).tensors
                where tensor.dtype == .float32 {
                    norms *= try tensor.length()
                }
                // Sums of at most 60 products per contraction, over two ways.
                let bound = 2 * 2 * Double(24 + 36) * DType.float32.epsilon * norms
                #expect(try stored.forward(x).distance(to: expected) <= bound)
            }
            #expect(throws: TensorError.self) { try stored.forward(Tensor.ones([2, 35])) }
        }
    }

    @Test func nothingStaysNothing() throws {
        for part in parts {
            for metric in [nil, try QuantizerErrorTests.metric(24, 36, tokens: 90, seed: 8)] {
                let zero = try Tensor.zeros([24, 36], dtype: .bfloat16)
                let stored = try Quantized.decompose(zero, spec: spec(2, 16, part), metric: metric)
                #expect(try stored.reconstruct().length() == 0)
            }
        }
    }

    /// A matrix whose values are levels times scales is stored without loss.
    @Test func representableIsExact() throws {
        for (bits, kind) in Codebook.allowedBits.flatMap({ bits in
            FormatSpec.Levels.allCases.filter { $0 != .float8 || bits == 8 }.map { (bits, $0) }
        }) {
            let levels = Codebook.values(bits: bits, levels: kind)
            let count = levels.count
            let values = (0..<3 * count).map { index in
                levels[index % count] * (index < count ? 1 : 0.25)
            }
            let weight = try Tensor(values, shape: [3, count])
            var spec = spec(bits, nil, nil)
            spec.levels = kind
            let stored = try Quantized.decompose(weight, spec: spec, metric: nil)
            #expect(try stored.reconstruct().isIdentical(to: weight), "\(bits) bits, \(kind)")
            guard case .matrix(let matrix)? = try stored.decodePieces().first?.form,
                case .codes(let codes) = matrix.storage
            else {
                Issue.record("codes of \(bits) bits are not what decoding reads")
                continue
            }
            #expect(codes.levels == levels)
        }
    }

    @Test func malformedSpecsAreRefused() throws {
        let dense = FormatSpec(format: "dense")
        for bits in [nil, Int.min, -1, 0, 1, 7, 9, 16, Int.max] as [Int?] {
            #expect(
                throws: FormatError.wrongBits(
                    format: "quantized", found: bits, allowed: [2, 3, 4, 5, 6, 8])
            ) {
                try Quantized.layout(spec(bits, 8, nil), outputs: 4, inputs: 4)
            }
        }
        for bits in Codebook.allowedBits {
            var spec = spec(bits, 8, nil)
            spec.levels = .float8
            guard bits != 8 else {
                #expect(try Quantized.layout(spec, outputs: 4, inputs: 4).count == 3)
                continue
            }
            let error = FormatError.wrongLevels(format: "quantized", found: .float8, bits: bits)
            #expect(throws: error) { try Quantized.layout(spec, outputs: 4, inputs: 4) }
            #expect("\(error)".contains("float8") && "\(error)".contains("\(bits) were asked"))
        }
        for groupSize in [Int.min, -1, 0] {
            #expect(throws: FormatError.self) {
                try Quantized.layout(spec(4, groupSize, nil), outputs: 4, inputs: 4)
            }
        }
        let nested = spec(4, 8, nil)
        let lists: [[FormatSpec]] = [
            [], [dense, dense], [nested],
            [FormatSpec(format: "sum", parts: [dense, nested])],
        ]
        for parts in lists {
            let bad = FormatSpec(format: "quantized", bits: 4, groupSize: 8, parts: parts)
            #expect(throws: FormatError.self) {
                try Quantized.layout(bad, outputs: 4, inputs: 4)
            }
        }
        var others = [nested, nested, nested]
        others[0].ranks = [1]
        others[1].outputModes = [4]
        others[2].parts = [FormatSpec(format: "nonsense")]
        for bad in others {
            #expect(throws: FormatError.self) {
                try Quantized.layout(bad, outputs: 4, inputs: 4)
            }
        }
        for (outputs, inputs) in [(0, 4), (4, -1), (Int.max, 2), (1 << 40, 1 << 40)] {
            #expect(throws: FormatError.self) {
                try Quantized.layout(nested, outputs: outputs, inputs: inputs)
            }
        }
        let huge = spec(4, Int.max, nil)
        #expect(
            try Quantized.byteCount(huge, outputs: 4, inputs: 4, dtype: .bfloat16) == 4 * 2 + 4 + 4)
    }

    @Test func foreignTensorsAreRefused() throws {
        let weight = try Samples.normal([8, 12], seed: 9)
        let stored = try Quantized.decompose(weight, spec: spec(4, 8, nil), metric: nil)
        let good = stored.tensors.map(\.tensor)
        let bad: [[Tensor]] = [
            [], Array(good.dropLast()), good + good,
            [try good[0].to(dtype: .int32)] + good.dropFirst(),
            [try good[0].reshape([12, 4])] + good.dropFirst(),
            Array(good.dropLast()) + [try good[2].to(dtype: .bfloat16)],
        ]
        for tensors in bad {
            #expect(throws: FormatError.self) {
                try Quantized(spec: stored.spec, outputs: 8, inputs: 12, tensors: tensors)
            }
        }
        let broken = try weight.clone()
        try broken.narrow(0, 1..<2).narrow(1, 1..<2).copy(from: .full([1, 1], .nan))
        #expect(throws: TensorError.self) {
            try Quantized.decompose(broken, spec: stored.spec, metric: nil)
        }
        let foreign = try QuantizerErrorTests.metric(8, 11, tokens: 30, seed: 10)
        #expect(throws: FormatError.self) {
            try Quantized.decompose(weight, spec: stored.spec, metric: foreign)
        }
    }
}
