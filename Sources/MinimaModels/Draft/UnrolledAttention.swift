import MinimaTensor

/// Attention of an unrolled training pass: of all places at once, each as if the draft had gone on from
/// it alone.
///
/// At step 0 place i sees the places up to itself. At step j it stands for what would be guessed j
/// tokens later: it sees the keys of step 0 up to its own place, for these were computed from the
/// target's features, and of every later step its own place only.
///
/// - Note: Li et al. 2025, "EAGLE-3", section 3.2 (training-time test).
public final class UnrolledAttention {
    /// Keys and values of step 0, `[batch, kvHead, token, dim]`, then those of the later steps.
    private var steps: [(key: Tensor, value: Tensor)] = []
    /// True above the diagonal, `[token, token]`.
    private var isLater: Tensor?

    /// No step has been taken.
    public init() {}

    /// Attention of the next step, which may have fewer places than the step before: the first of
    /// them.
    ///
    /// - Parameters:
    ///   - query: `[batch, head, token, dim]`, rotated.
    ///   - key: `[batch, kvHead, token, dim]`, rotated.
    ///   - value: as `key`.
    /// - Returns: `[batch, token, head · dim]`.
    /// - Complexity: Keeps one matrix `[batch, head, token, token]` in float32 and one in the
    ///   query's type for the gradient of each step after the first.
    public func callAsFunction(_ query: Tensor, _ key: Tensor, _ value: Tensor)
        throws(TensorError) -> Tensor
    {
        steps.append((key, value))
        let shape = query.shape
        let (batch, tokens, dim) = (shape[0], shape[2], shape[3])
        guard steps.count > 1 else {
            isLater = try Tensor.ones([tokens, tokens], dtype: .uint8, device: query.device)
                .triu(1).to(dtype: .bool)
            return try query.attention(key: key, value: value, isCausal: tokens > 1)
                .transpose(1, 2).reshape([batch, tokens, -1])
        }
        let kvHeads = key.shape[1]
        let groups = shape[1] / kvHeads
        let grouped = [batch, kvHeads, groups, tokens, dim]
        let q = try query.reshape(grouped) * (1 / Double(dim).squareRoot())
        let first = (
            key: try steps[0].key.narrow(2, 0..<tokens),
            value: try steps[0].value.narrow(2, 0..<tokens)
        )
        // Heads of one key as rows of one product, so that no key is copied.
        let rows = [batch, kvHeads, groups * tokens, dim]
        var scores = try q.reshape(rows).matmul(first.key.transpose())
            .reshape([batch, kvHeads, groups, tokens, tokens]).to(dtype: .float32)
        if let isLater {
            let mask = try isLater.narrow(0, 0..<tokens).narrow(1, 0..<tokens)
            scores = try scores.maskedFill(mask, -.infinity)
        }
        var parts = [scores]
        for step in steps.dropFirst() {
            let own = try step.key.narrow(2, 0..<tokens).unsqueeze(2)
            parts.append(try (q * own).sum([-1], keepDims: true, dtype: .float32))
        }
        let shares = try Tensor.cat(parts, dim: -1).softmax().to(dtype: query.dtype)
        var output = try shares.narrow(4, 0..<tokens).reshape(
            [batch, kvHeads, groups * tokens, tokens]
        ).matmul(first.value).reshape(grouped)
        for (index, step) in steps.dropFirst().enumerated() {
            let own = try step.value.narrow(2, 0..<tokens).unsqueeze(2)
            let column = tokens + index
            output = try output + shares.narrow(4, column..<column + 1) * own
        }
        return try output.reshape(shape).transpose(1, 2).reshape([batch, tokens, -1])
    }
}
