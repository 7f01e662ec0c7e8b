/// Whether steps propose tokens and verify them.
public enum Speculation: Sendable, Hashable {
    /// None do.
    case off
    /// As many as make most tokens per second, none included, by what is measured while decoding. None
    /// in a deterministic engine, as times would decide.
    case automatic
    /// As many as this, or the largest number below that the backend has.
    case fixed(Int)
}

/// What drafts have done so far.
public struct SpeculationMetrics: Sendable, Hashable {
    /// Steps of one number of proposals.
    public struct Steps: Sendable, Hashable {
        /// Steps.
        public var count = 0
        /// Rows of all of them; in steps that propose, those whose tokens are not constrained.
        public var rows = 0
        /// Tokens of these rows.
        public var tokens = 0
        /// Seconds of those steps that ran by themselves, and what they made; not of the first, which
        /// may make what later ones use.
        public var timed = Timed()
    }

    /// Steps whose time is known.
    public struct Timed: Sendable, Hashable {
        /// Tokens of all rows.
        public var tokens = 0
        /// Wall-clock time.
        public var seconds = 0.0

        /// `nil` without time.
        public var tokensPerSecond: Double? { seconds > 0 ? Double(tokens) / seconds : nil }
    }

    /// Decode steps by the number of tokens that they proposed per row.
    public var steps: [Int: Steps] = [:]
    /// Rows of steps that propose as far as a place, by the place from 0, where all before it were
    /// accepted; a draft that had nothing to propose there counts as wrong.
    public var reached: [Int] = []
    /// Those of ``reached`` whose proposal was accepted.
    public var accepted: [Int] = []

    /// Mean of new tokens per row of the steps with proposals; `nil` without one.
    public var acceptanceLength: Double? {
        let drafting = steps.filter { $0.key > 0 }.values
        let rows = drafting.reduce(0) { $0 + $1.rows }
        return rows > 0 ? Double(drafting.reduce(0) { $0 + $1.tokens }) / Double(rows) : nil
    }

    /// Tokens that steps could propose, of all rows.
    public var drafted: Int { steps.reduce(0) { $0 + $1.key * $1.value.rows } }

    /// Takes the outcome of a step whose rows had so many proposals accepted; constrained rows beside
    /// them verified none.
    mutating func add(
        draftTokens: Int, accepted rows: [Int], constrained: Int = 0, seconds: Double?
    ) {
        let tokens = rows.reduce(rows.count, +)
        var all = steps[draftTokens] ?? Steps()
        all.count += 1
        all.rows += rows.count
        all.tokens += tokens
        if let seconds, all.count > 1 {
            all.timed.tokens += tokens + constrained
            all.timed.seconds += seconds
        }
        steps[draftTokens] = all
        while reached.count < draftTokens {
            reached.append(0)
            accepted.append(0)
        }
        for place in 0..<draftTokens {
            reached[place] += rows.count { $0 >= place }
            accepted[place] += rows.count { $0 > place }
        }
    }
}
