import MinimaCore
import MinimaTensor
import Testing

@Suite("Network operators against PyTorch")
struct NetworkTests {
    let golden: TensorGoldens
    /// Sums of a few dozen float32 terms of about 1.
    let tolerance = 32 * DType.float32.epsilon

    init() throws {
        golden = try TensorGoldens()
    }

    @Test func attention() throws {
        let (q, k, v) = (
            try golden("attention.q"), try golden("attention.k"), try golden("attention.v")
        )
        #expect(
            try distance(
                q.attention(key: k, value: v, isCausal: true), golden("attention.causal"))
                <= tolerance)
        #expect(
            try distance(
                q.attention(
                    key: k.narrow(1, 0..<2), value: v.narrow(1, 0..<2), isCausal: true),
                golden("attention.grouped")) <= tolerance)
        let visible = try Tensor.ones([2, 6]).tril(4).equals(1)
        #expect(
            try distance(
                q.narrow(2, 4..<6).attention(key: k, value: v, mask: visible),
                golden("attention.cached")) <= tolerance)
    }

    @Test func rmsNorm() throws {
        let normed = try golden("rmsnorm.x").rmsNorm(golden("rmsnorm.weight"), epsilon: 1e-5)
        #expect(try distance(normed, golden("rmsnorm.y")) <= tolerance)
    }

    @Test(arguments: [
        (DType.bfloat16, "bfloat16"), (.float16, "float16"), (.float8e4m3, "float8_e4m3fn"),
        (.float8e5m2, "float8_e5m2"),
    ])
    func rounding(dtype: DType, name: String) throws {
        let ours: [Float] = try golden("round.input").to(dtype: dtype).values()
        let theirs: [Float] = try golden("round.\(name)").values()
        // Bit patterns, so that NaN and the sign of zero count.
        #expect(ours.count == theirs.count && !ours.isEmpty)
        for (left, right) in zip(ours, theirs) {
            #expect(left.bitPattern == right.bitPattern || left.isNaN && right.isNaN)
        }
    }
}
