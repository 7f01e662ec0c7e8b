import MinimaCore
import MinimaTensor

/// The gated feed-forward network `down(silu(gate(x)) · up(x))`.
///
/// - Note: Shazeer 2020, "GLU Variants Improve Transformer".
struct SwiGLU {
    let gateUp: LinearGroup
    let down: Linear

    init(
        _ name: String, hidden: Int, intermediate: Int, bias: Bool, _ weights: inout WeightLoader
    ) throws {
        let sites = Self.sites(name, layer: 0, hidden: hidden, intermediate: intermediate)
        gateUp = try weights.group(sites[0], bias: bias)
        down = try weights.linear(sites[1], bias: bias)
    }

    /// The residual stream `stream` after this network has read `x`, its norm.
    func callAsFunction(_ x: Tensor, addingTo stream: Tensor, _ context: ForwardContext) throws
        -> Tensor
    {
        let projected = try context.apply(gateUp, x)
        return try context.apply(down, Self.gated(projected), addingTo: stream)
    }

    /// silu(gate)·up of the outputs of ``gateUp``.
    static func gated(_ projected: [Tensor]) throws(TensorError) -> Tensor {
        let gate = try projected[0].silu()
        // In place, a recorded product would keep a copy of what it overwrites.
        if gate.requiresGrad || projected[1].requiresGrad { return try gate * projected[1] }
        try gate.multiplyInPlace(projected[1])
        return gate
    }

    /// Gate and up, then down; the FFN's neurons in blocks.
    static func sites(_ name: String, layer: Int, hidden: Int, intermediate: Int) -> [Site] {
        let rows = PatchGrid.blocks(.outputs, of: intermediate)
        return [
            Site(
                "\(name).gate_up_proj", layer: layer, inputs: hidden,
                members: ["gate_proj", "up_proj"].map {
                    LinearShape(
                        name: "\(name).\($0)", outputs: intermediate, inputs: hidden,
                        patches: rows)
                }),
            Site(
                LinearShape(
                    name: "\(name).down_proj", outputs: hidden, inputs: intermediate,
                    patches: PatchGrid(.inputs, count: rows.count)),
                layer: layer, addsToResidual: true),
        ]
    }
}
