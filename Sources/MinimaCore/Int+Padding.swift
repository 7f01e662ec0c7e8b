extension Int {
    /// The decimal digits of a number that is not negative, with zeros before them up to `width`: files
    /// of a series in their order.
    public func zeroPadded(_ width: Int) -> String {
        let digits = String(self)
        return String(repeating: "0", count: Swift.max(width - digits.count, 0)) + digits
    }
}
