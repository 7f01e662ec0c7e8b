/// The SHA-256 hash (FIPS 180-4) of a stream of bytes.
///
/// Its own 80 lines instead of a cryptography package whose build takes longer than the rest of
/// Minima; nothing secret is hashed here, only checkpoints identified.
public struct SHA256: Sendable {
    private static let constants: [UInt32] = {
        // The first 32 bits of the fractional parts of the cube roots of the first 64 primes.
        var primes: [UInt64] = []
        var candidate: UInt64 = 2
        while primes.count < 64 {
            if primes.allSatisfy({ candidate % $0 != 0 }) { primes.append(candidate) }
            candidate += 1
        }
        return primes.map { fractionalBits(of: $0, power: 3) }
    }()

    /// The first 32 bits of the fractional part of `n` to the power of `1 / power`, exactly: the
    /// largest root `r` with `r^power <= n · 2^(32·power)`.
    private static func fractionalBits(of n: UInt64, power: Int) -> UInt32 {
        var low: UInt64 = 0
        var high: UInt64 = 1 << 40
        while high - low > 1 {
            let middle = (low + high) / 2
            var product = UInt128(middle)
            for _ in 1..<power { product *= UInt128(middle) }
            if product <= UInt128(n) << UInt128(32 * power) { low = middle } else { high = middle }
        }
        return UInt32(truncatingIfNeeded: low)
    }

    private var state: [UInt32] = [2, 3, 5, 7, 11, 13, 17, 19].map {
        fractionalBits(of: $0, power: 2)
    }
    private var pending: [UInt8] = []
    private var length: UInt64 = 0

    /// The hash of nothing yet.
    public init() {}

    /// Appends bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        length += UInt64(bytes.count)
        var rest = bytes[...]
        if !pending.isEmpty {
            let taken = Swift.min(64 - pending.count, rest.count)
            pending += rest.prefix(taken)
            rest = rest.dropFirst(taken)
            guard pending.count == 64 else { return }
            let block = pending
            block.withUnsafeBytes { compress($0) }
            pending = []
        }
        let whole = rest.count / 64 * 64
        if whole > 0 {
            compress(UnsafeRawBufferPointer(rebasing: rest.prefix(whole)))
        }
        pending += rest.dropFirst(whole)
    }

    /// The hash of everything appended, as 64 hexadecimal digits.
    public func hexadecimalDigest() -> String {
        var copy = self
        let bits = length * 8
        var tail: [UInt8] = [0x80]
        while (pending.count + tail.count) % 64 != 56 { tail.append(0) }
        tail += (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * UInt64($0))) }
        tail.withUnsafeBytes { copy.update($0) }
        return copy.state.map { word in
            let digits = String(word, radix: 16)
            return String(repeating: "0", count: 8 - digits.count) + digits
        }.joined()
    }

    /// Takes in whole blocks of 64 bytes.
    private mutating func compress(_ blocks: UnsafeRawBufferPointer) {
        func rotated(_ x: UInt32, _ n: UInt32) -> UInt32 { x >> n | x << (32 - n) }
        Self.constants.withUnsafeBufferPointer { constants in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { w in
                for start in stride(from: 0, to: blocks.count, by: 64) {
                    for i in 0..<16 {
                        let word = blocks.loadUnaligned(
                            fromByteOffset: start + 4 * i, as: UInt32.self)
                        w[i] = UInt32(bigEndian: word)
                    }
                    for i in 16..<64 {
                        let (a, b) = (w[i - 15], w[i - 2])
                        let s0 = rotated(a, 7) ^ rotated(a, 18) ^ a >> 3
                        let s1 = rotated(b, 17) ^ rotated(b, 19) ^ b >> 10
                        w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
                    }
                    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
                    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
                    for i in 0..<64 {
                        let s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)
                        let t1 = h &+ s1 &+ (e & f ^ ~e & g) &+ constants[i] &+ w[i]
                        let s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)
                        let t2 = s0 &+ (a & b ^ a & c ^ b & c)
                        (h, g, f, e, d, c, b, a) = (g, f, e, d &+ t1, c, b, a, t1 &+ t2)
                    }
                    let mixed = [a, b, c, d, e, f, g, h]
                    for i in 0..<8 { state[i] = state[i] &+ mixed[i] }
                }
            }
        }
    }
}
