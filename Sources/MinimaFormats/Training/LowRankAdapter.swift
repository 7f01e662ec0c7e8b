import MinimaCore
import MinimaTensor

/// A frozen weight W with a product A·B of rank r beside it that trains (LoRA; Hu et al. 2021).
///
/// B `[r, inputs]` starts normal with variance 1/inputs and A `[outputs, r]` zero (section 4.1), so
/// that training starts at W. Their factor α/r is 1 (α = r); nothing of it is stored.
public struct LowRankAdapter {
    /// W + A·B as it runs and as it can be kept: a ``Sum``, or one part more where W is one.
    public let weight: any LinearWeight
    /// B and A, by their names in ``weight``.
    public let tensors: [TrainedTensor]
    private let base: any LinearWeight
    private let adapter: LowRank

    /// An adapter beside `weight`.
    ///
    /// - Parameters:
    ///   - rank: r; at most as many as the weight has rows and columns are taken.
    ///   - dtype: The type that the model computes in.
    public init(beside weight: any LinearWeight, rank: Int, dtype: DType, seed: UInt64) throws {
        let (outputs, inputs) = (weight.outputs, weight.inputs)
        let rank = min(rank, outputs, inputs)
        let device = weight.tensors[0].tensor.device
        let down =
            try Tensor.randn(
                [rank, inputs], generator: RandomGenerator(seed: seed)
            ) * (1 / Double(inputs).squareRoot())
        let leaves = [
            try down.to(device, dtype: dtype).leaf(),
            try Tensor.zeros([outputs, rank], dtype: dtype, device: device).leaf(),
        ]
        adapter = try LowRank(
            spec: FormatSpec(format: LowRank.name, ranks: [rank]), outputs: outputs,
            inputs: inputs, tensors: leaves)
        base = weight
        let sum = Sum.adding(adapter, to: weight)
        self.weight = sum
        let prefix = "\(Sum.prefix).\(sum.parts.count - 1)"
        tensors = adapter.tensors.map {
            TrainedTensor(name: "\(prefix).\($0.name)", tensor: $0.tensor, role: .adapter)
        }
    }

    /// W and the adapter as parts of a sum.
    public func kept() throws -> any LinearWeight { try weight.detached() }

    /// W + A·B in the format of W: its best approximation in the Frobenius norm, exact up to rounding
    /// where W is dense; W itself where that is nearer.
    ///
    /// - Returns: The weight, and ‖weight − (W + A·B)‖ / ‖W + A·B‖.
    public func merged() throws -> (weight: any LinearWeight, error: Double) {
        try withoutGradients { try Self.merged(base, adapter) }
    }

    private static func merged<Weight: LinearWeight>(_ base: Weight, _ adapter: LowRank) throws -> (
        weight: any LinearWeight, error: Double
    ) {
        let change = try adapter.exactMatrix()
        let sum = try base.exactMatrix() + change
        let merged = try Weight.decompose(
            sum.to(dtype: adapter.down.dtype), spec: base.spec, metric: nil)
        let (error, left) = (
            try (merged.exactMatrix() - sum).norm().item(), try change.norm().item()
        )
        let norm = try max(sum.norm().item(), .leastNormalMagnitude)
        return error <= left ? (merged, error / norm) : (base, left / norm)
    }
}
