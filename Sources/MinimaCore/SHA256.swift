/// The SHA-256 hash (FIPS 180-4) of a stream of bytes.
///
/// A hundred lines of its own instead of a cryptography package whose build takes longer than the
/// rest of Minima; nothing secret is hashed here, only checkpoints identified.
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

    /// The first 32 bits of the fractional parts of the square roots of the first 8 primes.
    private static let start = [2, 3, 5, 7, 11, 13, 17, 19].map { fractionalBits(of: $0, power: 2) }

    private var state = SIMD8(start)
    private var pending: [UInt8] = []
    private var length: UInt64 = 0

    /// The hash of nothing yet.
    public init() {}

    /// Appends bytes.
    public mutating func update(_ bytes: UnsafeRawBufferPointer) {
        length += UInt64(bytes.count)
        var rest = bytes[...]
        var state = self.state
        if !pending.isEmpty {
            let taken = Swift.min(64 - pending.count, rest.count)
            pending += rest.prefix(taken)
            rest = rest.dropFirst(taken)
            guard pending.count == 64 else { return }
            pending.withUnsafeBytes { Self.compress($0, into: &state) }
            pending.removeAll(keepingCapacity: true)
        }
        let whole = rest.count / 64 * 64
        if whole > 0 {
            Self.compress(UnsafeRawBufferPointer(rebasing: rest.prefix(whole)), into: &state)
        }
        pending += rest.dropFirst(whole)
        self.state = state
    }

    /// The hash of everything appended, as 64 hexadecimal digits.
    public func hexadecimalDigest() -> String {
        digest().map { byte in
            let digits = String(byte, radix: 16)
            return digits.count == 1 ? "0" + digits : digits
        }.joined()
    }

    /// The hash of everything appended, 32 bytes.
    public func digest() -> [UInt8] {
        var copy = self
        let bits = length * 8
        var tail: [UInt8] = [0x80]
        while (pending.count + tail.count) % 64 != 56 { tail.append(0) }
        tail += (0..<8).map { UInt8(truncatingIfNeeded: bits >> (56 - 8 * UInt64($0))) }
        tail.withUnsafeBytes { copy.update($0) }
        return copy.state.indices.flatMap { index in
            (0..<4).map { UInt8(truncatingIfNeeded: copy.state[index] >> (24 - 8 * UInt32($0))) }
        }
    }

    /// Takes in whole blocks of 64 bytes; allocates nothing.
    private static func compress(
        _ blocks: UnsafeRawBufferPointer, into state: inout SIMD8<UInt32>
    ) {
        func rotated(_ x: UInt32, _ n: UInt32) -> UInt32 { x &>> n | x &<< (32 &- n) }
        @inline(__always)
        func round(
            _ a: UInt32, _ b: UInt32, _ c: UInt32, _ d: inout UInt32,
            _ e: UInt32, _ f: UInt32, _ g: UInt32, _ h: inout UInt32, _ word: UInt32
        ) {
            let s1 = rotated(e, 6) ^ rotated(e, 11) ^ rotated(e, 25)
            let s0 = rotated(a, 2) ^ rotated(a, 13) ^ rotated(a, 22)
            let t = h &+ s1 &+ (e & f ^ ~e & g) &+ word
            d &+= t
            h = t &+ s0 &+ (a & b ^ a & c ^ b & c)
        }
        constants.withUnsafeBufferPointer { constants in
            withUnsafeTemporaryAllocation(of: UInt32.self, capacity: 64) { w in
                for start in stride(from: 0, to: blocks.count, by: 64) {
                    for i in 0..<16 {
                        let word = blocks.loadUnaligned(
                            fromByteOffset: start + 4 * i, as: UInt32.self)
                        w[i] = UInt32(bigEndian: word)
                    }
                    for i in 16..<64 {
                        let (a, b) = (w[i - 15], w[i - 2])
                        let s0 = rotated(a, 7) ^ rotated(a, 18) ^ a &>> 3
                        let s1 = rotated(b, 17) ^ rotated(b, 19) ^ b &>> 10
                        w[i] = w[i - 16] &+ s0 &+ w[i - 7] &+ s1
                    }
                    var (a, b, c, d) = (state[0], state[1], state[2], state[3])
                    var (e, f, g, h) = (state[4], state[5], state[6], state[7])
                    // Eight rounds, after which every variable has its own name again.
                    for i in stride(from: 0, to: 64, by: 8) {
                        round(a, b, c, &d, e, f, g, &h, constants[i] &+ w[i])
                        round(h, a, b, &c, d, e, f, &g, constants[i + 1] &+ w[i + 1])
                        round(g, h, a, &b, c, d, e, &f, constants[i + 2] &+ w[i + 2])
                        round(f, g, h, &a, b, c, d, &e, constants[i + 3] &+ w[i + 3])
                        round(e, f, g, &h, a, b, c, &d, constants[i + 4] &+ w[i + 4])
                        round(d, e, f, &g, h, a, b, &c, constants[i + 5] &+ w[i + 5])
                        round(c, d, e, &f, g, h, a, &b, constants[i + 6] &+ w[i + 6])
                        round(b, c, d, &e, f, g, h, &a, constants[i + 7] &+ w[i + 7])
                    }
                    state &+= SIMD8(a, b, c, d, e, f, g, h)
                }
            }
        }
    }
}
