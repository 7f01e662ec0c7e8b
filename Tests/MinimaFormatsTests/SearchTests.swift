import MinimaCore
import Testing

@testable import MinimaFormats

/// Searches over sizes, ranks and contraction orders against brute force.
@Suite struct SearchTests {
    /// Multiply-adds of absorbing cores in the order `path`, by keeping the book of open legs.
    private func cost(_ path: [Int], of chain: CoreChain) -> (multiplyAdds: Int, state: Int) {
        let order = chain.order
        var (total, largest) = (0, 0)
        var (absorbed, open) = (Set<Int>(), Set<Int>())
        for core in path {
            let ends: Set = [core, (core + 1) % order]
            let summed = open.intersection(ends).map { chain.bonds[$0] }.reduce(1, *)
            open.formSymmetricDifference(ends)
            absorbed.insert(core)
            var size = open.map { chain.bonds[$0] }.reduce(1, *)
            for index in 0..<order {
                size *=
                    absorbed.contains(index) ? chain.outputModes[index] : chain.inputModes[index]
            }
            total += size * summed * chain.inputModes[core]
            largest = max(largest, size)
        }
        return (total, largest)
    }

    /// Every order in which each core is a neighbour of those before.
    private func paths(_ order: Int) -> [[Int]] {
        var paths: [[Int]] = []
        for first in 0..<order {
            for sides in 0..<(1 << (order - 1)) {
                var (path, left, right) = ([first], first, first)
                for step in 0..<(order - 1) {
                    if sides >> step & 1 == 0 {
                        right = (right + 1) % order
                        path.append(right)
                    } else {
                        left = (left + order - 1) % order
                        path.append(left)
                    }
                }
                paths.append(path)
            }
        }
        return paths
    }

    @Test func theCheapestPathIsFoundAndCounted() {
        var numbers = SplitMix(7)
        var starts = Set<Int>()
        for round in 0..<300 {
            let order = Int.random(in: 2...5, using: &numbers)
            var bonds: [Int] = []
            var (outputs, inputs) = ([Int](), [Int]())
            for _ in 0..<order {
                bonds.append(Int.random(in: 1...5, using: &numbers))
                outputs.append(Int.random(in: 1...5, using: &numbers))
                inputs.append(Int.random(in: 1...5, using: &numbers))
            }
            if round % 2 == 0 { bonds[0] = 1 }
            let chain = CoreChain(outputModes: outputs, inputModes: inputs, bonds: bonds)
            let path = chain.cheapestPath()
            let counted = cost(path.cores, of: chain)
            #expect(path.multiplyAdds == counted.multiplyAdds)
            #expect(path.largestState == counted.state)
            #expect(
                path.multiplyAdds == paths(order).map { cost($0, of: chain).multiplyAdds }.min())
            starts.insert(path.cores[0])
        }
        #expect(starts.count > 2)
    }

    @Test func hostileChainsSaturate() {
        let chain = CoreChain(
            outputModes: [1 << 40, 1 << 40], inputModes: [1 << 40, 1 << 40],
            bonds: [1 << 40, 1 << 40])
        #expect(chain.gaugedCount == .max)
        #expect(chain.cheapestPath().multiplyAdds == .max)
    }

    @Test func ranksSpendTheBudget() {
        // Two ranks that cost 3 and 5 each, and their product.
        let search = RankSearch(
            caps: [6, 9], limit: { ranks, position in position == 0 ? 100 : ranks[0] + 4 },
            count: { 3 * $0[0] + 5 * $0[1] + $0[0] * $0[1] })
        #expect(search.ranks(fitting: 8) == nil)
        for budget in 9..<150 {
            guard let ranks = search.ranks(fitting: budget) else {
                Issue.record("nothing fits \(budget)")
                continue
            }
            #expect(search.count(ranks) <= budget)
            for position in ranks.indices {
                var raised = ranks
                raised[position] += 1
                let full = ranks[position] == search.caps[position]
                let limited = raised[position] > search.limit(ranks, position)
                #expect(full || limited || search.count(raised) > budget, "\(ranks)")
            }
        }
        #expect(search.ranks(fitting: .max) == [6, 9])
    }

    @Test func divisorsAreTheNearest() {
        for size in 1...200 {
            for target in [0.5, 1, 2.5, 7, 14.2, 100, 1000] {
                let divisors = (1...size).filter { size % $0 == 0 }
                let ratios = divisors.map { max(Double($0) / target, target / Double($0)) }
                let found = Sizes.divisor(of: size, nearest: target)
                let ratio = max(Double(found) / target, target / Double(found))
                #expect(size % found == 0)
                #expect(ratio == ratios.min())
            }
        }
    }

    @Test func pairsAreBalanced() {
        for (outputs, inputs, expected) in [
            (5120, 25600, [64, 80, 160, 160]), (151_936, 5120, [0, 0, 0, 0]),
            (127, 384, [1, 127, 192, 2]), (127, 131, [1, 127, 131, 1]), (1, 12, [1, 1, 3, 4]),
        ] {
            let modes = CoreChain.twoPairs(outputs: outputs, inputs: inputs)
            #expect(modes.outputs.reduce(1, *) == outputs)
            #expect(modes.inputs.reduce(1, *) == inputs)
            let pairs = zip(modes.outputs, modes.inputs).map(*)
            #expect(max(pairs[0], pairs[1]) < 4 * min(pairs[0], pairs[1]))
            if expected[0] > 0 { #expect(modes.outputs + modes.inputs == expected) }
        }
    }

    @Test func productsAreBounded() {
        #expect(Sizes.product([]) == 1)
        #expect(Sizes.product([1 << 44]) == 1 << 44)
        #expect(Sizes.product([1 << 44, 2]) == nil)
        #expect(Sizes.product([Int.max, Int.max]) == nil)
        #expect(Sizes.product([3, 0]) == nil)
        #expect(Sizes.product([-1, -1]) == nil)
    }
}
