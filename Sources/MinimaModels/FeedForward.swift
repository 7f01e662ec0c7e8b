import MinimaTensor

/// What a layer has behind attention.
enum FeedForward {
    case dense(SwiGLU)
    case sparse(MoE)

    /// The residual stream `stream` after this network has read `x`, its norm.
    func callAsFunction(_ x: Tensor, addingTo stream: Tensor, _ context: ForwardContext) throws
        -> Tensor
    {
        switch self {
        case .dense(let network): try network(x, addingTo: stream, context)
        case .sparse(let experts): try experts(x, addingTo: stream, context)
        }
    }
}

extension SwiGLU {
    /// The network of a layer.
    init(layer: Int, _ sizes: PreNormSizes, _ weights: inout WeightLoader) throws {
        try self.init(
            "\(PreNormSizes.layerName(layer)).mlp", hidden: sizes.hidden,
            intermediate: sizes.intermediate, bias: sizes.mlpBias, &weights)
    }
}
