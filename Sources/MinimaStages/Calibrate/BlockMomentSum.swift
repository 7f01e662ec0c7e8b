import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// The block-diagonal second moment `Σ w·g·gᵀ / Σ w` of gradients at some outputs.
struct BlockMomentSum {
    /// Outputs per block.
    let size: Int
    private var sum: Tensor?

    init(size: Int) {
        self.size = size
    }

    /// Adds gradients `[…, outputs]`, each token with `weight`.
    mutating func add(_ gradients: Tensor, weight: Double) throws(TensorError) {
        let outputs = gradients.shape.last ?? 1
        let rows = try gradients.to(dtype: .float32).reshape([-1, outputs / size, size])
        let product = try rows.permute([1, 2, 0]).matmul(rows.permute([1, 0, 2]))
        try product.addWeighted(weight, to: &sum)
    }

    /// The mean `[blocks, size, size]` over tokens of `weight` in total, those included that did not
    /// reach these outputs and whose gradients are 0; rounded to the float32 that it is stored in.
    func mean(over weight: Double) throws(TensorError) -> Tensor? {
        try sum.map { (sum) throws(TensorError) in try (sum / weight).to(dtype: .float32) }
    }
}

/// The second moments of gradients at a site's stacked outputs.
struct OutputMomentSum {
    private var runs: [BlockMomentSum]

    /// - Parameter limit: As for ``Site/metricRuns(limit:)``.
    init(_ site: Site, limit: Int) {
        runs = site.metricRuns(limit: limit).map { BlockMomentSum(size: $0.size) }
    }

    /// Adds gradients `[…, outputs]` of each member, each token with `weight`.
    mutating func add(_ gradients: [Tensor], weight: Double) throws(TensorError) {
        let isJoint = runs.count == 1 && gradients.count > 1
        let parts = try isJoint ? [.cat(gradients, dim: -1)] : gradients
        for (index, part) in zip(runs.indices, parts) { try runs[index].add(part, weight: weight) }
    }

    /// H over tokens of `weight` in total; `nil` before the first token.
    func metric(over weight: Double) throws(TensorError) -> OutputMetric? {
        var means: [Tensor] = []
        for run in runs {
            guard let mean = try run.mean(over: weight) else { return nil }
            means.append(mean)
        }
        return try OutputMetric(runs: means)
    }
}

extension Site {
    /// The runs of equal blocks that the metric of the stacked outputs consists of: the outputs of
    /// each run, and of each of its blocks.
    ///
    /// One block over all members where they have at most `limit` outputs together; else a run per
    /// member. Its blocks are all of its outputs up to `limit`; else the smallest patch of rows in
    /// the site (a head of attention) where that has at most 256; else the largest divisor of the
    /// outputs that is at most 256.
    func metricRuns(limit: Int) -> [(outputs: Int, size: Int)] {
        if outputs <= limit { return [(outputs, outputs)] }
        let patches = members.map { member in
            member.patches.axis == .outputs ? member.outputs / member.patches.count : member.outputs
        }
        let unit = patches.min() ?? 1
        return members.map { member in
            if member.outputs <= limit { return (member.outputs, member.outputs) }
            if unit <= 256, member.outputs % unit == 0 { return (member.outputs, unit) }
            return (member.outputs, (1...256).last { member.outputs % $0 == 0 } ?? 1)
        }
    }
}
