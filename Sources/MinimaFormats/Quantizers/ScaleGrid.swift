import Glibc
import MinimaCore
import MinimaTensor

private let takeOperator = Operator("aten::take")
private let log2Operator = Operator("aten::log2")
private let floorOperator = Operator("aten::floor")
private let addOperator = Operator("aten::add", "Scalar")
private let clampOperator = Operator("aten::clamp")
private let whereOperator = Operator("aten::where", "self")

/// The scales that one byte can name: `base · 2^(-code/16)` for the codes 0…254, and 0 for 255.
///
/// Sixteen steps per octave and sixteen octaves below the base. Searched on this grid, byte scales
/// cost no accuracy beside bfloat16 ones (3 and 4 bits, groups of 64, ref-qwen3-20m: within 1%) and
/// half the bytes.
struct ScaleGrid: Sendable {
    /// The code of the scale 0.
    static let zero = 255
    /// Scales from one to its double.
    static let perOctave = 16.0
    /// Room above the largest weight, for targets that the feedback of errors has moved.
    static let headroom = 2.0
    /// The codes tried around the one of a group's largest magnitude: 2^(5/16) to 2^(-12/16) of it.
    static let tried = -5...12

    /// The largest scale `[1]`, float32.
    let base: Tensor
    /// All scales by their codes `[256]`, float32.
    let scales: Tensor

    /// The grid below `base` `[1]`.
    init(base: Tensor) throws(TensorError) {
        let unit = (0..<Self.zero).map { Float(exp2(-Double($0) / Self.perOctave)) } + [0]
        self.base = base
        self.scales = try Tensor(unit).to(base.device) * base
    }

    /// A grid for `matrix`.
    init(covering matrix: Tensor) throws(TensorError) {
        let peak = try matrix.abs().max().to(dtype: .float32).reshape([1])
        try self.init(base: peak * Self.headroom)
    }

    /// The scales of int64 `codes`; float32 of the same shape.
    func values(_ codes: Tensor) throws(TensorError) -> Tensor {
        try takeOperator(.tensor(scales), .tensor(codes))
    }

    /// The scale per row and group that rounds with the least weighted squared error.
    ///
    /// - Parameters:
    ///   - group: Float32 `[columns, rows]`, or many groups `[groups, columns, rows]`.
    ///   - weights: Of the columns' squared errors, `[columns, 1]` or `[groups, columns, 1]`.
    ///   - stride: Between the codes of ``tried`` that are tried.
    /// - Returns: int64 codes `[rows]` or `[groups, rows]`; ``zero`` where a row is all zero.
    func search(_ group: Tensor, weights: Tensor, _ codebook: Codebook, stride: Int = 1)
        throws(TensorError) -> Tensor
    {
        let along = group.shape.count - 2
        let peaks = try group.abs().max([along])
        let steps = try log2Operator(.tensor((peaks / base).to(dtype: .float64))) * -Self.perOctave
        let start = try clamped(floorOperator(.tensor(steps))).to(dtype: .int64)
        var (best, error): (Tensor, Tensor?) = (start, nil)
        for step in Swift.stride(
            from: Self.tried.lowerBound, through: Self.tried.upperBound, by: stride)
        {
            let codes = try clamped(addOperator(.tensor(start), .int(step)))
            let scales = try values(codes)
            let rounded = try codebook.rounded(group, scales: scales.unsqueeze(along))
            let found = try ((rounded - group).square() * weights).sum([along])
            guard let least = error else {
                (best, error) = (codes, found)
                continue
            }
            let worse = try least.isAtMost(found)
            best = try whereOperator(.tensor(worse), .tensor(best), .tensor(codes))
            error = try whereOperator(.tensor(worse), .tensor(least), .tensor(found))
        }
        return try best.maskedFill(peaks.equals(0), Double(Self.zero))
    }

    private func clamped(_ codes: Tensor) throws(TensorError) -> Tensor {
        try clampOperator(.tensor(codes), .int(0), .int(Self.zero - 1))
    }
}
