/// How often proposals count as right where a benchmark prescribes it.
public enum SimulatedAcceptance {
    /// The probability, the same for each of `count` proposals in turn, with which steps make `length`
    /// tokens on average: a of 1 + a + a² + … + a^count = length.
    ///
    /// - Returns: `nil` for a length that no probability gives: below 1 or above `count` + 1.
    public static func rate(length: Double, count: Int) -> Double? {
        guard count > 0, length >= 1, length <= Double(count + 1) else { return nil }
        func mean(_ rate: Double) -> Double {
            (0..<count).reduce(1) { sum, _ in 1 + rate * sum }
        }
        var (low, high) = (0.0, 1.0)
        for _ in 0..<60 {
            let middle = (low + high) / 2
            if mean(middle) < length { low = middle } else { high = middle }
        }
        return (low + high) / 2
    }
}
