import MinimaTensor

/// A teacher's distributions over the next token, cut to the most probable tokens.
struct TeacherRows: Sendable {
    /// float32 `[rows, k]`: log-probabilities of the most probable tokens; with ``tail`` they make 1.
    let logProbabilities: Tensor
    /// int64 `[rows, k]`: those tokens.
    let ids: Tensor
    /// float32 `[rows]`: the probability of all other tokens together.
    let tail: Tensor

    /// Distributions from their parts.
    init(logProbabilities: Tensor, ids: Tensor, tail: Tensor) {
        self.logProbabilities = logProbabilities
        self.ids = ids
        self.tail = tail
    }

    /// The `count` most probable tokens of each row of `logits` `[rows, vocabulary]`.
    init(logits: Tensor, temperature: Double = 1, count: Int) throws(TensorError) {
        let softened = try logits.to(dtype: .float32) / temperature
        let all = try softened.logSoftmax()
        (logProbabilities, ids) = try all.topK(count)
        // Summed rather than 1 − Σ, which would leave rounding errors where nothing is left.
        let others = try all.exp()
        _ = try scatterValueOperator(.tensor(others), .int(1), .tensor(ids), .double(0))
        tail = try others.sum([1])
    }

    /// The rows `range`.
    func narrow(_ range: Range<Int>) throws(TensorError) -> TeacherRows {
        TeacherRows(
            logProbabilities: try logProbabilities.narrow(0, range), ids: try ids.narrow(0, range),
            tail: try tail.narrow(0, range))
    }
}

private let scatterValueOperator = Operator("aten::scatter_", "value")
