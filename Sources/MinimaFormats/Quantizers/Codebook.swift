import MinimaCore
import MinimaTensor

private let bucketizeOperator = Operator("aten::bucketize", "Tensor")
private let takeOperator = Operator("aten::take")

/// The values that codes of a number of bits stand for, relative to a scale: one of 2^bits levels
/// for each code, symmetric about 0, the outermost ±1.
///
/// Normal levels are, up to 6 bits, the Lloyd–Max quantiser of a normal distribution (Max 1960,
/// table I): weights of a group are close to normal, and under GPTQ at 3 and 4 bits these levels
/// leave 12% and 22% less error than equally spaced ones with equally searched scales
/// (ref-qwen3-20m, layers 3 and 8, groups of 64). Uniform ones, and all at 8 bits, are equally
/// spaced: integers, which decoding multiplies with as they are. Codes are in the levels' order.
///
/// Float8 levels are the numbers of e4m3 / 448, codes their bits: a sign, four bits of exponent
/// with bias 7, three of mantissa (Micikevicius et al. 2022, table 1; OCP 8-bit Floating Point
/// Specification, revision 1.0). Rounding is to the nearest, to +0 rather than -0, and never to the
/// codes 0x7F and 0xFF, which are NaN in e4m3; read, they stand for ±448.
struct Codebook: Sendable {
    /// Bits that a code may have.
    static let allowedBits = [2, 3, 4, 5, 6, 8]

    /// The share of a cell's half that ``cells(_:)`` leaves out at its edge: latents right at an
    /// edge are across after one step. From 0.5 or 0.75 training ends best, a little short of where
    /// it ends from the levels, and at half the learning rate (`StraightThrough`'s experiment).
    static let margin = 0.5

    /// Levels by code `[2^bits]`, float32.
    let levels: Tensor
    /// Midpoints of neighbouring levels, ascending, float32; one less than there are levels.
    let bounds: Tensor
    /// The code of each level in ascending order, int64; `nil` where codes are in that order.
    private let order: Tensor?
    private let bits: Int
    private let kind: FormatSpec.Levels

    /// The levels of `bits` on `device`.
    init(bits: Int, levels kind: FormatSpec.Levels = .normal, device: Device) throws(TensorError) {
        (self.bits, self.kind) = (bits, kind)
        let values = Self.values(bits: bits, levels: kind)
        let codes = Self.ascendingCodes(bits: bits, levels: kind)
        levels = try Tensor(values).to(device)
        bounds = try Tensor(Self.middles(codes.map { values[$0] })).to(device)
        order = kind == .float8 ? try Tensor(codes.map { Int64($0) }).to(device) : nil
    }

    /// The codes of the levels nearest to `values`; int64 of the same shape, any code for NaN.
    func codes(_ values: Tensor) throws(TensorError) -> Tensor {
        let ranks = try bucketizeOperator(.tensor(values), .tensor(bounds))
        guard let order else { return ranks }
        return try takeOperator(.tensor(order), .tensor(ranks))
    }

    /// The levels of int64 `codes`; float32 of the same shape.
    func values(_ codes: Tensor) throws(TensorError) -> Tensor {
        try takeOperator(.tensor(levels), .tensor(codes))
    }

    /// What is nearest to the levels of int64 `codes` among all levels, less a margin: from `lower`
    /// to `upper`, float32 of the same shape.
    func cells(_ codes: Tensor) throws(TensorError) -> (lower: Tensor, upper: Tensor) {
        let values = Self.values(bits: bits, levels: kind)
        let ascending = Self.ascendingCodes(bits: bits, levels: kind).map { values[$0] }
        let middles = Self.middles(ascending)
        // The outermost cells are as wide outwards as inwards.
        let reach = 2 - (middles.last ?? 1)
        let edges = [-reach] + middles + [reach]
        let ranks = Dictionary(uniqueKeysWithValues: zip(ascending, ascending.indices))
        func edge(_ offset: Int) throws(TensorError) -> Tensor {
            let share = Float(1 - Self.margin)
            let ends = values.map { $0 + (edges[(ranks[$0] ?? 0) + offset] - $0) * share }
            return try takeOperator(.tensor(Tensor(ends).to(codes.device)), .tensor(codes))
        }
        return (try edge(0), try edge(1))
    }

    /// `values` with each replaced by the nearest multiple of its scale that a code stands for.
    ///
    /// - Parameter scales: At least 0, broadcast to `values`.
    func rounded(_ values: Tensor, scales: Tensor) throws(TensorError) -> Tensor {
        try self.values(codes(values / scales)) * scales
    }

    /// The levels by code.
    static func values(bits: Int, levels kind: FormatSpec.Levels = .normal) -> [Float] {
        if kind == .float8 { return (0..<256).map { float8($0) / float8(largestFloat8) } }
        guard kind == .normal, let positive = lloydMax[bits] else {
            let last = (1 << bits) - 1
            return (0...last).map { Float(2 * $0 - last) / Float(last) }
        }
        return positive.reversed().map { -$0 } + positive
    }

    /// The codes that rounding gives, by ascending level.
    private static func ascendingCodes(bits: Int, levels kind: FormatSpec.Levels) -> [Int] {
        guard kind == .float8 else { return Array(0..<1 << bits) }
        // Without -0.
        return (129...128 + largestFloat8).reversed() + (0...largestFloat8)
    }

    /// Between each of `levels` and the next.
    private static func middles(_ levels: [Float]) -> [Float] {
        zip(levels, levels.dropFirst()).map { ($0 + $1) / 2 }
    }

    /// The code of e4m3's largest number, 448.
    private static let largestFloat8 = 0x7E

    /// The number with the bits `code` in e4m3.
    private static func float8(_ code: Int) -> Float {
        let magnitude = min(code & 0x7F, largestFloat8)
        let (exponent, mantissa) = (magnitude >> 3, magnitude & 7)
        let unit = Float(sign: .plus, exponent: max(exponent, 1) - 10, significand: 1)
        let value = Float(exponent == 0 ? mantissa : 8 + mantissa) * unit
        return code < 128 ? value : -value
    }

    /// Positive levels by bits, divided by the largest.
    private static let lloydMax: [Int: [Float]] = [
        2: [0.299771, 1],
        3: [0.113894, 0.351312, 0.624509, 1],
        4: [0.046987, 0.142008, 0.240343, 0.344853, 0.459722, 0.592129, 0.757164, 1],
        5: [
            0.020207, 0.060738, 0.101627, 0.143127, 0.185521, 0.229131, 0.274345, 0.321640,
            0.371636, 0.425162, 0.483397, 0.548108, 0.622170, 0.710803, 0.825311, 1,
        ],
        6: [
            0.008923, 0.026783, 0.044683, 0.062650, 0.080712, 0.098898, 0.117238, 0.135764,
            0.154511, 0.173514, 0.192816, 0.212459, 0.232493, 0.252973, 0.273961, 0.295528,
            0.317759, 0.340748, 0.364611, 0.389486, 0.415542, 0.442987, 0.472087, 0.503185,
            0.536741, 0.573385, 0.614028, 0.660053, 0.713729, 0.779201, 0.865478, 1,
        ],
    ]
}
