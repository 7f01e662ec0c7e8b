/// The multiple-choice knapsack of a plan: for every item one of its alternatives, for every slot of
/// that alternative one of its options, so that the total cost stays within a limit and the total
/// damage is as small as possible.
///
/// Solved by Lagrangian relaxation: at a price λ per unit of cost every slot takes the option with
/// the least damage + λ·cost and every item its best alternative, independently; the smallest price
/// that meets the limit is found by bisection, and what is left of the limit is then spent on the
/// changes that lower the damage most. The relaxation bounds the optimum from below, so the gap of
/// the result is known (Kellerer, Pferschy & Pisinger 2004, chapter 11).
struct Knapsack {
    /// A choice for a slot.
    struct Option {
        var cost: Int
        var damage: Double
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
        var choices: [Choice]
        var cost: Int
        var damage: Double
        /// No choice within the limit has less damage than this.
        var bound: Double
        /// Damage that one more unit of cost would save, about.
        var price: Double
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
    func solve(limit: Int) -> Solution? {
        guard smallestCost <= limit else { return nil }
        var (low, high) = (0.0, 1.0)
        var best = choose(price: low)
        if best.cost <= limit {
            best.bound = best.damage
            return best
        }
        var bound = dual(best, price: low, limit: limit)
        // A price at which the limit is met, then the smallest such price.
        var reached = choose(price: high)
        while reached.cost > limit, high < 1e300 {
            bound = max(bound, dual(reached, price: high, limit: limit))
            low = high
            high *= 16
            reached = choose(price: high)
        }
        // At an infinite price only cost counts.
        if reached.cost > limit { reached = cheapest() }
        best = reached
        for _ in 0..<200 {
            let middle = low > 0 ? (low * high).squareRoot() : high * 1e-3
            guard middle > low, middle < high, high > 1e-300 else { break }
            let solution = choose(price: middle)
            bound = max(bound, dual(solution, price: middle, limit: limit))
            if solution.cost <= limit {
                high = middle
                best = solution
            } else {
                low = middle
            }
        }
        best.price = high
        spend(limit - best.cost, on: &best)
        best.bound = min(bound, best.damage)
        return best
    }

    /// Lagrange's lower bound of the damage within `limit`.
    private func dual(_ solution: Solution, price: Double, limit: Int) -> Double {
        solution.damage + price * Double(solution.cost - limit)
    }

    private func choose(price: Double) -> Solution {
        pick { $0.damage + price * Double($0.cost) }
    }

    private func cheapest() -> Solution {
        pick { Double($0.cost) }
    }

    /// For every item the alternative and options of the least total `weight`, the cheaper of equals.
    private func pick(_ weight: (Option) -> Double) -> Solution {
        var solution = Solution(choices: [], cost: 0, damage: 0, bound: 0, price: 0)
        for alternatives in items {
            var best: (choice: Choice, weight: Double, cost: Int, damage: Double)?
            for (index, slots) in alternatives.enumerated() {
                var choice = Choice(alternative: index, options: [])
                var (total, cost, damage) = (0.0, 0, 0.0)
                for options in slots {
                    guard let chosen = Self.least(options, weight) else { continue }
                    choice.options.append(chosen)
                    total += weight(options[chosen])
                    cost += options[chosen].cost
                    damage += options[chosen].damage
                }
                let isBetter =
                    best.map { total < $0.weight || total == $0.weight && cost < $0.cost } ?? true
                if isBetter { best = (choice, total, cost, damage) }
            }
            guard let best else { continue }
            solution.choices.append(best.choice)
            solution.cost += best.cost
            solution.damage += best.damage
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

    /// Raises single slots, the largest gain per unit first, while they fit into `slack`.
    private func spend(_ slack: Int, on solution: inout Solution) {
        var slack = slack
        while slack > 0 {
            var best: (item: Int, slot: Int, option: Int, rate: Double)?
            for (item, choice) in solution.choices.enumerated() {
                let slots = items[item][choice.alternative]
                for (slot, chosen) in choice.options.enumerated() {
                    let current = slots[slot][chosen]
                    for (index, option) in slots[slot].enumerated()
                    where option.damage < current.damage && option.cost - current.cost <= slack {
                        let extra = Double(max(option.cost - current.cost, 0))
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
            slack -= new.cost - old.cost
        }
    }
}
