import Glibc

/// The learning rate of each step: a linear warm-up, then one of several ways down.
public struct LearningRateSchedule: Sendable, Hashable, Codable {
    /// How the rate falls after the warm-up.
    public enum Decay: Sendable, Hashable, Codable {
        /// It does not.
        case constant
        /// In a straight line.
        case linear
        /// Along half a period of a cosine (Loshchilov & Hutter 2017, equation 5).
        case cosine
        /// It stays, then falls in a straight line over the last `share` of the steps after the
        /// warm-up: warm-up–stable–decay (Hu et al. 2024, MiniCPM, section 4).
        case stable(share: Double)
    }

    /// The highest rate.
    public var peak: Double
    /// Steps before the first one at the highest rate.
    public var warmup: Int
    /// Steps in all, those of the warm-up included.
    public var total: Int
    /// How the rate falls after the warm-up.
    public var decay: Decay
    /// The lowest rate as a share of the highest; it would be reached at step `total`.
    public var floor: Double

    /// A schedule.
    public init(
        peak: Double, warmup: Int = 0, total: Int, decay: Decay = .cosine, floor: Double = 0
    ) {
        self.peak = peak
        self.warmup = warmup
        self.total = total
        self.decay = decay
        self.floor = floor
    }

    /// The rate of a step.
    ///
    /// - Parameter step: Counted from 0. Step s of the warm-up has the share
    ///   (s + 1) / (warmup + 1) of the highest rate; steps from `total` on have the lowest.
    public func value(at step: Int) -> Double {
        if step < warmup { return peak * Double(max(step, 0) + 1) / (Double(warmup) + 1) }
        let length = Double(max(total - warmup, 1))
        let done = min((Double(step) - Double(warmup)) / length, 1)
        let left: Double
        switch decay {
        case .constant: left = 1
        case .linear: left = 1 - done
        case .cosine: left = 0.5 * (1 + cos(.pi * done))
        case .stable(let share): left = share > 0 ? min((1 - done) / share, 1) : 1
        }
        return peak * (floor + (1 - floor) * left)
    }
}
