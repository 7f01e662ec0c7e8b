import Glibc
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

private let cholesky = Operator("aten::linalg_cholesky_ex")
private let eigenvalues = Operator("aten::linalg_eigvalsh")
private let stack = Operator("aten::stack")
private let strided = Operator("aten::slice", "Tensor")
private let logarithm = Operator("aten::log")
private let less = Operator("aten::lt", "Tensor")

/// Cheap statistics of the patches of a site's weight.
///
/// By name: `magnitude` root mean square of W; `sparsity` share of entries below a tenth of it (8%
/// in a normal distribution); `kurtosis` mean w⁴ over squared mean w² (3 in a normal distribution);
/// `condition` largest singular value of W over the smallest, which counts as at least 1e-6 of it;
/// `trace` ½·tr(Wᵀ·H·W·C), what deleting the patch would cost by the closed form, nats per token;
/// `rank` (Σλ)²/Σλ² of H^½·W·C^½ over the patch's smaller side; `gradient` and `activation` mean
/// diagonal entries of H and C.
public enum PatchStatistics {
    /// Values of a resampled spectrum.
    public static let spectrumLength = 32
    /// Rows of a Gram matrix, at most: of a longer side, every k-th row or column is taken and the
    /// eigenvalues are scaled up, so that a decoder layer of 32 billion parameters takes about a
    /// second.
    static let longestSide = 256
    /// Singular values below this share of the largest count as this share.
    static let smallestRatio = 1e-6

    /// The patches of `site`, in the order of its members.
    ///
    /// - Parameters:
    ///   - weight: The stacked weight W `[outputs, inputs]`.
    ///   - input: C `[inputs, inputs]`.
    ///   - output: H over the outputs; `nil` is the identity.
    /// - Complexity: one product with C and H each, and three decompositions of
    ///   `[longestSide, longestSide]` per patch; batched over the patches of a member.
    public static func measure(
        _ site: Site, weight: Tensor, input: Tensor, output: OutputMetric?
    ) throws -> [PatchAnalysis] {
        try withoutGradients {
            try zip(site.members, site.rows).flatMap { member, rows in
                let values = try weight.narrow(0, rows).to(dtype: .float64)
                return try measure(
                    member, first: rows.lowerBound, weight: values,
                    input: input.to(dtype: .float64), output: output?.narrow(rows))
            }
        }
    }

    private static func measure(
        _ member: LinearShape, first: Int, weight: Tensor, input: Tensor, output: OutputMetric?
    ) throws -> [PatchAnalysis] {
        let ranges = member.patches.ranges(outputs: member.outputs, inputs: member.inputs)
        let patches = try Patches(
            weight: weight, ranges: ranges, isCutAlongOutputs: member.patches.axis == .outputs,
            input: input, output: output)
        let columns = try patches.statistics()
        let plain = try patches.spectra(weighted: false)
        let weighted = try patches.spectra(weighted: true)
        return ranges.indices.map { index in
            let spectra = [
                "weight": plain.logarithms[index], "weighted": weighted.logarithms[index],
            ]
            var statistics = columns.mapValues { $0[index] }
            statistics["condition"] = plain.condition[index]
            statistics["rank"] = weighted.effectiveRank[index]
            return PatchAnalysis(
                module: member.name, index: index, row: first + ranges[index].rows.lowerBound,
                rows: ranges[index].rows.count, column: ranges[index].columns.lowerBound,
                columns: ranges[index].columns.count,
                statistics: statistics.mapValues { significant($0) },
                spectra: spectra.mapValues { $0.map { significant($0) } })
        }
    }

    /// Equal patches of one weight and the metrics around each, as batches.
    private struct Patches {
        /// W `[patch, a, b]`.
        let blocks: Tensor
        /// H·W.
        let left: Tensor
        /// W·C.
        let right: Tensor
        /// H `[1 or patch, a, a]`.
        let output: Tensor?
        /// C `[1 or patch, b, b]`.
        let input: Tensor

        init(
            weight: Tensor, ranges: [(rows: Range<Int>, columns: Range<Int>)],
            isCutAlongOutputs: Bool, input: Tensor, output: OutputMetric?
        ) throws {
            let count = ranges.count
            let (m, n) = (weight.shape[0], weight.shape[1])
            if isCutAlongOutputs {
                blocks = try weight.reshape([count, m / count, n])
                self.input = try input.unsqueeze(0)
                self.output = try output.map { output in
                    try Self.stacked(ranges.map { try output.narrow($0.rows).dense() })
                }
            } else {
                blocks = try weight.reshape([m, count, n / count]).permute([1, 0, 2])
                self.input = try Self.stacked(
                    ranges.map { try input.narrow(0, $0.columns).narrow(1, $0.columns) })
                self.output = try output.map { try $0.dense().unsqueeze(0) }
            }
            left = try self.output?.matmul(blocks) ?? blocks
            right = try blocks.matmul(self.input)
        }

        private static func stacked(_ tensors: [Tensor]) throws(TensorError) -> Tensor {
            try stack(.tensors(tensors), .int(0))
        }

        func statistics() throws -> [String: [Double]] {
            let energy = try blocks.square().mean([1, 2], keepDims: true)
            let magnitude = try energy.sqrt()
            let small = try less(.tensor(blocks.abs()), .tensor(magnitude * 0.1))
                .to(dtype: .float64)
            let fourth = try blocks.square().square().mean([1, 2])
            let squared = try energy.square().reshape([-1]).clamp(min: 1e-300)
            let count = blocks.shape[0]
            return [
                "magnitude": try magnitude.values(),
                "sparsity": try small.mean([1, 2]).values(),
                "kurtosis": try (fourth / squared).values(),
                "trace": try ((left * right).sum([1, 2]) * 0.5).clamp(min: 0).values(),
                "gradient": try output.map { try Self.meanDiagonal($0, count) }
                    ?? Array(repeating: 1, count: count),
                "activation": try Self.meanDiagonal(input, count),
            ]
        }

        private static func meanDiagonal(_ matrices: Tensor, _ count: Int) throws -> [Double] {
            let means: [Double] = try Tensor.einsum("bii->bi", matrices).mean([1]).values()
            return means.count == count ? means : Array(repeating: means[0], count: count)
        }

        /// Spectra of the patches; see ``PatchStatistics/longestSide``.
        func spectra(weighted: Bool) throws -> Spectra {
            let (a, b) = (blocks.shape[1], blocks.shape[2])
            let side = min(a, b)
            let step = (side + longestSide - 1) / longestSide
            let axis = a <= b ? 1 : 2
            func sampled(_ tensor: Tensor, _ dim: Int) throws(TensorError) -> Tensor {
                try step == 1
                    ? tensor
                    : strided(.tensor(tensor), .int(dim), .none, .none, .int(step))
            }
            let sample = try sampled(blocks, axis)
            let partner = try weighted ? sampled(a <= b ? right : left, axis) : sample
            var gram =
                try a <= b
                ? partner.matmul(sample.transpose()) : sample.transpose().matmul(partner)
            if weighted, let metric = a <= b ? output : input {
                let factor = try Self.factor(sampled(sampled(metric, 1), 2))
                gram = try factor.transpose().matmul(gram).matmul(factor)
            }
            let symmetric = try (gram + gram.transpose()) * 0.5
            let values = try eigenvalues(.tensor(symmetric)).flip([1])
            return try Spectra(values * (Double(side) / Double(sample.shape[axis])))
        }

        /// L with L·Lᵀ equal to each of the positive semidefinite `matrices` plus 1e-10 of its mean
        /// diagonal entry, or more where their float32 sums need it.
        private static func factor(_ matrices: Tensor) throws -> Tensor {
            let size = matrices.shape[1]
            let means = try Tensor.einsum("bii->bi", matrices).mean([1])
            let unit = try Tensor.identity(size, dtype: .float64, device: matrices.device)
            for damping in [1e-10, 1e-6, 1e-3] {
                let shift = try (means * damping).clamp(min: 1e-30).reshape([-1, 1, 1])
                let results = try cholesky.tensors(.tensor(matrices + unit * shift))
                if try results[1].abs().sum().item() == 0 { return results[0] }
            }
            throw StageError.notFinite(what: "a second moment (it is not positive semidefinite)")
        }
    }

    private struct Spectra {
        /// Logarithms of the singular values, resampled, by patch.
        var logarithms: [[Double]]
        var condition: [Double]
        var effectiveRank: [Double]

        /// - Parameter values: Eigenvalues of a Gram matrix `[patch, side]`, descending.
        init(_ values: Tensor) throws {
            let (count, side) = (values.shape[0], values.shape[1])
            let largest = try values.narrow(1, 0..<1).clamp(min: 1e-300)
            let floored = try (values / largest).clamp(min: smallestRatio * smallestRatio)
            let logs = try (logarithm(.tensor(floored)) + logarithm(.tensor(largest))) * 0.5
            let weights = try PatchStatistics.resampling(side).to(values.device)
            let resampled: [Double] = try logs.matmul(weights).values()
            logarithms = (0..<count).map {
                Array(resampled[$0 * spectrumLength..<($0 + 1) * spectrumLength])
            }
            let last = try floored.narrow(1, side - 1..<side).sqrt()
            condition = try last.values(as: Double.self).map { 1 / $0 }
            let positive = try values.clamp(min: 0)
            let sums = try positive.sum([1]).square()
            let squares = try positive.square().sum([1]).clamp(min: 1e-300)
            effectiveRank = try (sums / squares / Double(side)).values()
        }
    }

    /// `[side, spectrumLength]`: column k interpolates linearly at (k + ½)/`spectrumLength` of the way.
    private static func resampling(_ side: Int) throws(TensorError) -> Tensor {
        var weights = [Double](repeating: 0, count: side * spectrumLength)
        for column in 0..<spectrumLength {
            let place = (Double(column) + 0.5) / Double(spectrumLength) * Double(side) - 0.5
            let position = min(max(place, 0), Double(side - 1))
            let lower = Int(position)
            let share = position - Double(lower)
            weights[lower * spectrumLength + column] += 1 - share
            if share > 0 { weights[(lower + 1) * spectrumLength + column] += share }
        }
        return try Tensor(weights, shape: [side, spectrumLength])
    }
}

/// `value` to five significant digits: what files need, in a third of the characters.
func significant(_ value: Double) -> Double {
    guard value != 0, value.isFinite else { return value }
    let exponent = 4 - Int(floor(log10(abs(value))))
    // Powers of ten up to 22 are exact, and a product and a quotient by them round once.
    if (0...22).contains(exponent) {
        let power = pow(10, Double(exponent))
        return (value * power).rounded() / power
    }
    return value
}
