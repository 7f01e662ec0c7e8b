/// Random bits from a seed, the same on every machine (SplitMix64; Steele, Lea & Flood 2014, "Fast
/// splittable pseudorandom number generators").
public struct SplitMix: RandomNumberGenerator, Sendable {
    private var state: UInt64

    /// Any seed will do.
    public init(_ seed: UInt64) { state = seed }

    /// The next 64 bits.
    public mutating func next() -> UInt64 {
        state &+= 0x9e37_79b9_7f4a_7c15
        var bits = state
        bits = (bits ^ (bits >> 30)) &* 0xbf58_476d_1ce4_e5b9
        bits = (bits ^ (bits >> 27)) &* 0x94d0_49bb_1331_11eb
        return bits ^ (bits >> 31)
    }
}
