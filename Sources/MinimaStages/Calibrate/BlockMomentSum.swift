import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// The block-diagonal second moment `Σ w·g·gᵀ / Σ w` of gradients at a linear layer's outputs.
struct BlockMomentSum {
    /// Outputs per block.
    let size: Int
    private var weight = 0.0
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
        self.weight += weight * Double(rows.shape[0])
    }

    /// The mean `[blocks, size, size]`, rounded to the float32 that it is stored in.
    func mean() throws(TensorError) -> Tensor? {
        try sum.map { (sum) throws(TensorError) in try (sum / weight).to(dtype: .float32) }
    }
}

extension Site {
    /// Outputs per block of the metric of each member's outputs.
    ///
    /// All outputs up to `limit`; else the smallest patch of rows in the site (a head of attention)
    /// where that has at most 256; else the largest divisor of the outputs that is at most 256.
    func metricBlocks(limit: Int) -> [Int] {
        let patches = members.map { member in
            member.patches.axis == .outputs ? member.outputs / member.patches.count : member.outputs
        }
        let unit = patches.min() ?? 1
        return members.map { member in
            if member.outputs <= limit { return member.outputs }
            if unit <= 256, member.outputs % unit == 0 { return unit }
            return (1...256).last { member.outputs % $0 == 0 } ?? 1
        }
    }
}
