import MinimaCore
import MinimaTensor

private enum Ops {
    static let bincount = Operator("aten::bincount")
    static let indexAdd = Operator("aten::index_add_")
    static let stableSort = Operator("aten::sort", "stable")
}

/// A sparse mixture of gated feed-forward networks: each token runs through the few experts that
/// the router gives the largest probabilities, and their outputs are summed with those as weights.
///
/// - Note: Shazeer et al. 2017, "Outrageously Large Neural Networks: The Sparsely-Gated
///   Mixture-of-Experts Layer"; Fedus et al. 2022, "Switch Transformers".
struct MoE {
    /// Sizes of a mixture, and how its outputs are weighted.
    struct Configuration: Sendable {
        let hidden: Int
        /// Neurons of one expert.
        let intermediate: Int
        let experts: Int
        /// Experts that a token runs through.
        let active: Int
        /// Whether the weights of a token's experts are divided by their sum.
        let isNormalised: Bool
    }

    private struct Expert {
        let gateUp: LinearGroup
        /// A group of one: what it gives is weighted before it reaches the residual stream.
        let down: LinearGroup
    }

    private let config: Configuration
    private let router: Tensor
    private let experts: [Expert]

    init(_ name: String, _ config: Configuration, _ weights: inout WeightLoader) throws {
        self.config = config
        router = try weights.tensor(
            "\(name).gate.weight", shape: [config.experts, config.hidden])
        experts = try (0..<config.experts).map { index in
            let sites = Self.sites(name, layer: 0, expert: index, config)
            return Expert(
                gateUp: try weights.group(sites[0], bias: false),
                down: try weights.group(sites[1], bias: false))
        }
    }

    /// The residual stream `stream` after the experts have read `x`, its norm.
    ///
    /// Expert after expert reads its tokens `[1, token, hidden]`, in the order in which they stand in
    /// `x`; an expert without tokens is left out. A token occurs at most once per expert, so that
    /// sums have one order on every device.
    func callAsFunction(_ x: Tensor, addingTo stream: Tensor, _ context: ForwardContext) throws
        -> Tensor
    {
        let rows = try x.reshape([-1, config.hidden])
        let routes = try Routes(rows, router: router, config)
        let sum = try Tensor.zeros(rows.shape, dtype: rows.dtype, device: rows.device)
        for (expert, range) in zip(experts, routes.ranges) where !range.isEmpty {
            let tokens = try routes.tokens.narrow(0, range)
            let input = try rows.selecting(0, tokens).unsqueeze(0)
            let projected = try context.apply(expert.gateUp, input)
            let output = try context.apply(expert.down, SwiGLU.gated(projected))[0].squeeze(0)
            let weighted = try output * routes.weights.narrow(0, range).unsqueeze(1)
            _ = try Ops.indexAdd(.tensor(sum), .int(0), .tensor(tokens), .tensor(weighted))
        }
        let result = try sum.reshape(stream.shape)
        try result.addInPlace(stream)
        return result
    }

    /// Gate and up, then down, of one expert after the other.
    static func sites(_ name: String, layer: Int, _ config: Configuration) -> [Site] {
        (0..<config.experts).flatMap { sites(name, layer: layer, expert: $0, config) }
    }

    private static func sites(
        _ name: String, layer: Int, expert: Int, _ config: Configuration
    ) -> [Site] {
        SwiGLU.sites(
            "\(name).experts.\(expert)", layer: layer, hidden: config.hidden,
            intermediate: config.intermediate
        ).map { $0.routed(share: Double(config.active) / Double(config.experts)) }
    }
}

/// Which tokens each expert reads: pairs of a token and one of its experts, expert after expert.
private struct Routes {
    /// The pairs of each expert.
    let ranges: [Range<Int>]
    /// The token of each pair, int64 `[token · active]`; ascending within an expert.
    let tokens: Tensor
    /// What the expert's output counts for the token, `[token · active]`.
    let weights: Tensor

    /// The routes of tokens `x` `[token, hidden]`; their counts are the one thing that is copied to
    /// the host.
    init(_ x: Tensor, router: Tensor, _ config: MoE.Configuration) throws {
        let probabilities = try x.linear(router).softmax(dtype: .float32)
        var (values, experts) = try probabilities.topK(config.active)
        if config.isNormalised { values = try values / values.sum([-1], keepDims: true) }
        let flat = try experts.reshape([-1])
        let order = try Ops.stableSort.tensors(
            .tensor(flat), .bool(true), .int(0), .bool(false))[1]
        tokens = try Tensor.arange(0..<x.shape[0], device: x.device).unsqueeze(1)
            .expand(experts.shape).reshape([-1]).selecting(0, order)
        weights = try values.to(dtype: x.dtype).reshape([-1]).selecting(0, order)
        let counts: [Int64] = try Ops.bincount(.tensor(flat), .none, .int(config.experts)).values()
        var start = 0
        ranges = counts.map { count in
            defer { start += Int(count) }
            return start..<start + Int(count)
        }
    }
}
