extension Int {
    /// The product; the largest `Int` where it overflows. Factors are counts, none negative.
    static func saturatingProduct(_ factors: Int...) -> Int {
        if factors.contains(0) { return 0 }
        return factors.reduce(1) { product, factor in
            let (next, overflows) = product.multipliedReportingOverflow(by: factor)
            return overflows ? .max : next
        }
    }

    /// The sum; the largest `Int` where it overflows. Terms are counts, none negative.
    static func saturatingSum(_ terms: Int...) -> Int {
        terms.reduce(0) { sum, term in
            let (next, overflows) = sum.addingReportingOverflow(term)
            return overflows ? .max : next
        }
    }
}
