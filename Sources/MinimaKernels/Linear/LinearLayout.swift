/// How codes lie in memory for the linear kernel; see `repack.cu`.
public struct LinearLayout: Sendable, Hashable {
    /// Bits that a code takes: 3 (codes of 2 and 3 bits), 4 or 8.
    public let bits: Int
    /// Tiles of 16 slots that one stage holds, 1 or 2. Two share what is read of the input; one deals
    /// out small matrices more evenly.
    public let tilesPerStage: Int
    /// Neighbouring columns with one scale, 32 or 64.
    public let piece: Int
    /// Whether levels are equally spaced: codes are multiplied as the integers that they are, those of
    /// 3 and 4 bits in orders of their own. Else codes of 8 bits are numbers of e4m3.
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
        bits = Self.bits(codeBits)
        self.tilesPerStage = tilesPerStage
        piece = groupSize >= columns || groupSize % 64 == 0 ? 64 : 32
        self.isUniform = isUniform
        self.lookedUp = bits == 4 && !isUniform ? lookedUp : 0
    }

    /// Bits that a code of 2, 3, 4 or 8 bits takes.
    static func bits(_ codeBits: Int) -> Int { max(codeBits, 3) }

    /// Bytes of 64 columns of a stage's tiles.
    var blockBytes: Int { tilesPerStage * (128 * bits + 16 * (64 / piece)) }

    /// Bytes of a whole matrix of `slots` slots.
    func bytes(slots: Int, columns: Int) -> Int {
        (slots + 16 * tilesPerStage - 1) / (16 * tilesPerStage) * ((columns + 63) / 64) * blockBytes
    }
}

/// Levels of codes of up to 4 bits, not equally spaced, as the kernels take them.
struct LinearLevels: Sendable, Hashable {
    /// Positive levels in ascending order, eight or, of 3 bits in memory, four; zeros at the end.
    let positive: [Double]
    /// The same times `multiplier`: of 4 bits in memory rounded to bfloat16, as bits, of 3 to
    /// integers up to 127.
    let constants: [Int]
    /// What brings the levels closest to such numbers: 1 to 2, or 64 to 127 over the largest.
    let multiplier: Double

    /// - Parameters:
    ///   - levels: All levels of a code, ascending and symmetric about 0; at most 2^bits.
    ///   - bits: That a code takes in memory, 3 or 4.
    /// - Returns: `nil` for other levels, and where integers are further than 2^-8 of a level from
    ///   them, which those of no normal distribution are.
    init?(_ levels: [Float], bits: Int) {
        let half = levels.count / 2
        guard [3, 4].contains(bits), [4, 8, 16].contains(levels.count), levels.count <= 1 << bits,
            (0..<half).allSatisfy({ levels[half + $0] == -levels[half - 1 - $0] }),
            levels.suffix(half).allSatisfy({ $0 > 0 && $0.isFinite })
        else { return nil }
        let values = levels.suffix(half).map(Double.init)
        func rounded(_ value: Double) -> Double {
            if bits == 3 { return value.rounded() }
            let bits = Float(value).bitPattern
            return Double(Float(bitPattern: (bits + 0x7FFF + (bits >> 16 & 1)) & 0xFFFF_0000))
        }
        func error(_ multiplier: Double) -> Double {
            values.map { abs(rounded($0 * multiplier) / ($0 * multiplier) - 1) }.max() ?? 0
        }
        let candidates =
            bits == 3
            ? (512...1016).map { Double($0) / 8 / (values.last ?? 1) }
            : (512..<1024).map { Double($0) / 512 }
        let best = candidates.min { error($0) < error($1) } ?? 1
        guard error(best) <= 0x1p-8 else { return nil }
        multiplier = best
        positive = values + [Double](repeating: 0, count: 1 << (bits - 1) - half)
        constants = positive.map {
            bits == 3 ? Int(rounded($0 * best)) : Int(Float(rounded($0 * best)).bitPattern >> 16)
        }
    }
}
