import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// Sparse weights, sums and blocks.
@Suite struct CompositeTests {
    private func spec(_ rank: Int, _ format: String = "lowrank") -> FormatSpec {
        FormatSpec(format: format, ranks: [rank])
    }

    // MARK: Sparse

    @Test func theMostExpensiveValuesAreKept() throws {
        let weight = try Samples.normal([9, 14], seed: 350)
        let metric = try Samples.metric(14, tokens: 50, seed: 351, outputs: 9)
        let inputs = try metric.input.diagonal().values(as: Double.self)
        let outputs = try #require(metric.output).diagonal().values(as: Double.self)
        let values = try weight.values(as: Double.self)
        let order = values.indices.sorted {
            values[$0] * values[$0] * inputs[$0 % 14] * outputs[$0 / 14]
                > values[$1] * values[$1] * inputs[$1 % 14] * outputs[$1 / 14]
        }
        for count in [1, 17, 126] {
            let stored = try Sparse.decompose(
                weight, spec: spec(count, "sparse"), metric: metric)
            let kept = order.prefix(count).sorted()
            #expect(try stored.indices.values(as: Int32.self).map { Int($0) } == kept)
            #expect(try stored.values.values(as: Double.self) == kept.map { values[$0] })
        }
    }

    @Test func damagedIndicesAreRefused() throws {
        for indices in [[0, 5, 4], [3, 3, 7], [-1, 2, 3], [0, 1, 12]] {
            let tensors = try [
                Tensor(indices.map { Int32($0) }), Tensor.ones([3], dtype: .float32),
            ]
            #expect(
                throws: FormatError.badIndices(
                    format: "sparse", name: "indices", count: 3, limit: 12)
            ) {
                try Sparse(spec: spec(3, "sparse"), outputs: 3, inputs: 4, tensors: tensors)
            }
        }
    }

    @Test func indicesOfHugeWeightsAreLong() throws {
        let layout = try Sparse.layout(spec(5, "sparse"), outputs: 1 << 20, inputs: 1 << 20)
        #expect(layout[0].dtype == .int64)
        #expect(try Sparse.layout(spec(5, "sparse"), outputs: 9, inputs: 9)[0].dtype == .int32)
    }

    // MARK: Sum

    /// A low rank with outliers on top is taken apart again; one pass alone does not do it.
    @Test func aLowRankWithOutliersIsFoundAgain() throws {
        let spread = try Samples.ofRank(3, 24, 36, seed: 352)
        let outliers = try Sparse(
            spec: spec(4, "sparse"), outputs: 24, inputs: 36,
            tensors: [
                Tensor([Int32(17), 200, 431, 800]),
                Tensor([70.0, -55, 90, 61]),
            ]
        ).reconstruct()
        let weight = try spread + outliers
        for metric in [nil, try Samples.metric(36, tokens: 300, seed: 353)] {
            let sum = FormatSpec(format: "sum", parts: [spec(3), spec(12, "sparse")])
            let stored = try Sum.decompose(weight, spec: sum, metric: metric)
            func error(_ matrix: Tensor) throws -> Double {
                try metric?.norm(matrix - weight) ?? matrix.distance(to: weight)
            }
            let sparse = try Sparse.decompose(weight, spec: spec(12, "sparse"), metric: metric)
            let rest = try weight - sparse.reconstruct()
            let onePass = try LowRank.decompose(rest, spec: spec(3), metric: metric)
            let first = try error(onePass.reconstruct() + sparse.reconstruct())
            #expect(try error(stored.reconstruct()) < first)
            let alone = try LowRank.decompose(weight, spec: spec(4), metric: metric)
            #expect(try error(stored.reconstruct()) < error(alone.reconstruct()))
            #expect(stored.parameterCount == 3 * (24 + 36) + 2 * 12)
        }
    }

    // MARK: Blocks

    /// Blocks of rows are the rows' own decompositions, bit by bit.
    @Test func rowsAreFittedApart() throws {
        let weight = try Samples.normal([24, 36], seed: 354)
        let metric = try Samples.metric(36, tokens: 200, seed: 355, outputs: 24)
        let parts = [spec(3), spec(5, "interpolative")]
        let stored = try Blocks.decompose(
            weight, spec: FormatSpec(format: "blocks", outputModes: [8, 16], parts: parts),
            metric: metric)
        for (range, (part, block)) in zip([0..<8, 8..<24], zip(parts, stored.blocks)) {
            let alone = try FormatRegistry.format(part.format).decompose(
                weight.narrow(0, range), spec: part,
                metric: Metric(input: metric.input, output: metric.output?.narrow(range)))
            #expect(try block.reconstruct().isIdentical(to: alone.reconstruct()))
        }
        #expect(stored.tensors.map(\.name).first == "blocks.0.cores.0")
    }

    /// A dense block of columns makes up for what its neighbour lost: what is left is the part of
    /// the neighbour's inputs that its own do not predict.
    @Test func columnsMakeUpForEachOther() throws {
        let weight = try Samples.normal([24, 36], seed: 356)
        let metric = try Samples.metric(36, tokens: 200, seed: 357)
        let spec = FormatSpec(
            format: "blocks", inputModes: [20, 16], parts: [spec(4), FormatSpec(format: "dense")])
        let stored = try Blocks.decompose(weight, spec: spec, metric: metric)
        let (own, other) = (0..<20, 20..<36)
        let c = metric.input
        let cross = try c.narrow(0, own).narrow(1, other)
        let schur =
            try c.narrow(0, own).narrow(1, own)
            - cross.matmul(c.narrow(0, other).narrow(1, other).solve(cross.transpose()))
        let lost = try stored.reconstruct().narrow(1, own) - weight.narrow(1, own)
        let expected = try Metric(input: schur).squaredNorm(lost)
        let error = try metric.squaredNorm(stored.reconstruct() - weight)
        // C_ii is raised by 10⁻⁶ of its mean; what that costs is bounded by the same share.
        #expect(abs(error - expected) <= 1e-5 * (try metric.squaredNorm(weight)))
    }

    @Test func jointColumnsBeatSeparateOnes() throws {
        for seed in UInt64(360)..<364 {
            let weight = try Samples.normal([24, 36], seed: seed)
            let parts = [spec(4), spec(6, "interpolative"), spec(3)]
            let blocks = FormatSpec(format: "blocks", inputModes: [12, 14, 10], parts: parts)
            for tokens in [300, 12] {
                let metric = try Samples.metric(36, tokens: tokens, seed: seed, outputs: 24)
                let joint = try Blocks.decompose(weight, spec: blocks, metric: metric)
                var columns: [Tensor] = []
                for (range, part) in zip([0..<12, 12..<26, 26..<36], parts) {
                    let seen = try Metric(
                        input: metric.input.narrow(0, range).narrow(1, range),
                        output: metric.output)
                    columns.append(
                        try FormatRegistry.format(part.format).decompose(
                            weight.narrow(1, range), spec: part, metric: seen
                        ).reconstruct())
                }
                let separate = try Tensor.cat(columns, dim: 1)
                #expect(
                    try metric.norm(joint.reconstruct() - weight)
                        < metric.norm(separate - weight))
            }
        }
    }

    @Test func wrongCutsAreRefused() {
        func layout(_ outputs: [Int], _ inputs: [Int], _ parts: Int) throws {
            _ = try Blocks.layout(
                FormatSpec(
                    format: "blocks", outputModes: outputs, inputModes: inputs,
                    parts: Array(repeating: FormatSpec(format: "dense"), count: parts)),
                outputs: 6, inputs: 4)
        }
        #expect(throws: Never.self) { try layout([2, 4], [], 2) }
        #expect(throws: Never.self) { try layout([], [1, 3], 2) }
        for (outputs, inputs, parts) in [
            ([2, 3], [], 2), ([2, 4], [4], 2), ([], [], 1), ([2, 4], [], 3), ([8, -2], [], 2),
            ([Int.max, Int.max, 8], [], 3), ([], [4], 0),
        ] {
            #expect(throws: FormatError.self) { try layout(outputs, inputs, parts) }
        }
        let one = FormatSpec(format: "sum", parts: [FormatSpec(format: "dense")])
        #expect(throws: FormatError.wrongPartCount(format: "sum", found: 1, needed: "at least 2")) {
            try Sum.layout(one, outputs: 6, inputs: 4)
        }
        var deep = FormatSpec(format: "dense")
        for depth in 1...FormatSpec.deepest {
            deep = FormatSpec(format: "blocks", outputModes: [6], parts: [deep])
            let isTooDeep = depth == FormatSpec.deepest
            do throws(FormatError) {
                _ = try Blocks.layout(deep, outputs: 6, inputs: 4)
                #expect(!isTooDeep)
            } catch {
                #expect(isTooDeep)
                #expect(error == .tooDeep(format: "blocks"))
            }
        }
    }
}
