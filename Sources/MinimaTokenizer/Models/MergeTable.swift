/// The merges of a BPE model: which two tokens join, in which order of preference, to which token.
struct MergeTable: Sendable {
    /// A merge, or a free slot.
    struct Slot {
        var pair: UInt64
        /// Lower ranks merge first.
        var rank: UInt32
        var merged: Int32
    }

    /// The rank of pairs that do not merge.
    static let noRank = UInt32.max

    /// Open addressing with linear probing; a power of two, at most half full.
    private var slots: [Slot]
    private var shift: UInt64
    /// A random odd factor, so that no file can aim for collisions.
    private let factor = UInt64.random(in: .min ... .max) | 1

    /// The pair that no two tokens form: ids are not negative.
    private static let free = Slot(pair: .max, rank: noRank, merged: -1)

    /// An empty table with room for `capacity` merges.
    init(capacity: Int) {
        var bits: UInt64 = 4
        while 1 << bits < 2 * capacity { bits += 1 }
        shift = 64 - bits
        slots = [Slot](repeating: Self.free, count: 1 << bits)
    }

    /// Adds a merge; of a pair that is there already, the last rank counts.
    ///
    /// - Precondition: No more pairs than the capacity.
    mutating func insert(left: Int32, right: Int32, rank: UInt32, merged: Int32) {
        let pair = Self.pair(left, right)
        var index = Int((pair &* factor) >> shift)
        while slots[index].pair != pair, slots[index].pair != .max {
            index = (index + 1) & (slots.count - 1)
        }
        slots[index] = Slot(pair: pair, rank: rank, merged: merged)
    }

    /// Calls `body` with a view for fast look-ups.
    @inline(__always)
    func withView<R>(_ body: (View) throws(TokenizerError) -> R) throws(TokenizerError) -> R {
        try slots.withUnsafeBufferPointer { (slots) throws(TokenizerError) in
            try body(View(slots: slots, mask: slots.count - 1, factor: factor, shift: shift))
        }
    }

    @inline(__always)
    fileprivate static func pair(_ left: Int32, _ right: Int32) -> UInt64 {
        UInt64(UInt32(bitPattern: left)) << 32 | UInt64(UInt32(bitPattern: right))
    }

    /// The table while encoding.
    struct View {
        fileprivate let slots: UnsafeBufferPointer<Slot>
        fileprivate let mask: Int
        fileprivate let factor: UInt64
        fileprivate let shift: UInt64

        /// The merge of two tokens; its rank is `noRank` when they do not merge.
        @inline(__always)
        func merge(_ left: Int32, _ right: Int32) -> Slot {
            let pair = MergeTable.pair(left, right)
            var index = Int((pair &* factor) >> shift)
            while true {
                let slot = slots[index]
                if slot.pair == pair || slot.pair == .max { return slot }
                index = (index + 1) & mask
            }
        }
    }
}
