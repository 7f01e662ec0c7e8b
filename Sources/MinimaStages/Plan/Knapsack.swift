/// The multiple-choice knapsack of a plan: for every item one of its alternatives, for every slot of
/// that alternative one of its options, so that the total cost stays within a limit, the total time
/// too where there is a limit of it, and the total damage is as small as possible.
///
/// Solved by Lagrangian relaxation: at a price λ per unit of cost every slot takes the option with
/// the least damage + λ·cost and every item its best alternative, independently; the smallest price
/// that meets the limit is found by bisection, and what is left of the limit is then spent on the
/// changes that lower the damage most. The relaxation bounds the optimum from below, so the gap of
/// the result is known (Kellerer, Pferschy & Pisinger 2004, chapter 11).
///
/// Where that takes too long, time gets a price μ of its own: damage + μ·time stands for damage, and
/// the smallest μ whose choice is in time is found by an outer bisection. For every μ ≥ 0 the inner
/// bound less μ times the limit bounds the optimum; the best of them is kept. Two prices meet two
/// limits less closely than one meets one: the gap is wider, and where hardly any choice meets both
/// limits none may be found although there is one.
struct Knapsack {
    /// A choice for a slot.
    struct Option {
        var cost: Int
        var damage: Double
        var time = 0
    }

    /// Slots that are chosen independently once their alternative is.
    typealias Alternative = [[Option]]

    /// What was chosen for an item: the alternative, and an option for each of its slots.
    struct Choice: Equatable {
        var alternative: Int
        var options: [Int]
    }

    /// Choices for all items, and what they amount to.
    struct Solution {
        var choices: [Choice] = []
        var cost = 0
        var damage = 0.0
        var time = 0
        /// No choice within the limits has less damage than this.
        var bound = 0.0
        /// Damage that one more unit of cost would save, about.
        var price = 0.0
        /// Damage that one more unit of time would save, about.
        var timePrice = 0.0
    }

    /// What a choice is judged by besides its cost.
    private struct Measure {
        var damage = 1.0
        var time = 0.0

        func callAsFunction(_ option: Option) -> Double {
            // Not a sum with 0: without a limit of time nothing is rounded differently.
            time == 0 ? damage * option.damage : damage * option.damage + time * Double(option.time)
        }

        func callAsFunction(_ solution: Solution) -> Double {
            time == 0
                ? damage * solution.damage
                : damage * solution.damage + time * Double(solution.time)
        }
    }

    /// Alternatives of each item; no slot is without options.
    let items: [[Alternative]]

    /// The least cost that any choice has.
    var smallestCost: Int {
        items.reduce(0) { sum, alternatives in
            sum
                + (alternatives.map { slots in
                    slots.reduce(0) { $0 + ($1.map(\.cost).min() ?? 0) }
                }.min() ?? 0)
        }
    }

    /// The best choices found within `limit`; `nil` when even the cheapest exceed it.
    ///
    /// - Parameter timeLimit: Time that the choices may take together. Where nothing that keeps it was
    ///   found, the result is the fastest found within `limit`.
    func solve(limit: Int, timeLimit: Int? = nil) -> Solution? {
        guard smallestCost <= limit else { return nil }
        var best = relax(limit: limit, by: Measure())
        if let timeLimit, best.time > timeLimit {
            best = relax(limit: limit, timeLimit: timeLimit, above: best)
            guard best.time <= timeLimit else { return best }
        }
        spend(limit - best.cost, timeLimit: timeLimit ?? .max, on: &best)
        best.bound = min(best.bound, best.damage)
        return best
    }

    /// The least damage found within both limits at a price of time; the fastest found within `limit`
    /// where none is in time.
    ///
    /// - Parameter free: What is best without a price.
    private func relax(limit: Int, timeLimit: Int, above free: Solution) -> Solution {
        var bound = free.bound
        func priced(_ price: Double) -> Solution {
            var solution = relax(limit: limit, by: Measure(time: price))
            bound = max(bound, solution.bound - price * Double(timeLimit))
            solution.timePrice = price
            return solution
        }
        var (low, high) = (0.0, 1.0)
        var best = priced(high)
        while best.time > timeLimit, high < 1e30 {
            low = high
            high *= 1024
            best = priced(high)
        }
        if best.time > timeLimit {
            best = relax(limit: limit, by: Measure(damage: 0, time: 1))
            (best.bound, best.price) = (bound, 0)
            return best
        }
        // A price to 0.1 % is as good as any: choices change in steps.
        while high > 1e-30, low == 0 || high > low * 1.001 {
            let middle = low > 0 ? (low * high).squareRoot() : high / 1024
            let solution = priced(middle)
            if solution.time <= timeLimit {
                high = middle
                if solution.damage <= best.damage { best = solution }
            } else {
                low = middle
            }
        }
        best.bound = bound
        return best
    }

    /// The choices of least `measure` at the smallest price of cost that meets `limit`, which some
    /// choice does, and Lagrange's lower bound of that measure.
    private func relax(limit: Int, by measure: Measure) -> Solution {
        var (low, high) = (0.0, 1.0)
        var best = choose(price: low, measure)
        if best.cost <= limit {
            best.bound = measure(best)
            return best
        }
        /// Lagrange's lower bound of the measure within `limit`.
        func dual(_ solution: Solution, _ price: Double) -> Double {
            measure(solution) + price * Double(solution.cost - limit)
        }
        var bound = dual(best, low)
        // A price at which the limit is met, then the smallest such price.
        var reached = choose(price: high, measure)
        while reached.cost > limit, high < 1e300 {
            bound = max(bound, dual(reached, high))
            low = high
            high *= 16
            reached = choose(price: high, measure)
        }
        // At an infinite price only cost counts.
        if reached.cost > limit { reached = pick { Double($0.cost) } }
        best = reached
        for _ in 0..<200 {
            let middle = low > 0 ? (low * high).squareRoot() : high * 1e-3
            guard middle > low, middle < high, high > 1e-300 else { break }
            let solution = choose(price: middle, measure)
            bound = max(bound, dual(solution, middle))
            if solution.cost <= limit {
                high = middle
                best = solution
            } else {
                low = middle
            }
        }
        best.price = high
        best.bound = bound
        return best
    }

    private func choose(price: Double, _ measure: Measure) -> Solution {
        pick { measure($0) + price * Double($0.cost) }
    }

    /// For every item the alternative and options of the least total `weight`, the cheaper of equals.
    private func pick(_ weight: (Option) -> Double) -> Solution {
        var solution = Solution()
        for alternatives in items {
            var best: (choice: Choice, weight: Double, cost: Int, damage: Double, time: Int)?
            for (index, slots) in alternatives.enumerated() {
                var choice = Choice(alternative: index, options: [])
                var (total, cost, damage, time) = (0.0, 0, 0.0, 0)
                for options in slots {
                    guard let chosen = Self.least(options, weight) else { continue }
                    choice.options.append(chosen)
                    total += weight(options[chosen])
                    cost += options[chosen].cost
                    damage += options[chosen].damage
                    time += options[chosen].time
                }
                let isBetter =
                    best.map { total < $0.weight || total == $0.weight && cost < $0.cost } ?? true
                if isBetter { best = (choice, total, cost, damage, time) }
            }
            guard let best else { continue }
            solution.choices.append(best.choice)
            solution.cost += best.cost
            solution.damage += best.damage
            solution.time += best.time
        }
        return solution
    }

    private static func least(_ options: [Option], _ weight: (Option) -> Double) -> Int? {
        options.indices.min { left, right in
            let (first, second) = (weight(options[left]), weight(options[right]))
            return first < second
                || first == second && options[left].cost < options[right].cost
        }
    }

    /// Raises single slots, the largest gain per unit first, while they fit into `slack` and
    /// keep `timeLimit`. Units of time count as the prices say.
    private func spend(_ slack: Int, timeLimit: Int, on solution: inout Solution) {
        var slack = slack
        let (costWeight, timeWeight) =
            solution.timePrice > 0 ? (solution.price / solution.timePrice, 1.0) : (1, 0)
        while slack > 0 {
            var best: (item: Int, slot: Int, option: Int, rate: Double)?
            for (item, choice) in solution.choices.enumerated() {
                let slots = items[item][choice.alternative]
                for (slot, chosen) in choice.options.enumerated() {
                    let current = slots[slot][chosen]
                    for (index, option) in slots[slot].enumerated()
                    where option.damage < current.damage && option.cost - current.cost <= slack
                        && solution.time + (option.time - current.time) <= timeLimit
                    {
                        let extra =
                            costWeight * Double(max(option.cost - current.cost, 0))
                            + timeWeight * Double(max(option.time - current.time, 0))
                        let rate = (current.damage - option.damage) / max(extra, 1e-9)
                        if rate > (best?.rate ?? 0) { best = (item, slot, index, rate) }
                    }
                }
            }
            guard let best else { return }
            let slots = items[best.item][solution.choices[best.item].alternative]
            let old = slots[best.slot][solution.choices[best.item].options[best.slot]]
            let new = slots[best.slot][best.option]
            solution.choices[best.item].options[best.slot] = best.option
            solution.cost += new.cost - old.cost
            solution.damage += new.damage - old.damage
            solution.time += new.time - old.time
            slack -= new.cost - old.cost
        }
    }
}
