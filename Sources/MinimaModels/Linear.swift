import MinimaCore
import MinimaFormats
import MinimaTensor

/// A linear layer `y = W·x + b` whose weight is in any registered format.
public struct Linear: Sendable {
    /// The module's name in the checkpoint, `model.layers.0.self_attn.o_proj`.
    public let name: String
    /// W `[outputs, inputs]` in its format.
    public let weight: any LinearWeight
    /// b in parts that follow each other along the outputs; none for a layer without it.
    let biases: [Tensor]

    /// b `[outputs]`; `nil` for a layer without it.
    public func bias() throws(TensorError) -> Tensor? {
        try biases.count > 1 ? Tensor.cat(biases) : biases.first
    }

    /// `x` `[…, inputs]` to `[…, outputs]`.
    ///
    /// - Parameter substitute: A weight to use in place of this one.
    public func callAsFunction(_ x: Tensor, substituting substitute: (any LinearWeight)? = nil)
        throws(TensorError) -> Tensor
    {
        let weight = substitute ?? weight
        let bias = try bias()
        if let dense = weight as? Dense { return try x.linear(dense.weight, bias: bias) }
        if Self.isDenseCheaper(weight, rows: x.count / max(weight.inputs, 1)) {
            return try x.linear(weight.reconstruct().to(dtype: x.dtype), bias: bias)
        }
        let y = try weight.forward(x)
        guard let bias else { return y }
        return try y + bias
    }

    /// This layer with its weight as a matrix of `dtype`, for many calls, each of which would unpack or
    /// contract it again. A dense layer is returned as it is, leaves that train included.
    public func expanded(_ dtype: DType) throws(TensorError) -> Linear {
        guard !(weight is Dense) else { return self }
        return Linear(
            name: name, weight: Dense(try weight.reconstruct().to(dtype: dtype)), biases: biases)
    }

    /// Whether multiplying a weight out and then by `rows` rows takes less arithmetic than its own
    /// contraction, as for a tensor train whose input is split.
    ///
    /// Where gradients are recorded, the matrix takes three products per row: the output, and the
    /// gradients of the input and of the matrix. A frozen dense weight with an adapter beside it takes
    /// two, so less than half as much again is no reason.
    static func isDenseCheaper(_ weight: any LinearWeight, rows: Int) -> Bool {
        // The number of rows at which forming the matrix costs little beside its product.
        rows >= 256
            && Double(weight.multiplyAdds) > 1.5 * Double(weight.outputs * weight.inputs)
    }
}

/// Linear layers that read one input: query, key and value; gate and up; or one layer alone.
///
/// Their weights are stored one by one, or stacked along the outputs as one weight, which can then
/// share what it keeps of the input.
public struct LinearGroup: Sendable {
    /// The group's name in the checkpoint, `model.layers.0.self_attn.qkv_proj`.
    public let name: String
    /// Names of the layers in it.
    public let members: [String]
    /// Either one layer per member, or one for all of them.
    public let layers: [Linear]
    /// Outputs of each member.
    let sizes: [Int]

    /// Outputs `[…, outputs]` of each member for `x` `[…, inputs]`.
    ///
    /// - Parameter substitute: A stacked weight to use in place of the members'.
    public func callAsFunction(_ x: Tensor, substituting substitute: (any LinearWeight)? = nil)
        throws(TensorError) -> [Tensor]
    {
        if let substitute {
            let stacked = Linear(
                name: name, weight: substitute, biases: layers.flatMap(\.biases))
            return try stacked(x).split(sizes, dim: -1)
        }
        if layers.count == 1, sizes.count > 1 { return try layers[0](x).split(sizes, dim: -1) }
        var results: [Tensor] = []
        for layer in layers { results.append(try layer(x)) }
        return results
    }
}
