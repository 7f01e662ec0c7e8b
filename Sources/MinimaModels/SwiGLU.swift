import MinimaCore
import MinimaTensor

/// The gated feed-forward network `down(silu(gate(x)) · up(x))`.
///
/// - Note: Shazeer 2020, "GLU Variants Improve Transformer".
struct SwiGLU {
    let gate: Linear
    let up: Linear
    let down: Linear

    init(
        _ name: String, hidden: Int, intermediate: Int, bias: Bool, _ weights: inout WeightLoader
    ) throws {
        gate = try weights.linear(
            "\(name).gate_proj", outputs: intermediate, inputs: hidden, bias: bias)
        up = try weights.linear(
            "\(name).up_proj", outputs: intermediate, inputs: hidden, bias: bias)
        down = try weights.linear(
            "\(name).down_proj", outputs: hidden, inputs: intermediate, bias: bias)
    }

    func callAsFunction(_ x: Tensor, _ context: ForwardContext) throws -> Tensor {
        let projected = try context.apply(gate, up, to: x)
        let gated = try projected[0].silu()
        try gated.multiplyInPlace(projected[1])
        return try context.apply(down, gated)
    }

    static func linearShapes(_ name: String, hidden: Int, intermediate: Int) -> [LinearShape] {
        let input = "\(name).in"
        return [
            LinearShape(
                name: "\(name).gate_proj", outputs: intermediate, inputs: hidden, input: input),
            LinearShape(
                name: "\(name).up_proj", outputs: intermediate, inputs: hidden, input: input),
            LinearShape(
                name: "\(name).down_proj", outputs: hidden, inputs: intermediate,
                input: "\(name).down_proj"),
        ]
    }
}
