/// Arithmetic on sizes that come from files: `Int.max` instead of an overflow.
enum Saturating {
    /// The product of sizes that are not negative; zero where one of them is.
    static func product(_ factors: [Int]) -> Int {
        if factors.contains(0) { return 0 }
        return factors.reduce(1) { product, factor in
            let (next, overflows) = product.multipliedReportingOverflow(by: factor)
            return overflows ? .max : next
        }
    }

    /// The sum of sizes that are not negative.
    static func sum(_ terms: [Int]) -> Int {
        terms.reduce(0) { sum, term in
            let (next, overflows) = sum.addingReportingOverflow(term)
            return overflows ? .max : next
        }
    }
}
