import Glibc

/// How many tokens a step should propose: what maximises expected tokens per second, by the share of
/// proposals accepted at each place and the seconds of steps, both measured. What the backend says of
/// times counts until steps were measured, and then as far as they agree with it.
///
/// With aᵢ the share of proposals at place i that are accepted where all before them were, a step with
/// K proposals makes E(K) = 1 + Σ_{j ≤ K} Π_{i ≤ j} aᵢ tokens per row in t(K) seconds; the best K has the
/// largest E(K)/t(K). What that rests on is only learned by running K, so other K are tried now and then.
///
/// Two accounts bound what all of this can lose. ``safety`` holds what drafting has gained over steps
/// without proposals, and ``trials`` what may be spent on steps other than the best; each grows by
/// ``allowance`` of the time. Without balance in the first there are no proposals, without balance in
/// the second there are no trials. So decoding takes at most 2·``allowance`` longer than without
/// proposals, and a fixed number of steps.
struct SpeculationController {
    /// Rows whose outcomes count in shares: their weight falls by e with as many later ones.
    private static let window = 200.0
    /// Share of time that each account receives.
    static let allowance = 0.004
    /// What the accounts begin with and hold at most, in steps: a few trials of each K.
    private static let opening = 4.0
    private static let most = 16.0
    /// Proposals have to promise this factor, as shares are only known to a few percent.
    private static let margin = 1.01
    /// As many times of a kind of step weigh as much as what the others say of it.
    private static let few = 4.0
    /// The same of what the backend says, corrected by ``scale(_:_:)``: of 1, 2 and 4 what loses least on
    /// simulated devices with wrong times and interrupted steps.
    private static let fewKnown = 2.0
    /// Steps between trials at least.
    private static let pause = 8
    /// A share before anything is known, and the rows that it counts as.
    private static let prior = (share: 0.6, rows: 2.0)

    private let choices: [Int]
    private let known: (_ bucket: Int, _ draftTokens: Int) -> Double?
    private var places: [Place]
    /// By bucket and number of proposals.
    private var times: [Int: [Int: Time]] = [:]
    private var safety = Self.opening
    private var trials = Self.opening
    private var sinceTrial = 0
    private var nextTrial = 0

    /// Rows whose proposals before a place were all accepted, and whose one there was, too.
    private struct Place {
        var reached = 0.0
        var accepted = 0.0

        mutating func add(reached: Int, accepted: Int) {
            let decay = exp(-Double(reached) / SpeculationController.window)
            self.reached = self.reached * decay + Double(reached)
            self.accepted = self.accepted * decay + Double(accepted)
        }
    }

    /// The mean of measured seconds, of which older ones count less, and what other programs on the
    /// machine made of one not in full.
    private struct Time {
        private(set) var seconds = 0.0
        private(set) var count = 0.0

        mutating func add(_ new: Double) {
            // The first may hold what is made once only.
            if count == 1 { seconds = min(seconds, new) }
            count = min(count + 1, 32)
            seconds += ((count > 1 ? min(new, 4 * seconds) : new) - seconds) / count
        }
    }

    /// A controller of steps that may propose as many tokens as `choices` say, 0 among them.
    ///
    /// - Parameter seconds: What the backend expects of a step's time, where it knows it; infinite where
    ///   there is no such step.
    init(_ choices: [Int], seconds: @escaping (_ bucket: Int, _ draftTokens: Int) -> Double?) {
        self.choices = Set(choices + [0]).sorted()
        known = seconds
        places = Array(repeating: Place(), count: max(choices.max() ?? 0, 0))
    }

    // MARK: Choosing

    /// What the next step does.
    struct Choice: Hashable {
        var draftTokens = 0
        /// Whether it is not the best by what is known.
        var isTrial = false
    }

    /// The number of proposals for the next step of `bucket` rows.
    ///
    /// - Parameter share: Rows that verify proposals, of all rows.
    mutating func choose(bucket: Int, share: Double = 1) -> Choice {
        let estimates = estimates(bucket, share)
        guard let plain = estimates.first, estimates.count > 1 else { return Choice() }
        let best = best(estimates)
        sinceTrial += 1
        func isPaid(_ candidate: Estimate) -> Bool {
            let risk = candidate.seconds / plain.seconds - candidate.tokens
            return candidate.loss(against: best) <= trials
                && (candidate.draftTokens == 0 || risk <= safety)
        }
        func isWorthwhile(_ candidate: Estimate) -> Bool {
            // Not what can never be paid, nor what would lose with every token right.
            candidate.draftTokens != best.draftTokens
                && candidate.loss(against: best) < Self.opening
                && (candidate.draftTokens == 0
                    || Double(candidate.draftTokens + 1) / candidate.seconds > best.rate)
        }
        // What was never timed is tried as soon as it is paid, the others one after the other.
        if let longest = estimates.last, known(bucket, longest.draftTokens) == nil,
            times[bucket]?[longest.draftTokens] == nil, isWorthwhile(longest), isPaid(longest)
        {
            sinceTrial = 0
            return Choice(draftTokens: longest.draftTokens, isTrial: true)
        }
        guard sinceTrial >= Self.pause else { return Choice(draftTokens: best.draftTokens) }
        for offset in 0..<estimates.count {
            let candidate = estimates[(nextTrial + offset) % estimates.count]
            guard isWorthwhile(candidate) else { continue }
            guard isPaid(candidate) else { break }
            nextTrial = (nextTrial + offset + 1) % estimates.count
            sinceTrial = 0
            return Choice(draftTokens: candidate.draftTokens, isTrial: true)
        }
        return Choice(draftTokens: best.draftTokens)
    }

    private struct Estimate {
        let draftTokens: Int
        /// Expected tokens per row.
        let tokens: Double
        let seconds: Double

        var rate: Double { tokens / seconds }

        /// What this costs more than `best` for as many tokens, in steps of that.
        func loss(against best: Self) -> Double {
            seconds / best.seconds - tokens / best.tokens
        }
    }

    /// What each choice promises, in ascending order; nothing before a step without proposals was
    /// timed, as what they gain is counted from there.
    private func estimates(_ bucket: Int, _ share: Double) -> [Estimate] {
        let own = times[bucket] ?? [:]
        guard known(bucket, 0) != nil || own[0] != nil else { return [] }
        let (line, scale) = (Line(own), scale(bucket, own))
        let tried = times.values.reduce(0) { max($0, $1.keys.max() ?? 0) }
        let tokens = expectedTokens()
        var found: [Estimate] = []
        for count in choices {
            guard
                let seconds = known(bucket, count).map({
                    // What gains are counted from is no guess once it was measured.
                    Self.weighed(
                        own[count], against: $0 * scale, few: count == 0 ? 0 : Self.fewKnown)
                }) ?? time(bucket, count, line),
                seconds > 0, seconds.isFinite
            else { continue }
            found.append(
                Estimate(
                    draftTokens: count, tokens: 1 + share * (tokens[count] - 1),
                    seconds: seconds))
            // Times of longer steps are guesses from shorter ones.
            if known(bucket, count) == nil, count > tried { break }
        }
        return found.first?.draftTokens == 0 ? found : []
    }

    private func best(_ estimates: [Estimate]) -> Estimate {
        let plain = estimates[0]
        guard safety > 0 else { return plain }
        let best = estimates.dropFirst().max { $0.rate < $1.rate } ?? plain
        return best.rate > plain.rate * Self.margin ? best : plain
    }

    /// E(K) for each K from 0.
    private func expectedTokens() -> [Double] {
        var (expected, share, run) = ([1.0], Self.prior.share, 1.0)
        for place in places {
            // What is not known of a place is guessed from the one before it.
            share =
                (place.accepted + Self.prior.rows * share) / (place.reached + Self.prior.rows)
            run *= share
            expected.append(expected[expected.count - 1] + run)
        }
        return expected
    }

    /// Seconds of a step by those that were timed; `nil` without any.
    ///
    /// - Parameter line: Through the times of as many rows.
    private func time(_ bucket: Int, _ draftTokens: Int, _ line: Line?) -> Double? {
        let own = times[bucket]?[draftTokens]
        if let line { return Self.weighed(own, against: line.seconds(draftTokens), few: Self.few) }
        if let own { return own.seconds }
        // Other numbers of rows, by the tokens that they compute.
        let all = times.flatMap { bucket, times in
            times.map { (x: bucket * ($0.key + 1), seconds: $0.value.seconds) }
        }
        return Self.interpolate(all, at: bucket * (draftTokens + 1))
    }

    /// A mean of own times and what others say, which `few` times say less than.
    private static func weighed(_ own: Time?, against expected: Double, few: Double) -> Double {
        guard let own, expected.isFinite else { return expected }
        let weight = own.count * own.count / (own.count * own.count + few * few)
        return expected + weight * (own.seconds - expected)
    }

    /// By what factor measured times of steps of so many rows are larger than what the backend says, the
    /// mean over numbers of proposals: sequences may be longer than those it timed.
    private func scale(_ bucket: Int, _ own: [Int: Time]) -> Double {
        let ratios = own.compactMap { draftTokens, time in
            known(bucket, draftTokens).flatMap { $0 > 0 && $0.isFinite ? time.seconds / $0 : nil }
        }
        return ratios.isEmpty ? 1 : ratios.reduce(0, +) / Double(ratios.count)
    }

    /// Seconds by the number of proposals: least squares over means with their numbers as weights,
    /// rising or level.
    private struct Line {
        private var start = 0.0
        private var slope = 0.0

        /// `nil` without two numbers of proposals.
        init?(_ times: [Int: Time]) {
            guard times.count > 1 else { return nil }
            let total = times.values.reduce(0) { $0 + $1.count }
            let (x, y) = times.reduce((0.0, 0.0)) {
                let weight = $1.value.count / total
                return ($0.0 + weight * Double($1.key), $0.1 + weight * $1.value.seconds)
            }
            let (covariance, variance) = times.reduce((0.0, 0.0)) {
                let offset = Double($1.key) - x
                return (
                    $0.0 + $1.value.count * offset * ($1.value.seconds - y),
                    $0.1 + $1.value.count * offset * offset
                )
            }
            slope = max(covariance / variance, 0)
            start = y - slope * x
        }

        func seconds(_ draftTokens: Int) -> Double {
            max(start + slope * Double(draftTokens), .leastNormalMagnitude)
        }
    }

    /// The line through the neighbours of `x`, rising or level; beyond the last, through the last two.
    private static func interpolate(_ points: [(x: Int, seconds: Double)], at x: Int) -> Double? {
        let sorted = points.sorted { $0.x < $1.x }
        guard let first = sorted.first, let last = sorted.last else { return nil }
        guard x > first.x else { return first.seconds }
        let after = sorted.firstIndex { $0.x >= x } ?? sorted.count - 1
        guard after > 0 else { return last.seconds }
        let (low, high) = (sorted[after - 1], sorted[after])
        guard high.x > low.x else { return high.seconds }
        let slope = max(high.seconds - low.seconds, 0) / Double(high.x - low.x)
        return low.seconds + slope * Double(x - low.x)
    }

    // MARK: Learning

    /// Takes the outcome of a step.
    ///
    /// - Parameters:
    ///   - accepted: Proposals accepted, per row that verified them, `0...draftTokens`.
    ///   - constrained: Rows beside them that verified none.
    ///   - measured: The step's time; `nil` where something else ran, too.
    mutating func record(
        _ choice: Choice, bucket: Int, accepted: [Int], constrained: Int = 0,
        seconds measured: Double?
    ) {
        guard !accepted.isEmpty else { return }
        let rows = Double(accepted.count + constrained)
        let draftTokens = choice.draftTokens
        for place in 0..<min(draftTokens, places.count) {
            let reached = accepted.count { $0 >= place }
            guard reached > 0 else { break }
            places[place].add(reached: reached, accepted: accepted.count { $0 > place })
        }
        if let measured, measured > 0 {
            times[bucket, default: [:]][draftTokens, default: Time()].add(measured)
        }
        let plan = estimates(bucket, Double(accepted.count) / rows)
        // By means: what other programs did to a single step says nothing about its choice.
        guard let plain = plan.first,
            let spent = plan.first(where: { $0.draftTokens == draftTokens })?.seconds
        else { return }
        let tokens = 1 + Double(accepted.reduce(0, +)) / rows
        let steps = spent / plain.seconds
        safety += Self.allowance * steps
        if draftTokens > 0 { safety += tokens - steps }
        safety = min(safety, Self.most)
        let best = best(plan)
        trials += Self.allowance * spent / best.seconds
        if choice.isTrial {
            trials += tokens / best.tokens - spent / best.seconds
        }
        trials = min(trials, Self.opening)
    }
}
