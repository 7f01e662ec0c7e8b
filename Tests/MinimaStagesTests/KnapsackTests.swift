import Testing

@testable import MinimaStages

/// Numbers that are the same on every run.
private struct ChoiceNumbers: RandomNumberGenerator {
    var state: UInt64

    mutating func next() -> UInt64 {
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return state ^ (state >> 29)
    }
}

@Suite struct KnapsackTests {
    private func random(_ seed: UInt64, items: Int, options: Int) -> Knapsack {
        var numbers = ChoiceNumbers(state: seed)
        return Knapsack(
            items: (0..<items).map { _ in
                (0..<Int.random(in: 1...2, using: &numbers)).map { _ in
                    (0..<Int.random(in: 1...2, using: &numbers)).map { _ in
                        (0..<options).map { _ in
                            Knapsack.Option(
                                cost: Int.random(in: 0...40, using: &numbers),
                                damage: Double.random(in: 0...1, using: &numbers),
                                time: Int.random(in: 0...20, using: &numbers))
                        }
                    }
                }
            })
    }

    /// Least damage within `limit` over every combination; `nil` when none fits.
    private func exhaustive(_ knapsack: Knapsack, limit: Int) -> Double? {
        var best: [Int: Double] = [0: 0]
        for alternatives in knapsack.items {
            var next: [Int: Double] = [:]
            for slots in alternatives {
                var states = best
                for options in slots {
                    var grown: [Int: Double] = [:]
                    for (cost, damage) in states {
                        for option in options where cost + option.cost <= limit {
                            let total = damage + option.damage
                            grown[cost + option.cost] = min(
                                grown[cost + option.cost] ?? .infinity, total)
                        }
                    }
                    states = grown
                }
                next.merge(states, uniquingKeysWith: min)
            }
            best = next
        }
        return best.values.min()
    }

    @Test func boundOptimumAndResultAreInOrder() throws {
        var gaps: [Double] = []
        for seed in 1...200 {
            let knapsack = random(UInt64(seed), items: 6, options: 5)
            for limit in [20, 60, 120, 240, 1000] {
                let optimum = exhaustive(knapsack, limit: limit)
                let solution = knapsack.solve(limit: limit)
                #expect((optimum == nil) == (solution == nil))
                #expect((optimum == nil) == (knapsack.smallestCost > limit))
                guard let optimum, let solution else { continue }
                #expect(solution.cost <= limit)
                #expect(solution.bound <= optimum + 1e-9)
                #expect(optimum <= solution.damage + 1e-9)
                gaps.append(solution.damage - optimum)
            }
        }
        // Few items make large steps; most results are the optimum nevertheless.
        let exact = gaps.count { $0 < 1e-9 }
        #expect(exact * 10 > gaps.count * 4, "\(exact) of \(gaps.count)")
    }

    /// Least damage within both limits over every combination; `nil` when none fits.
    private func exhaustive(_ knapsack: Knapsack, limit: Int, timeLimit: Int) -> Double? {
        struct State: Hashable { var cost, time: Int }
        var best = [State(cost: 0, time: 0): 0.0]
        for alternatives in knapsack.items {
            var next: [State: Double] = [:]
            for slots in alternatives {
                var states = best
                for options in slots {
                    var grown: [State: Double] = [:]
                    for (state, damage) in states {
                        for option in options {
                            let sum = State(
                                cost: state.cost + option.cost, time: state.time + option.time)
                            guard sum.cost <= limit, sum.time <= timeLimit else { continue }
                            grown[sum] = min(grown[sum] ?? .infinity, damage + option.damage)
                        }
                    }
                    states = grown
                }
                next.merge(states, uniquingKeysWith: min)
            }
            best = next
        }
        return best.values.min()
    }

    @Test func twoLimitsAreKeptAndBounded() throws {
        var gaps: [Double] = []
        var missed = 0
        for seed in 1...25 {
            let knapsack = random(UInt64(seed), items: 6, options: 4)
            for (limit, timeLimit) in [(60, 30), (60, 60), (120, 30), (120, 60), (1000, 40)] {
                let optimum = exhaustive(knapsack, limit: limit, timeLimit: timeLimit)
                guard let solution = knapsack.solve(limit: limit, timeLimit: timeLimit) else {
                    #expect(knapsack.smallestCost > limit && optimum == nil)
                    continue
                }
                #expect(solution.cost <= limit)
                guard let optimum else {
                    #expect(solution.time > timeLimit)
                    continue
                }
                guard solution.time <= timeLimit else {
                    missed += 1
                    continue
                }
                #expect(solution.bound <= optimum + 1e-9)
                #expect(optimum <= solution.damage + 1e-9)
                gaps.append(solution.damage - optimum)
            }
        }
        // Six items are the worst case: each is a sixth of the limits.
        #expect(missed * 10 < gaps.count, "\(missed) of \(gaps.count + missed)")
        #expect(gaps.count > 50)
        let mean = gaps.reduce(0, +) / Double(gaps.count)
        #expect(mean < 0.2, "\(mean)")
    }

    @Test func gapsOfTwoLimitsAreSmallAmongManyItems() throws {
        let knapsack = random(11, items: 60, options: 6)
        let free = try #require(knapsack.solve(limit: 600))
        for share in [0.9, 0.7, 0.5] {
            let timeLimit = Int(share * Double(free.time))
            let solution = try #require(knapsack.solve(limit: 600, timeLimit: timeLimit))
            #expect(solution.cost <= 600 && solution.time <= timeLimit)
            #expect(solution.bound >= free.bound - 1e-9)
            #expect(solution.damage <= solution.bound * 1.02, "share \(share)")
        }
        // A limit that does not bind changes nothing.
        let loose = try #require(knapsack.solve(limit: 600, timeLimit: 60 * 2 * 20))
        #expect(loose.choices == free.choices)
    }

    @Test func whatIsReportedIsWhatWasChosen() throws {
        let knapsack = random(7, items: 40, options: 12)
        for limit in stride(from: knapsack.smallestCost, to: 2000, by: 61) {
            let solution = try #require(knapsack.solve(limit: limit))
            var (cost, damage, time) = (0, 0.0, 0)
            for (item, choice) in zip(knapsack.items, solution.choices) {
                let slots = item[choice.alternative]
                #expect(slots.count == choice.options.count)
                for (slot, option) in zip(slots, choice.options) {
                    cost += slot[option].cost
                    damage += slot[option].damage
                    time += slot[option].time
                }
            }
            #expect(cost == solution.cost && time == solution.time)
            #expect(abs(damage - solution.damage) < 1e-9)
        }
    }

    @Test func moreRoomNeverHurts() throws {
        let knapsack = random(8, items: 60, options: 10)
        var last = Double.infinity
        for limit in stride(from: knapsack.smallestCost, to: 3000, by: 100) {
            let solution = try #require(knapsack.solve(limit: limit))
            // Both are within their gap of an optimum that falls.
            #expect(solution.bound <= last + 1e-9)
            last = solution.damage
        }
    }

    @Test func damagesOfAnyScale() throws {
        for scale in [1e-12, 1, 1e9] {
            let options = (1...20).map {
                Knapsack.Option(cost: $0 * 1_000_000, damage: scale / Double($0))
            }
            let knapsack = Knapsack(items: Array(repeating: [[options]], count: 10))
            let solution = try #require(knapsack.solve(limit: 100_000_000))
            #expect(solution.cost <= 100_000_000)
            #expect(abs(solution.damage - scale) < 0.02 * scale)
        }
    }
}
