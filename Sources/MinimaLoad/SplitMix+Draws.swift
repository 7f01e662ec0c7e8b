import Glibc
import MinimaCore

extension SplitMix {
    /// Uniform in (0, 1].
    mutating func share() -> Double { Double((next() >> 11) + 1) * 0x1p-53 }

    /// A draw from the standard normal distribution (Box & Muller 1958).
    mutating func normal() -> Double {
        (-2 * log(share())).squareRoot() * cos(2 * Double.pi * share())
    }

    /// A draw from the exponential distribution of mean 1.
    mutating func exponential() -> Double { -log(share()) }
}
