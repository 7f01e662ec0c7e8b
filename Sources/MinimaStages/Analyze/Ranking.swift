/// Agreement of two orders.
public enum Ranking {
    /// Spearman's rank correlation; ties share their mean rank.
    ///
    /// - Returns: −1…1, or `nil` for fewer than three pairs or where one side is constant.
    public static func spearman(_ x: [Double], _ y: [Double]) -> Double? {
        guard x.count == y.count, x.count >= 3 else { return nil }
        let (a, b) = (ranks(x), ranks(y))
        let mean = Double(x.count - 1) / 2
        var (products, left, right) = (0.0, 0.0, 0.0)
        for (p, q) in zip(a, b) {
            products += (p - mean) * (q - mean)
            left += (p - mean) * (p - mean)
            right += (q - mean) * (q - mean)
        }
        guard left > 0, right > 0 else { return nil }
        return products / (left * right).squareRoot()
    }

    /// Ranks from 0 in ascending order.
    private static func ranks(_ values: [Double]) -> [Double] {
        let order = values.indices.sorted { (values[$0], $0) < (values[$1], $1) }
        var ranks = [Double](repeating: 0, count: values.count)
        var start = 0
        while start < order.count {
            var end = start
            while end + 1 < order.count, values[order[end + 1]] == values[order[start]] { end += 1 }
            for place in start...end { ranks[order[place]] = Double(start + end) / 2 }
            start = end + 1
        }
        return ranks
    }

    /// The value below which `share` of `values` lie, interpolated linearly.
    public static func quantile(_ values: [Double], _ share: Double) -> Double {
        let sorted = values.sorted()
        guard let last = sorted.last else { return 0 }
        let place = min(max(share, 0), 1) * Double(sorted.count - 1)
        let lower = Int(place)
        guard lower + 1 < sorted.count else { return last }
        return sorted[lower] + (place - Double(lower)) * (sorted[lower + 1] - sorted[lower])
    }
}
