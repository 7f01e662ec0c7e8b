import Glibc

/// A logarithmic axis that begins and ends at powers of ten.
struct LogAxis {
    /// Exponents of the axis' ends.
    let exponents: ClosedRange<Int>
    /// Exponents that are labelled, at most six.
    let ticks: [Int]

    /// An axis around the drawable ones of `values`; `nil` when there are none.
    init?(_ values: [Double]) {
        let drawable = values.filter(Self.isDrawable)
        guard let least = drawable.min(), let most = drawable.max() else { return nil }
        let first = Int(log10(least).rounded(.down))
        exponents = first...Swift.max(first + 1, Int(log10(most).rounded(.up)))
        let step = (exponents.count + 4) / 5
        ticks = Array(stride(from: first, through: exponents.upperBound, by: step))
    }

    /// Whether a value has a place on such an axis.
    static func isDrawable(_ value: Double) -> Bool {
        (1e-290..<1e290).contains(value)
    }

    /// 0 at the axis' beginning, 1 at its end; values beyond stay at the ends.
    func share(_ value: Double) -> Double {
        guard value > 0 else { return 0 }
        let length = Double(exponents.upperBound - exponents.lowerBound)
        let share = (log10(value) - Double(exponents.lowerBound)) / length
        return share.isFinite ? Swift.min(Swift.max(share, 0), 1) : 1
    }

    /// The place of 10 to the power of `exponent`.
    func share(exponent: Int) -> Double {
        Double(exponent - exponents.lowerBound)
            / Double(exponents.upperBound - exponents.lowerBound)
    }
}

extension Figure {
    /// `0.01`, `100`, `10⁻⁴`.
    static func power(_ exponent: Int) -> String {
        if (-2...3).contains(exponent) { return round(pow(10, Double(exponent))) }
        let digits = Array("⁰¹²³⁴⁵⁶⁷⁸⁹")
        let raised = String(exponent.magnitude).compactMap { digit in
            digit.wholeNumberValue.map { digits[$0] }
        }
        return "10\(exponent < 0 ? "⁻" : "")\(String(raised))"
    }

    /// The mean of what is there and finite; `nil` when anything is not, or nothing is there.
    static func mean(_ values: [Double?]) -> Double? {
        let finite = values.compactMap { $0 }.filter(\.isFinite)
        guard !values.isEmpty, finite.count == values.count else { return nil }
        let mean = finite.reduce(0) { $0 + $1 / Double(finite.count) }
        return mean.isFinite ? mean : nil
    }
}
