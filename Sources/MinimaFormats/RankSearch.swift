/// The search for ranks under a budget when nothing is known of the weight but its shape.
///
/// Ranks are one bound R, or less where less is already exact: over all bonds the accuracy is that
/// of the worst one, so none is favoured. R is the largest that fits; what is left of the budget
/// raises single ranks, first to last.
struct RankSearch {
    /// Per rank, the value at which it no longer truncates anything.
    let caps: [Int]
    /// The largest useful value of one rank beside the others.
    let limit: (_ ranks: [Int], _ position: Int) -> Int
    /// Parameters; grows with every rank but for the last step to a full one, where the pivots of an
    /// interpolative factor fall away. `Int.max` when it overflows.
    let count: ([Int]) -> Int

    /// The ranks with the smallest count.
    var smallest: [Int] { caps.map { _ in 1 } }

    /// Ranks with at most `parameters` parameters, or `nil` when there are none.
    ///
    /// - Complexity: O(ranks · log(largest cap)) counts per pass; a pass that raises nothing is the
    ///   last, and the first leaves little to raise.
    func ranks(fitting parameters: Int) -> [Int]? {
        guard count(smallest) <= parameters else { return nil }
        let bound = largest(from: 1, to: caps.max() ?? 1) { bound in
            count(caps.map { min($0, bound) }) <= parameters
        }
        var ranks = caps.map { min($0, bound) }
        while true {
            let before = ranks
            for position in ranks.indices {
                let top = min(caps[position], limit(ranks, position))
                guard top > ranks[position] else { continue }
                ranks[position] = largest(from: ranks[position], to: top) { rank in
                    var raised = ranks
                    raised[position] = rank
                    return count(raised) <= parameters
                }
            }
            if ranks == before { return ranks }
        }
    }

    /// The largest value in `low...high` that `fits`, where `low` does and fitting is monotone.
    private func largest(from low: Int, to high: Int, fits: (Int) -> Bool) -> Int {
        guard !fits(high) else { return high }
        var (low, high) = (low, high)
        while low < high {
            let middle = high - (high - low) / 2
            if fits(middle) { low = middle } else { high = middle - 1 }
        }
        return low
    }
}
