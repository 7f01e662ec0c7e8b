/// Tokens by their bytes and by their ids.
struct Vocabulary: Sendable {
    /// All tokens' bytes, one after the other.
    private var arena: [UInt8] = []
    /// Where each id's token is in `arena`; negative start for ids without a token.
    private var spans: [Span] = []
    /// Ids by hash of their bytes, open addressing with linear probing; -1 is free.
    private var slots: [Int32]
    private let seed = UInt64.random(in: .min ... .max)
    /// How many tokens there are.
    private(set) var count = 0

    private struct Span {
        var start: Int
        var count: Int32
    }

    /// Why a token cannot be inserted.
    enum InsertionFailure: Error {
        case idTaken
        case tokenTaken
    }

    /// An empty vocabulary with room for `capacity` tokens.
    init(capacity: Int) {
        var slotCount = 16
        while slotCount < 2 * capacity { slotCount *= 2 }
        slots = [Int32](repeating: -1, count: slotCount)
        spans.reserveCapacity(capacity)
    }

    /// One more than the largest id.
    var idLimit: Int { spans.count }

    /// Adds a token.
    ///
    /// - Precondition: `id` is not negative, and small enough for a table of that size.
    mutating func insert(_ token: [UInt8], id: Int32) throws(InsertionFailure) {
        let index = Int(id)
        if index < spans.count, spans[index].start >= 0 { throw .idTaken }
        if 2 * (count + 1) > slots.count { grow() }
        guard let slot = freeSlot(token) else { throw .tokenTaken }
        while spans.count <= index { spans.append(Span(start: -1, count: 0)) }
        spans[index] = Span(start: arena.count, count: Int32(truncatingIfNeeded: token.count))
        arena.append(contentsOf: token)
        slots[slot] = id
        count += 1
    }

    /// The token's id.
    func id(of token: UnsafeBufferPointer<UInt8>) -> Int32? {
        let mask = slots.count - 1
        var slot = Int(truncatingIfNeeded: ByteHash.hash(token, seed: seed)) & mask
        while slots[slot] >= 0 {
            if matches(slots[slot], token) { return slots[slot] }
            slot = (slot + 1) & mask
        }
        return nil
    }

    /// The token's id.
    func id(of token: [UInt8]) -> Int32? {
        token.withUnsafeBufferPointer { id(of: $0) }
    }

    /// The bytes of the token with this id, or `nil` when there is none.
    func token(_ id: Int32) -> ArraySlice<UInt8>? {
        guard id >= 0, Int(id) < spans.count, spans[Int(id)].start >= 0 else { return nil }
        let span = spans[Int(id)]
        return arena[span.start..<(span.start + Int(span.count))]
    }

    /// All ids that have a token, ascending.
    var ids: some Sequence<Int32> {
        (0..<Int32(truncatingIfNeeded: spans.count)).lazy.filter { spans[Int($0)].start >= 0 }
    }

    private func matches(_ id: Int32, _ token: UnsafeBufferPointer<UInt8>) -> Bool {
        let span = spans[Int(id)]
        guard Int(span.count) == token.count else { return false }
        for offset in 0..<token.count where arena[span.start + offset] != token[offset] {
            return false
        }
        return true
    }

    private func freeSlot(_ token: [UInt8]) -> Int? {
        token.withUnsafeBufferPointer { token in
            let mask = slots.count - 1
            var slot = Int(truncatingIfNeeded: ByteHash.hash(token, seed: seed)) & mask
            while slots[slot] >= 0 {
                if matches(slots[slot], token) { return nil }
                slot = (slot + 1) & mask
            }
            return slot
        }
    }

    private mutating func grow() {
        let old = slots
        slots = [Int32](repeating: -1, count: 2 * old.count)
        for id in old where id >= 0 {
            if let token = token(id), let slot = freeSlot(Array(token)) { slots[slot] = id }
        }
    }
}

/// A fast hash of byte strings; seeded, so that no file can aim for collisions.
enum ByteHash {
    @inline(__always)
    static func hash(_ bytes: UnsafeBufferPointer<UInt8>, seed: UInt64) -> UInt64 {
        var state = seed ^ UInt64(truncatingIfNeeded: bytes.count)
        var index = 0
        while index + 8 <= bytes.count {
            let word = UnsafeRawBufferPointer(bytes).loadUnaligned(
                fromByteOffset: index, as: UInt64.self)
            state = mix(state ^ word, 0x9E37_79B9_7F4A_7C15)
            index += 8
        }
        var word: UInt64 = 0
        while index < bytes.count {
            word = word << 8 | UInt64(bytes[index])
            index += 1
        }
        return mix(state ^ word, 0xD6E8_FEB8_6659_FD93)
    }

    /// The halves of a 128-bit product folded onto each other: every input bit reaches every output
    /// bit.
    @inline(__always)
    static func mix(_ left: UInt64, _ right: UInt64) -> UInt64 {
        let product = left.multipliedFullWidth(by: right)
        return product.high ^ product.low
    }
}
