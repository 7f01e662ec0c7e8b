import MinimaCheckpoint
import MinimaCore
import MinimaTensor

extension Float8Blocks {
    /// What a weight and its scales stand for: products in float32, rounded once more.
    ///
    /// - Parameters:
    ///   - weight: float8 `[outputs, inputs]`, on whose device the products are made.
    ///   - scales: `[⌈outputs / rows⌉, ⌈inputs / columns⌉]`, any floating-point type.
    ///   - dtype: The result's type.
    /// - Returns: `[outputs, inputs]` on the weight's device.
    /// - Throws: `TensorError` on exhausted memory.
    /// - Note: DeepSeek-AI 2024, "DeepSeek-V3 Technical Report", section 3.3.2.
    func values(_ weight: Tensor, scales: Tensor, dtype: DType) throws(TensorError) -> Tensor {
        let (outputs, inputs) = (weight.shape[0], weight.shape[1])
        let wide = try scales.to(weight.device, dtype: .float32).unsqueeze(2)
            .expand([-1, -1, min(columns, inputs)]).reshape([scales.shape[0], -1])
            .narrow(1, 0..<inputs)
        let result = try Tensor.empty([outputs, inputs], dtype: dtype, device: weight.device)
        // Block by block: the product of a large weight in float32 is four times as large as it.
        for (block, start) in stride(from: 0, to: outputs, by: rows).enumerated() {
            let band = start..<min(start + rows, outputs)
            try result.narrow(0, band).copy(
                from: weight.narrow(0, band).to(dtype: .float32)
                    * wide.narrow(0, block..<block + 1))
        }
        return result
    }
}

extension Checkpoint {
    /// What the float8 weight `tensor` called `name` stands for.
    ///
    /// - Throws: `CheckpointError` for scales that are missing, of another shape or no numbers.
    func expanded(_ tensor: Tensor, name: String, _ blocks: Float8Blocks) throws -> Tensor {
        var claims = TensorClaims(self)
        _ = claims.claim(name, shape: tensor.shape)
        try claims.check()
        return try blocks.values(
            tensor, scales: self.tensor(Float8Blocks.scaleName(of: name)), dtype: storedDType())
    }
}
