/// How codes lie in memory for the linear kernel; see `repack.cu`.
public struct LinearLayout: Sendable, Hashable {
    /// Bits that a code takes: 4 (codes of 2, 3 and 4 bits) or 8.
    public let bits: Int
    /// Tiles of 16 slots that one stage holds, 1 or 2. Two share what is read of the input; one deals
    /// out small matrices more evenly.
    public let tilesPerStage: Int
    /// Neighbouring columns with one scale, 32 or 64.
    public let piece: Int
    /// Whether levels are equally spaced: codes are multiplied as the integers that they are, those of
    /// 4 bits in an order of their own. Else codes of 8 bits are numbers of e4m3.
    public let isUniform: Bool
    /// Of every four words of 4-bit codes, how many are decoded by a table in shared memory; the
    /// others by byte permutations.
    public let lookedUp: Int

    /// - Parameters:
    ///   - codeBits: Bits of the stored codes: 2, 3, 4 or 8.
    ///   - groupSize: Columns with one scale: a multiple of 32, or at least a whole row.
    ///   - isUniform: Whether levels are equally spaced.
    /// - Throws: `KernelError` for other bits or groups.
    public init(
        codeBits: Int, groupSize: Int, columns: Int, isUniform: Bool = false,
        tilesPerStage: Int = 2, lookedUp: Int = 4
    ) throws(KernelError) {
        guard [2, 3, 4, 8].contains(codeBits), groupSize >= columns || groupSize % 32 == 0,
            groupSize > 0, (1...2).contains(tilesPerStage), (0...4).contains(lookedUp)
        else {
            throw .invalidLaunch(
                kernel: "repack.cu",
                reason: """
                    codes of \(codeBits) bits in groups of \(groupSize) were asked for; it takes 2, 3, 4 \
                    or 8 bits and groups of a multiple of 32 columns or whole rows: expand others to \
                    bfloat16
                    """)
        }
        bits = codeBits == 8 ? 8 : 4
        self.tilesPerStage = tilesPerStage
        piece = groupSize >= columns || groupSize % 64 == 0 ? 64 : 32
        self.isUniform = isUniform
        self.lookedUp = bits == 4 && !isUniform ? lookedUp : 0
    }

    /// Bytes of 64 columns of a stage's tiles.
    var blockBytes: Int { tilesPerStage * (128 * bits + 16 * (64 / piece)) }

    /// Bytes of a whole matrix of `slots` slots.
    func bytes(slots: Int, columns: Int) -> Int {
        (slots + 16 * tilesPerStage - 1) / (16 * tilesPerStage) * ((columns + 63) / 64) * blockBytes
    }
}

/// Levels of 4-bit codes as the kernels take them.
struct LinearLevels: Sendable, Hashable {
    /// Positive levels in ascending order, eight, zeros at the end.
    let positive: [Double]
    /// The same times `multiplier`, rounded to bfloat16, as bits.
    let bits: [Int]
    /// What brings the levels closest to bfloat16 numbers, 1 to 2.
    let multiplier: Double

    /// - Parameter levels: All 2^bits levels, ascending and symmetric about 0; at most 16.
    init?(_ levels: [Float]) {
        let half = levels.count / 2
        guard [4, 8, 16].contains(levels.count),
            (0..<half).allSatisfy({ levels[half + $0] == -levels[half - 1 - $0] }),
            levels.suffix(half).allSatisfy({ $0 > 0 && $0.isFinite })
        else { return nil }
        let values = levels.suffix(half).map(Double.init)
        func rounded(_ value: Double) -> Float {
            let bits = Float(value).bitPattern
            return Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000)
        }
        func error(_ multiplier: Double) -> Double {
            values.map { abs(Double(rounded($0 * multiplier)) / ($0 * multiplier) - 1) }.max() ?? 0
        }
        let steps = 512
        let candidates = (0..<steps).map { 1 + Double($0) / Double(steps) }
        let best = candidates.min { error($0) < error($1) } ?? 1
        multiplier = best
        positive = values + [Double](repeating: 0, count: 8 - half)
        bits = positive.map { Int(rounded($0 * best).bitPattern >> 16) }
    }
}
