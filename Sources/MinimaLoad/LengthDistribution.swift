import Glibc
import MinimaCore

/// How many tokens prompts or answers have.
public enum LengthDistribution: Sendable, Hashable, CustomStringConvertible {
    case fixed(Int)
    /// All lengths from `low` to `high` alike.
    case uniform(low: Int, high: Int)
    case normal(mean: Double, deviation: Double)
    /// exp of a normal distribution around log(`median`).
    case lognormal(median: Double, sigma: Double)

    /// Tokens of a length, at most; what is drawn beyond is cut to it.
    public static let longest = 1 << 20

    /// Reads `fixed:N` (or `N`), `uniform:LOW:HIGH`, `normal:MEAN:DEVIATION` or
    /// `lognormal:MEDIAN:SIGMA`.
    public init(_ text: String) throws(LoadError) {
        let parts = text.split(separator: ":", omittingEmptySubsequences: false).map(String.init)
        func length(_ place: Int) throws(LoadError) -> Int {
            guard place < parts.count, let value = Int(parts[place]),
                (1...Self.longest).contains(value)
            else {
                throw .badDistribution(
                    text, reason: "a length is a number from 1 to \(Self.longest)")
            }
            return value
        }
        func number(_ place: Int, upTo limit: Double) throws(LoadError) -> Double {
            guard place < parts.count, let value = Double(parts[place]), value >= 0,
                value <= limit
            else {
                throw .badDistribution(
                    text, reason: "part \(place) is no number from 0 to \(limit)")
            }
            return value
        }
        let longest = Double(Self.longest)
        switch (parts[0], parts.count) {
        case ("fixed", 2): self = .fixed(try length(1))
        case (_, 1) where Int(parts[0]) != nil: self = .fixed(try length(0))
        case ("uniform", 3):
            let (low, high) = (try length(1), try length(2))
            guard low <= high else {
                throw .badDistribution(text, reason: "\(low) is more than \(high)")
            }
            self = .uniform(low: low, high: high)
        case ("normal", 3):
            self = .normal(
                mean: Double(try length(1)), deviation: try number(2, upTo: longest))
        case ("lognormal", 3):
            self = .lognormal(median: Double(try length(1)), sigma: try number(2, upTo: 10))
        default:
            throw .badDistribution(text, reason: "no such name with \(parts.count - 1) numbers")
        }
    }

    /// A length, from 1 to ``longest``.
    func draw(_ random: inout SplitMix) -> Int {
        let value: Double
        switch self {
        case .fixed(let length): return length
        case .uniform(let low, let high): return Int.random(in: low...high, using: &random)
        case .normal(let mean, let deviation): value = mean + deviation * random.normal()
        case .lognormal(let median, let sigma): value = median * exp(sigma * random.normal())
        }
        return Int(min(max(value.rounded(), 1), Double(Self.longest)))
    }

    /// The text that ``init(_:)`` reads.
    public var description: String {
        switch self {
        case .fixed(let length): "fixed:\(length)"
        case .uniform(let low, let high): "uniform:\(low):\(high)"
        case .normal(let mean, let deviation): "normal:\(Int(mean)):\(deviation)"
        case .lognormal(let median, let sigma): "lognormal:\(Int(median)):\(sigma)"
        }
    }
}
