/// Arithmetic on sizes that come from files.
enum Sizes {
    /// No weight has more than 2⁴⁴ values: 32 TiB in bfloat16. Below it no trial division is long.
    static let limitExponent = 44

    /// The product, or `nil` when a factor is below 1 or the product above the limit.
    static func product(_ factors: [Int]) -> Int? {
        var product = 1
        for factor in factors {
            guard factor > 0 else { return nil }
            let (next, overflow) = product.multipliedReportingOverflow(by: factor)
            guard !overflow, next <= 1 << limitExponent else { return nil }
            product = next
        }
        return product
    }

    /// The sum of counts that are positive; `Int.max` when it overflows.
    static func saturatingSum(_ terms: [Int]) -> Int {
        terms.reduce(0) { sum, term in
            let (next, overflow) = sum.addingReportingOverflow(term)
            return overflow ? .max : next
        }
    }

    /// The product of positive sizes; `Int.max` when it overflows.
    static func saturatingProduct(_ factors: [Int]) -> Int {
        factors.reduce(1) { product, factor in
            let (next, overflow) = product.multipliedReportingOverflow(by: factor)
            return overflow ? .max : next
        }
    }

    /// The divisor of `size` whose ratio to `target` is nearest 1; the smaller of equals.
    ///
    /// - Complexity: O(√size).
    static func divisor(of size: Int, nearest target: Double) -> Int {
        var best = 1
        func distance(_ divisor: Int) -> Double {
            max(Double(divisor) / target, target / Double(divisor))
        }
        var candidate = 1
        while candidate <= size / candidate {
            if size % candidate == 0 {
                for divisor in [candidate, size / candidate] {
                    let (new, old) = (distance(divisor), distance(best))
                    if new < old || new == old && divisor < best { best = divisor }
                }
            }
            candidate += 1
        }
        return best
    }
}
