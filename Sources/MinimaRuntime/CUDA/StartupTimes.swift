/// Where the time went until an engine could take its first request.
public struct StartupTimes: Sendable, Hashable {
    /// A part of the start.
    public struct Part: Sendable, Hashable {
        /// Such as `weights`, `kernels`, `graphs`.
        public var name: String
        /// Wall-clock time.
        public var seconds: Double
    }

    /// The parts in their order.
    public private(set) var parts: [Part] = []

    /// Nothing yet.
    public init() {}

    /// Seconds of all parts.
    public var seconds: Double { parts.reduce(0) { $0 + $1.seconds } }

    /// Runs `body` as a part of the start.
    public mutating func measure<Result, Failure: Error>(
        _ name: String, _ body: () throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let clock = ContinuousClock()
        let begin = clock.now
        let result = try body()
        parts.append(Part(name: name, seconds: (clock.now - begin).totalSeconds))
        return result
    }
}
