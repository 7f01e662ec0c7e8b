import MinimaTensor

/// Distance between the residual streams of a student and its teacher.
///
/// Errors are relative token by token, so that the few tokens with huge activations (Sun et al.
/// 2024, "Massive activations in large language models") weigh no more than others.
public struct HiddenLoss: Sendable, Hashable {
    /// Layer boundaries that are compared: b is the residual stream after b layers.
    public var boundaries: [Int]
    /// Weight of the mean over boundaries and tokens.
    public var weight: Double

    /// Compares at `boundaries`.
    public init(boundaries: [Int], weight: Double) {
        self.boundaries = boundaries
        self.weight = weight
    }

    /// `count` boundaries spread evenly over a model of `layers`, its end among them; all where there
    /// are fewer.
    public static func spread(layers: Int, count: Int) -> [Int] {
        let count = min(max(count, 1), max(layers, 1))
        return (1...count).map { $0 * layers / count }
    }

    /// One boundary's share of the loss: weight / (boundaries · tokenCount) ·
    /// Σ ‖student − teacher‖² / ‖teacher‖², summed over tokens.
    ///
    /// - Parameters:
    ///   - student: The residual stream `[…, token, hidden]`.
    ///   - teacher: The teacher's at the same tokens.
    ///   - tokenCount: Tokens over all processes.
    /// - Returns: A float32 scalar, and its gradient at `student` in its dtype, which is what
    ///   back-propagation goes on with.
    func evaluate(student: Tensor, teacher: Tensor, tokenCount: Int) throws(TensorError) -> (
        loss: Tensor, gradient: Tensor
    ) {
        try withoutGradients { () throws(TensorError) in
            let target = try teacher.to(dtype: .float32)
            // Below the smallest normal number a token's activations count as zero.
            let energy = try target.square().sum([-1], keepDims: true)
                .clamp(min: Double(Float.leastNormalMagnitude))
            let difference = try student.to(dtype: .float32) - target
            let scaled = try difference / energy
            let share = weight / Double(max(boundaries.count, 1) * max(tokenCount, 1))
            return (
                try (difference * scaled).sum() * share,
                try (scaled * (2 * share)).to(dtype: student.dtype)
            )
        }
    }
}
