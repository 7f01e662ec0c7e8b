import Glibc

/// Tells from the losses of a training whether it goes well.
///
/// Both a loss that rises at once and one that creeps up show in its exponential average. That is
/// compared with the lowest that it was: losses differ by orders of magnitude between phases, so the
/// margin is relative, and wider where batches differ a lot.
struct LossMonitor: Codable, Sendable, Hashable {
    /// What an average keeps at each step: it looks back over about ten.
    private static let decay = 0.9
    /// Losses that an average needs before it is compared.
    private static let fewest = 10
    /// Rise over the lowest average that counts as divergence, as a share of it and in mean absolute
    /// deviations. Of independent losses with deviation σ the average has σ·√(0.1/1.9), so that
    /// between the lowest and the highest of ten thousand are 1.8 σ, about two mean deviations.
    private static let margin = (share: 0.5, deviations: 2.0)

    private var count = 0
    private var sum = 0.0
    private var deviation = 0.0
    /// The lowest average, and the losses' mean absolute deviation from the average then.
    private var lowest: Double?
    private var spread = 0.0

    /// The average of the latest losses, the later the more.
    var average: Double { sum / weight }
    /// No reason to doubt the present state: the average has at most half of the rise that counts.
    var isCalm: Bool { rise <= 0.5 }
    /// The average has risen for good.
    var hasDiverged: Bool { rise > 1 }

    private var weight: Double { 1 - pow(Self.decay, Double(count)) }

    /// The rise over the lowest average in units of what counts as divergence.
    private var rise: Double {
        guard let lowest else { return 0 }
        let margin = Self.margin.share * abs(lowest) + Self.margin.deviations * spread
        return average > lowest ? (average - lowest) / max(margin, .leastNormalMagnitude) : 0
    }

    /// Takes in the loss of one step.
    mutating func add(_ loss: Double) {
        let before = count > 0 ? average : loss
        count += 1
        sum = Self.decay * sum + (1 - Self.decay) * loss
        deviation = Self.decay * deviation + (1 - Self.decay) * abs(loss - before)
        guard count >= Self.fewest, average < lowest ?? .infinity else { return }
        (lowest, spread) = (average, deviation / weight)
    }
}
