/// What the functions of `SamplingNoise.swift` compute for one number at a time: on a CPU the operators'
/// passes over memory cost several times the arithmetic. Bit for bit the same, as each product and
/// each sum is rounded once here, too.
enum HostNoise {
    private static let ln2: Float = 0x1.62e43p-1

    /// ln E of every token, where E are the draws of the exponential distribution of a sequence's
    /// seed and position.
    static func logDraws(seed: UInt64, position: Int, vocabulary: Int) -> [Float] {
        let place = UInt64(bitPattern: Int64(position))
        return [Float](unsafeUninitializedCapacity: vocabulary) { buffer, count in
            for group in 0..<(vocabulary + 3) / 4 {
                let words = words(group: UInt64(group), position: place, seed: seed)
                for lane in 0..<min(4, vocabulary - 4 * group) {
                    buffer.initializeElement(
                        at: 4 * group + lane, to: log(exponentialDraw(words[lane])))
                }
            }
            count = vocabulary
        }
    }

    /// As `Philox.words`, of the counter (group, position, 0, 0); the position is not cut to a word.
    private static func words(group: UInt64, position: UInt64, seed: UInt64) -> SIMD4<UInt32> {
        var (c0, c1, c2, c3) = (group, position, UInt64(0), UInt64(0))
        var (k0, k1) = (UInt32(truncatingIfNeeded: seed), UInt32(truncatingIfNeeded: seed >> 32))
        for _ in 0..<10 {
            let first = c0 &* 0xD251_1F53
            let second = c2 &* 0xCD9E_8D57
            c0 = (second >> 32) ^ c1 ^ UInt64(k0)
            c1 = second & 0xFFFF_FFFF
            c2 = (first >> 32) ^ c3 ^ UInt64(k1)
            c3 = first & 0xFFFF_FFFF
            k0 &+= 0x9E37_79B9
            k1 &+= 0xBB67_AE85
        }
        return SIMD4(
            UInt32(truncatingIfNeeded: c0), UInt32(truncatingIfNeeded: c1),
            UInt32(truncatingIfNeeded: c2), UInt32(truncatingIfNeeded: c3))
    }

    /// −ln(j·2⁻³²); 0 counts as 1.
    static func exponentialDraw(_ word: UInt32) -> Float {
        let j = max(word, 1)
        // j = m·2ⁿ with m in [½, 1); 1 − m is rounded to float32 once.
        let zeros = j.leadingZeroBitCount
        let y = Float(UInt64(1) &<< 32 - UInt64(j) &<< UInt64(zeros)) * 0x1p-32
        var tail: Float = 0x1.734526p0 * y
        tail = (tail + -0x1.b5dac6p0) * y
        tail = (tail + 0x1.43f87ep0) * y
        tail = (tail + -0x1.a2f706p-3) * y
        tail = (tail + 0x1.138c3cp-2) * y
        tail = (tail + 0x1.f1b5dap-3) * y
        tail = (tail + 0x1.55adbp-2) * y
        tail = tail + 0x1.fffe8cp-2
        return ((y * y) * tail + y) + Float(zeros) * ln2
    }

    /// ln x for normal x > 0.
    static func log(_ x: Float) -> Float {
        let bits = Int32(bitPattern: x.bitPattern)
        let exponent = (bits &- 0x3F35_04F3) &>> 23
        let f = Float(bitPattern: UInt32(bitPattern: bits &- exponent &<< 23)) + -1
        var tail: Float = 0x1.65baa8p-4 * f
        tail = (tail + -0x1.27c4fep-3) * f
        tail = (tail + 0x1.32c69ap-3) * f
        tail = (tail + -0x1.52fde8p-3) * f
        tail = (tail + 0x1.98a666p-3) * f
        tail = (tail + -0x1.000688p-2) * f
        tail = (tail + 0x1.5557acp-2) * f
        tail = tail + -0x1.fffff4p-2
        return ((f * f) * tail + f) + Float(exponent) * ln2
    }
}
