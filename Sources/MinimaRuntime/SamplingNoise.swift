import MinimaCore
import MinimaTensor

// Functions of sampling on which a CPU, a GPU's tensor operators and the sampling kernel agree bit for
// bit: integers, and float32 sums and products that are each rounded once, in a fixed order. Each
// operator call below is one such step; the constants are float32 numbers.

private enum Ops {
    static let mul = Operator("aten::mul", "Scalar")
    static let add = Operator("aten::add", "Scalar")
    static let and = Operator("aten::bitwise_and", "Scalar")
    static let xor = Operator("aten::bitwise_xor", "Tensor")
    static let left = Operator("aten::bitwise_left_shift", "Tensor_Scalar")
    static let right = Operator("aten::bitwise_right_shift", "Tensor_Scalar")
    static let view = Operator("aten::view", "dtype")
    static let round = Operator("aten::round")
    static let clamp = Operator("aten::clamp")
    static let frexp = Operator("aten::frexp", "Tensor")
    static let stack = Operator("aten::stack")
}

private let ln2 = 0x1.62e43p-1
private let lowWord = 0xFFFF_FFFF

extension Tensor {
    /// The bytes read as another type of the same size.
    func reinterpreted(as dtype: DType) throws(TensorError) -> Tensor {
        try Ops.view(.tensor(self), .dtype(dtype))
    }

    private func plus(_ value: Int) throws(TensorError) -> Tensor {
        try Ops.add(.tensor(self), .int(value))
    }

    func shiftedRight(_ bits: Int) throws(TensorError) -> Tensor {
        try Ops.right(.tensor(self), .int(bits))
    }

    func and(_ mask: Int) throws(TensorError) -> Tensor {
        try Ops.and(.tensor(self), .int(mask))
    }

    private func shiftedLeft(_ bits: Int) throws(TensorError) -> Tensor {
        try Ops.left(.tensor(self), .int(bits))
    }

    private func xor(_ other: Tensor) throws(TensorError) -> Tensor {
        try Ops.xor(.tensor(self), .tensor(other))
    }

    /// c₀ + c₁x + …, by Horner's rule, each product and each sum rounded.
    private func polynomial(_ coefficients: [Double]) throws(TensorError) -> Tensor {
        var sum = try self * (coefficients.last ?? 0)
        for coefficient in coefficients.dropLast().dropFirst().reversed() {
            sum = try (sum + coefficient) * self
        }
        return try sum + (coefficients.first ?? 0)
    }

    /// eˣ for x ≤ 0, float32; 0 below −87. Relative error at most 2⁻²³.
    func reproducibleExp() throws(TensorError) -> Tensor {
        let x = try Ops.clamp(.tensor(self), .double(-87), .double(0))
        let n = try Ops.round(.tensor(x * 0x1.715476p0))
        // ln 2 in two parts; the first has 9 bits, so that its product with n is exact.
        let r = try (x - n * 0x1.63p-1) - n * -0x1.bd0106p-13
        let tail = try r.polynomial([
            0x1p-1, 0x1.555486p-3, 0x1.555454p-5, 0x1.124148p-7, 0x1.6dbc68p-10,
        ])
        let power = try n.to(dtype: .int32).plus(127).shiftedLeft(23).reinterpreted(as: .float32)
        return try (((r * r) * tail + r) + 1).multiplied(power)
            .maskedFill(isLess(than: -87), 0)
    }

    private func multiplied(_ other: Tensor) throws(TensorError) -> Tensor { try self * other }

    /// ln x for normal x > 0, float32; absolute error at most 2⁻²³·(1 + |ln x|).
    func reproducibleLog() throws(TensorError) -> Tensor {
        // x = m·2ᵉ with m in [√½, √2).
        let bits = try reinterpreted(as: .int32)
        let exponent = try bits.plus(-0x3F35_04F3).shiftedRight(23)
        let mantissa = try (bits - exponent.shiftedLeft(23)).reinterpreted(as: .float32)
        let f = try mantissa + -1
        let tail = try f.polynomial([
            -0x1.fffff4p-2, 0x1.5557acp-2, -0x1.000688p-2, 0x1.98a666p-3, -0x1.52fde8p-3,
            0x1.32c69ap-3, -0x1.27c4fep-3, 0x1.65baa8p-4,
        ])
        return try ((f * f) * tail + f) + exponent.to(dtype: .float32) * ln2
    }

    /// −ln(j·2⁻³²) for integers j (int64) in 0..<2³², a draw from the exponential distribution with
    /// mean 1; float32, relative error at most 2⁻²². 0 counts as 1.
    func exponentialDraw() throws(TensorError) -> Tensor {
        let j = try Ops.clamp(.tensor(self), .int(1), .none).to(dtype: .float64)
        // j = m·2ⁿ with m in [½, 1): −ln(j·2⁻³²) = (32 − n)·ln 2 − ln(1 − y), y = 1 − m, which keeps
        // its relative precision where j is close to 2³²: those draws win.
        let parts = try Ops.frexp.tensors(.tensor(j))
        let y = try (parts[0] * -1 + 1).to(dtype: .float32)
        let tail = try y.polynomial([
            0x1.fffe8cp-2, 0x1.55adbp-2, 0x1.f1b5dap-3, 0x1.138c3cp-2, -0x1.a2f706p-3, 0x1.43f87ep0,
            -0x1.b5dac6p0, 0x1.734526p0,
        ])
        return try ((y * y) * tail + y)
            + (parts[1].to(dtype: .float32) * -1 + 32) * ln2
    }
}

/// Random bits that are a function of a key and a counter: Philox 4×32 with 10 rounds (Salmon et al.
/// 2011, "Parallel random numbers: as easy as 1, 2, 3").
enum Philox {
    private static let multipliers = (0xD251_1F53, 0xCD9E_8D57)
    private static let steps = (0x9E37_79B9, 0xBB67_AE85)

    /// The four 32-bit words of each counter, int64.
    ///
    /// - Parameters:
    ///   - counter: Four words, int64, that broadcast together.
    ///   - key: Two words, likewise.
    static func words(counter: [Tensor], key: (Tensor, Tensor)) throws(TensorError) -> [Tensor] {
        var (c, k) = (counter, key)
        for round in 0..<10 {
            if round > 0 {
                k.0 = try Ops.and(.tensor(Ops.add(.tensor(k.0), .int(steps.0))), .int(lowWord))
                k.1 = try Ops.and(.tensor(Ops.add(.tensor(k.1), .int(steps.1))), .int(lowWord))
            }
            // Products of 32-bit words fill 64 bits; as int64 they wrap to the same bits.
            let first = try Ops.mul(.tensor(c[0]), .int(multipliers.0))
            let second = try Ops.mul(.tensor(c[2]), .int(multipliers.1))
            c = [
                try Ops.xor(.tensor(Ops.xor(.tensor(high(second)), .tensor(c[1]))), .tensor(k.0)),
                try Ops.and(.tensor(second), .int(lowWord)),
                try Ops.xor(.tensor(Ops.xor(.tensor(high(first)), .tensor(c[3]))), .tensor(k.1)),
                try Ops.and(.tensor(first), .int(lowWord)),
            ]
        }
        return c
    }

    private static func high(_ product: Tensor) throws(TensorError) -> Tensor {
        try product.shiftedRight(32).and(lowWord)
    }

    /// A 32-bit word for every token of every row, int64 `[rows, vocabulary]`: word `t % 4` of the
    /// counter (t / 4, position, 0, 0) under the row's seed.
    static func tokenWords(
        seeds: [UInt64], positions: [Int], vocabulary: Int, device: Device
    ) throws(TensorError) -> Tensor {
        func column(_ values: [Int]) throws(TensorError) -> Tensor {
            try Tensor(values.map(Int64.init), shape: [values.count, 1]).to(device)
        }
        let groups = try Tensor.arange(0..<(vocabulary + 3) / 4, device: device).unsqueeze(0)
        let zero = try Tensor.zeros([1, 1], dtype: .int64, device: device)
        let words = try Philox.words(
            counter: [groups, column(positions), zero, zero],
            key: (
                column(seeds.map { Int(truncatingIfNeeded: $0) & lowWord }),
                column(seeds.map { Int(truncatingIfNeeded: $0 >> 32) })
            ))
        return try Ops.stack(.tensors(words), .int(-1)).flatten(1).narrow(1, 0..<vocabulary)
    }
}
