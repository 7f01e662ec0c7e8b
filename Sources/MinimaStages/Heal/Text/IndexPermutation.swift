import MinimaCore

/// A pseudo-random permutation of `0..<count` that is computed index by index, without a table.
///
/// - Note: A balanced Feistel network over a power of four, applied until the index is below
///   `count` again (Black & Rogaway 2002, "Ciphers with arbitrary finite domains", section 4): at
///   most four times on average.
struct IndexPermutation {
    private let count: UInt64
    private let halfBits: UInt64
    private let keys: [UInt64]

    /// A permutation of at least one index that `seed` and `epoch` alone decide.
    init(count: Int, seed: UInt64, epoch: Int) {
        self.count = UInt64(count)
        let bits = UInt64.bitWidth - (self.count - 1).leadingZeroBitCount
        halfBits = UInt64(max((bits + 1) / 2, 1))
        // Weyl steps (2⁶⁴ divided by the golden ratio) keep neighbouring seeds apart.
        var random = SplitMix(seed &+ 0x9e37_79b9_7f4a_7c15 &* UInt64(epoch + 1))
        keys = (0..<6).map { _ in random.next() }
    }

    /// Where `index`, one of `0..<count`, goes.
    func callAsFunction(_ index: Int) -> Int {
        var value = UInt64(index)
        repeat { value = rounds(value) } while value >= count
        return Int(value)
    }

    private func rounds(_ value: UInt64) -> UInt64 {
        let mask = (1 as UInt64) << halfBits - 1
        var (left, right) = (value >> halfBits, value & mask)
        for key in keys {
            var hash = SplitMix(right ^ key)
            (left, right) = (right, left ^ hash.next() & mask)
        }
        return left << halfBits | right
    }
}
