import MinimaTensor

/// Windows of one step, or of one process's share of it.
struct HealingBatch: Sendable {
    /// The windows' numbers among the training windows.
    let windows: [Int]
    /// int64 `[window, token]` on the host: what the model reads.
    let inputs: Tensor
    /// int64 `[window, token]` on the host: the token after each input.
    let targets: Tensor
    /// float32 `[window, token]` on the host: 1 where the target counts for cross-entropy, else 0;
    /// `nil` where all count.
    let mask: Tensor?
}
