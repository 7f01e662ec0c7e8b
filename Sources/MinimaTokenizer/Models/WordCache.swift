/// The tokens of words seen before, for one encoder at a time.
///
/// Bounded: four-way set associative with round-robin eviction, so a look-up is at most four
/// comparisons whatever the text. Words up to 15 bytes are compared as two machine words.
final class WordCache {
    /// Longer words are not kept; they are rare and rarely come again.
    static let maximumKeyLength = 64
    /// Bytes that have to be readable behind every key.
    static let padding = 16

    private struct Entry {
        /// A short key's first 8 bytes, or a long key's hash.
        var low: UInt64
        /// A short key's further bytes and length, or `longMark`, a long key's length and place in
        /// `keys`; 0 when the entry is free.
        var high: UInt64
        /// A single token's id, or where several start in `tokens`.
        var value: Int32
        var count: UInt32
    }

    private static let ways = 4
    private static let setCount = 1 << 14
    private static let longMark: UInt64 = 1 << 63
    /// Beyond this many bytes or tokens in the arenas, evicted ones included, all is forgotten.
    private static let arenaLimit = 1 << 20

    private let entries: UnsafeMutablePointer<Entry>
    private var keys: [UInt8] = []
    private var tokens: [Int32] = []
    private var victim = 0

    init() {
        entries = .allocate(capacity: Self.ways * Self.setCount)
        entries.initialize(
            repeating: Entry(low: 0, high: 0, value: 0, count: 0),
            count: Self.ways * Self.setCount)
    }

    deinit { entries.deallocate() }

    /// A word made ready for looking up and for inserting.
    struct Key {
        fileprivate let low: UInt64
        fileprivate let high: UInt64
        fileprivate let set: Int
        fileprivate let bytes: UnsafeBufferPointer<UInt8>
    }

    /// - Precondition: `bytes` has 1 to `maximumKeyLength` bytes and `padding` readable ones behind.
    @inline(__always)
    static func key(_ bytes: UnsafeBufferPointer<UInt8>) -> Key {
        let raw = UnsafeRawPointer(bytes.baseAddress.unsafelyUnwrapped)
        let count = bytes.count
        if count < 16 {
            var low = raw.loadUnaligned(as: UInt64.self)
            var high: UInt64 = 0
            if count < 8 {
                low &= (1 << (8 * UInt64(count))) - 1
            } else {
                high = raw.loadUnaligned(fromByteOffset: 8, as: UInt64.self)
                high &= (1 << (8 * UInt64(count - 8))) - 1
            }
            high |= UInt64(count) << 56
            let hash = ByteHash.mix(low ^ 0x9E37_79B9_7F4A_7C15, high ^ 0xD6E8_FEB8_6659_FD93)
            return Key(low: low, high: high, set: set(hash), bytes: bytes)
        }
        let hash = ByteHash.hash(bytes, seed: 0)
        return Key(
            low: hash, high: longMark | UInt64(count) << 32, set: set(hash), bytes: bytes)
    }

    @inline(__always)
    private static func set(_ hash: UInt64) -> Int {
        Int(truncatingIfNeeded: hash >> 32) & (setCount - 1)
    }

    /// Appends the word's tokens when it is known, and says whether it was.
    @inline(__always)
    func append(_ key: Key, to ids: inout [Int32]) -> Bool {
        let set = entries + key.set * Self.ways
        for way in 0..<Self.ways {
            let entry = set[way]
            if entry.low == key.low, matches(entry, key) {
                if entry.count == 1 {
                    ids.append(entry.value)
                } else {
                    let start = Int(entry.value)
                    ids.append(contentsOf: tokens[start..<(start + Int(entry.count))])
                }
                return true
            }
        }
        return false
    }

    @inline(__always)
    private func matches(_ entry: Entry, _ key: Key) -> Bool {
        if key.high & Self.longMark == 0 { return entry.high == key.high }
        guard entry.high >> 32 == key.high >> 32 else { return false }
        let start = Int(entry.high & 0xFFFF_FFFF)
        for index in 0..<key.bytes.count where keys[start + index] != key.bytes[index] {
            return false
        }
        return true
    }

    /// Remembers a word that `append` did not know.
    func insert(_ key: Key, _ ids: ArraySlice<Int32>) {
        if keys.count + tokens.count > Self.arenaLimit { clear() }
        var high = key.high
        if high & Self.longMark != 0 {
            high |= UInt64(keys.count)
            keys.append(contentsOf: key.bytes)
        }
        var value = ids.first ?? 0
        if ids.count != 1 {
            value = Int32(truncatingIfNeeded: tokens.count)
            tokens.append(contentsOf: ids)
        }
        let set = entries + key.set * Self.ways
        var way = 0
        while way < Self.ways, set[way].high != 0 { way += 1 }
        if way == Self.ways {
            way = victim
            victim = (victim + 1) % Self.ways
        }
        set[way] = Entry(
            low: key.low, high: high, value: value, count: UInt32(truncatingIfNeeded: ids.count))
    }

    private func clear() {
        keys.removeAll(keepingCapacity: true)
        tokens.removeAll(keepingCapacity: true)
        entries.update(
            repeating: Entry(low: 0, high: 0, value: 0, count: 0),
            count: Self.ways * Self.setCount)
    }
}
