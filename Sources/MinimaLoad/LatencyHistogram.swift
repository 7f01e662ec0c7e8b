import Histogram
import MinimaCore

/// Values of one kind, three significant digits each, in constant memory (HdrHistogram).
struct LatencyHistogram: Sendable {
    /// The largest value that is told from larger ones.
    private static let largest: UInt64 = 86_400_000_000

    private var counts = Histogram<UInt64>(
        highestTrackableValue: LatencyHistogram.largest, numberOfSignificantValueDigits: .three)
    private var sum = 0.0
    private var least = Double.infinity
    private var most = 0.0
    /// Value of one unit of the histogram.
    private let unit: Double

    /// - Parameter unit: The least difference that is told, such as 0.001 of a millisecond.
    init(unit: Double) { self.unit = unit }

    /// Adds a value, not less than 0.
    mutating func add(_ value: Double) {
        let value = value.isFinite ? max(value, 0) : 0
        counts.record(UInt64(min((value / unit).rounded(), Double(Self.largest))))
        sum += value
        least = min(least, value)
        most = max(most, value)
    }

    /// Percentiles that results hold.
    static let percentiles = [1, 5, 10, 25, 50, 75, 90, 95, 99, 99.9, 99.99]

    /// What was added, in numbers; `nil` when nothing was.
    var summary: LoadResult.Distribution? {
        let count = Int(counts.totalCount)
        guard count > 0 else { return nil }
        return LoadResult.Distribution(
            count: count, mean: sum / Double(count), least: least, most: most,
            percentiles: Self.percentiles.map { percent in
                // A bucket's upper end may lie above the largest value in it.
                let value = Double(counts.valueAtPercentile(percent)) * unit
                return LoadResult.Percentile(percent: percent, value: min(max(value, least), most))
            })
    }
}
