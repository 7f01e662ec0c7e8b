import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Qwen3 with mixtures of experts in place of some or all feed-forward networks.
///
/// Experts are stored one by one, `mlp.experts.0.gate_proj.weight` and so on, as transformers 4 and
/// 5 write them; the router, `mlp.gate.weight`, is never compressed.
///
/// - Note: Yang et al. 2025, "Qwen3 Technical Report"; transformers' `modeling_qwen3_moe`.
public struct Qwen3Moe: PreNormModel {
    /// `qwen3_moe`.
    public static let modelTypes = ["qwen3_moe"]

    struct Configuration: Sendable {
        /// Everything that is as in the dense family.
        let base: PreNormConfiguration
        let experts: MoE.Configuration
        /// Which layers have experts.
        let isSparse: [Bool]

        /// Experts of all layers that are believed; the largest models have tens of thousands.
        static let largestExpertCount = 1 << 17

        init(_ config: ModelConfig) throws {
            base = try Qwen3.configuration(config, headDim: nil)
            // Transformers 5 writes one name, transformers 4 the other.
            let key =
                config.value("num_local_experts") == nil ? "num_experts" : "num_local_experts"
            let experts = try config.int(key, in: 1...Self.largestExpertCount / base.layers)
            self.experts = MoE.Configuration(
                hidden: base.hidden,
                intermediate: try config.int("moe_intermediate_size"),
                experts: experts,
                active: try config.int("num_experts_per_tok", in: 1...experts),
                isNormalised: try config.boolIfPresent("norm_topk_prob") ?? false)
            let step = try config.intIfPresent("decoder_sparse_step") ?? 1
            let dense = Set(try config.ints("mlp_only_layers"))
            isSparse = (0..<base.layers).map {
                !dense.contains($0) && ($0 + 1).isMultiple(of: step)
            }
            try config.requireMatrix(
                "moe_intermediate_size", rows: self.experts.intermediate, hidden: base.hidden)
            try config.requireMatrix(key, rows: experts, hidden: base.hidden)
        }

        /// What layer `index`'s experts, or its network, are called.
        func name(_ index: Int) -> String { "\(PreNormConfiguration.layerName(index)).mlp" }

        func sites(_ index: Int) -> [Site] {
            base.attentionSites(layer: index)
                + (isSparse[index]
                    ? MoE.sites(name(index), layer: index, experts)
                    : base.networkSites(layer: index))
        }
    }

    let parts: PreNormParts

    /// Builds the model from a Hugging Face checkpoint's tensors.
    public init(
        _ config: ModelConfig, device: Device, dtype: DType, weights: inout WeightLoader
    ) throws {
        let sizes = try Configuration(config)
        parts = try PreNormParts(
            sizes.base, device: device, dtype: dtype, weights: &weights
        ) { index, weights in
            sizes.isSparse[index]
                ? .sparse(try MoE(sizes.name(index), sizes.experts, &weights))
                : .dense(try SwiGLU(layer: index, sizes.base, &weights))
        }
    }

    /// Query, key and value; output; gate and up, then down, of the network or of each expert;
    /// layer by layer.
    public static func sites(_ config: ModelConfig) throws -> [Site] {
        let sizes = try Configuration(config)
        return (0..<sizes.base.layers).flatMap(sizes.sites)
    }
}
