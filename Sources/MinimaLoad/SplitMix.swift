import Glibc

/// Random bits from a seed, the same on every machine (SplitMix64; Steele, Lea & Flood 2014).
struct SplitMix: RandomNumberGenerator, Sendable {
    private var state: UInt64

    init(_ seed: UInt64) { state = seed }

    mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var bits = state
        bits = (bits ^ (bits >> 30)) &* 0xbf58_476d_1ce4_e5b9
        bits = (bits ^ (bits >> 27)) &* 0x94d0_49bb_1331_11eb
        return bits ^ (bits >> 31)
    }

    /// Uniform in (0, 1].
    mutating func share() -> Double { Double((next() >> 11) + 1) * 0x1p-53 }

    /// A draw from the standard normal distribution (Box & Muller 1958).
    mutating func normal() -> Double {
        (-2 * log(share())).squareRoot() * cos(2 * Double.pi * share())
    }

    /// A draw from the exponential distribution of mean 1.
    mutating func exponential() -> Double { -log(share()) }
}
