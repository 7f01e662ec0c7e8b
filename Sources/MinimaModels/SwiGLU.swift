import MinimaCheckpoint
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
        [
            LinearShape(name: "\(name).gate_proj", outputs: intermediate, inputs: hidden),
            LinearShape(name: "\(name).up_proj", outputs: intermediate, inputs: hidden),
            LinearShape(name: "\(name).down_proj", outputs: hidden, inputs: intermediate),
        ]
    }
}

extension ModelConfig {
    /// Throws unless the FFN's activation is SiLU.
    func requireSiLU() throws {
        let activation = try stringIfPresent("hidden_act") ?? "silu"
        guard activation == "silu" else {
            throw ModelError.unsupported(
                path: path, key: "hidden_act", found: "\"\(activation)\"", supported: "\"silu\"")
        }
    }

    /// Throws unless `count` is a multiple of `divisor`.
    func requireDivisible(_ key: String, _ count: Int, by divisor: Int) throws {
        guard count.isMultiple(of: divisor) else {
            throw mismatch(key, expected: "a multiple of num_key_value_heads (\(divisor))")
        }
    }
}
