import MinimaTensor

/// Attention in which several query heads share a head of keys and values, with rotary embedding
/// and perhaps normalised queries and keys.
///
/// - Note: Ainslie et al. 2023, "GQA"; Su et al. 2021, "RoFormer"; Dehghani et al. 2023, "Scaling
///   Vision Transformers to 22 Billion Parameters" (normalised queries and keys).
struct GroupedQueryAttention {
    let qkv: LinearGroup
    let output: Linear
    /// Weights `[headDim]` of the norms of each query and key head.
    let norms: (query: Tensor, key: Tensor)?
    let headDim: Int
    let epsilon: Double

    init(layer: Int, _ config: PreNormConfiguration, _ weights: inout WeightLoader) throws {
        let sites = config.attentionSites(layer: layer)
        qkv = try weights.group(sites[0], bias: config.attentionBias)
        output = try weights.linear(sites[1], bias: config.attentionBias)
        let name = "\(PreNormConfiguration.layerName(layer)).self_attn"
        norms =
            config.normalisesQueriesAndKeys
            ? (
                try weights.tensor("\(name).q_norm.weight", shape: [config.headDim]),
                try weights.tensor("\(name).k_norm.weight", shape: [config.headDim])
            ) : nil
        headDim = config.headDim
        epsilon = config.epsilon
    }

    /// The residual stream `stream` after this attention has read `x`, its norm.
    func callAsFunction(
        _ x: Tensor, addingTo stream: Tensor, layer: Int, _ context: ForwardContext
    ) throws -> Tensor {
        var heads = try context.apply(qkv, x).map {
            try $0.reshape([context.batch, context.tokens, -1, headDim])
        }
        if let norms {
            heads[0] = try heads[0].rmsNorm(norms.query, epsilon: epsilon)
            heads[1] = try heads[1].rmsNorm(norms.key, epsilon: epsilon)
        }
        heads = try heads.map { try $0.transpose(1, 2) }
        let attended = try context.attend(
            layer: layer,
            query: RotaryEmbedding.rotate(heads[0], context),
            key: RotaryEmbedding.rotate(heads[1], context),
            value: heads[2])
        return try context.apply(output, attended, addingTo: stream)
    }
}
