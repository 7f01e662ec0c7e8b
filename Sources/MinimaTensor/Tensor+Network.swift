import MinimaCore

private enum Ops {
    static let matmul = Operator("aten::matmul")
    static let linear = Operator("aten::linear")
    static let embedding = Operator("aten::embedding")
    static let rmsNorm = Operator("aten::rms_norm")
    static let silu = Operator("aten::silu")
    static let attention = Operator("aten::scaled_dot_product_attention")
    static let einsum = Operator("aten::einsum")
    static let tensordot = Operator("aten::tensordot")
    static let crossEntropy = Operator("aten::cross_entropy_loss")
}

extension Tensor {
    /// Matrix product over the last two dimensions, broadcast over the others.
    public func matmul(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.matmul(.tensor(self), .tensor(other))
    }

    /// `self · weightᵀ + bias` for `self` `[…, in]`, `weight` `[out, in]`, `bias` `[out]`.
    public func linear(_ weight: Tensor, bias: Tensor? = nil) throws(TensorError) -> Tensor {
        try Ops.linear(.tensor(self), .tensor(weight), .optional(bias))
    }

    /// Rows of this table `[vocabulary, dim]` at int64 `indices` `[…]`: `[…, dim]`.
    public func embedding(_ indices: Tensor) throws(TensorError) -> Tensor {
        try Ops.embedding(.tensor(self), .tensor(indices))
    }

    /// `x / sqrt(mean(x²) + epsilon) · weight` over the last dimension.
    ///
    /// - Note: Zhang & Sennrich 2019. Half-precision inputs are normalised in float32.
    public func rmsNorm(_ weight: Tensor, epsilon: Double) throws(TensorError) -> Tensor {
        try Ops.rmsNorm(
            .tensor(self), .ints([weight.shape.last ?? 1]), .tensor(weight), .double(epsilon))
    }

    /// `x · sigmoid(x)` of every element.
    public func silu() throws(TensorError) -> Tensor {
        try Ops.silu(.tensor(self))
    }

    /// Scaled dot-product attention of this query `[batch, head, token, dim]`.
    ///
    /// - Parameters:
    ///   - key: `[batch, kvHead, context, dim]`; `head` is a multiple of `kvHead`.
    ///   - value: as `key`.
    ///   - mask: Added to the scores when floating point, kept where true when bool; broadcast to
    ///     `[batch, head, token, context]`.
    ///   - isCausal: Whether query `t` sees keys `0...t` only; not together with `mask`.
    ///   - scale: Factor of the scores; `1/√dim` by default.
    public func attention(
        key: Tensor, value: Tensor, mask: Tensor? = nil, isCausal: Bool = false,
        scale: Double? = nil
    ) throws(TensorError) -> Tensor {
        let grouped = shape.count == 4 && key.shape.count == 4 && shape[1] != key.shape[1]
        return try Ops.attention(
            .tensor(self), .tensor(key), .tensor(value), .optional(mask), .double(0),
            .bool(isCausal), scale.map { .double($0) } ?? .none, .bool(grouped))
    }

    /// Sum of products in Einstein's notation, `ij,jk->ik`; letters are case-sensitive.
    public static func einsum(_ equation: String, _ operands: Tensor...) throws(TensorError)
        -> Tensor
    {
        try Ops.einsum(.text(equation), .tensors(operands))
    }

    /// Sum over pairs of dimensions: `dims` of this tensor with `otherDims` of `other`.
    public func tensordot(_ other: Tensor, _ dims: [Int], _ otherDims: [Int]) throws(TensorError)
        -> Tensor
    {
        try Ops.tensordot(.tensor(self), .tensor(other), .ints(dims), .ints(otherDims))
    }

    /// Negative log-likelihood of int64 `targets` `[n]` under these logits `[n, classes]`.
    ///
    /// - Returns: float `[n]`; 0 where the target is -100.
    public func crossEntropy(_ targets: Tensor) throws(TensorError) -> Tensor {
        try Ops.crossEntropy(.tensor(self), .tensor(targets), .none, .int(0), .int(-100))
    }
}
