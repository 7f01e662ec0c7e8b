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
    init(layer: Int, _ config: PreNormConfiguration, _ weights: inout WeightLoader) throws {
        try self.init(
            "\(PreNormConfiguration.layerName(layer)).mlp", hidden: config.hidden,
            intermediate: config.intermediate, bias: config.mlpBias, &weights)
    }
}
