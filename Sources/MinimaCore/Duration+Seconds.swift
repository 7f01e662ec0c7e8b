extension Duration {
    /// This duration in seconds.
    public var totalSeconds: Double {
        Double(components.seconds) + Double(components.attoseconds) * 1e-18
    }
}
