/// How long something took on the device, over several runs; microseconds.
public struct DeviceTime: Sendable, Hashable, CustomStringConvertible {
    /// The middle of the runs.
    public let median: Double
    /// The fastest run.
    public let minimum: Double
    /// The slowest run.
    public let maximum: Double
    /// Half of the runs lie between these quartiles.
    public let quartiles: ClosedRange<Double>
    /// How many runs there were.
    public let count: Int

    /// Of at least one measurement.
    init(_ measured: [Double]) {
        let sorted = measured.sorted()
        func at(_ share: Double) -> Double {
            // Linear between the neighbours.
            let place = share * Double(sorted.count - 1)
            let (low, high) = (sorted[Int(place)], sorted[min(Int(place) + 1, sorted.count - 1)])
            return low + (high - low) * (place - place.rounded(.down))
        }
        median = at(0.5)
        minimum = at(0)
        maximum = at(1)
        quartiles = at(0.25)...at(0.75)
        count = sorted.count
    }

    /// The range of the middle half, as a share of the median.
    public var spread: Double {
        median > 0 ? (quartiles.upperBound - quartiles.lowerBound) / median : 0
    }

    /// Median and middle half: `12.3 µs (12.2–12.5)`.
    public var description: String {
        "\(Self.text(median)) µs (\(Self.text(quartiles.lowerBound))–\(Self.text(quartiles.upperBound)))"
    }

    private static func text(_ value: Double) -> String {
        let tenths = Int((value * 10).rounded())
        return "\(tenths / 10).\(tenths % 10)"
    }
}

extension CUDAContext {
    /// Times what `body` queues, by replays of a graph.
    ///
    /// - Parameters:
    ///   - repeats: Timed replays.
    ///   - warmup: Replays before these.
    ///   - perReplay: How often `body` is called for one graph. Times are per call; many calls make
    ///     the start of a graph, a few microseconds, vanish, and let `body` go through buffers that
    ///     together exceed the second-level cache.
    ///   - prepare: Called before each replay, its time not counted; waits for what it queues.
    ///   - body: Queues work on the stream; the number of the call tells which buffers to take. It is
    ///     also called once before the capture.
    public func time(
        repeats: Int = 20, warmup: Int = 3, perReplay: Int = 1,
        prepare: () throws -> Void = {}, _ body: (CUDAStream, _ call: Int) throws -> Void
    ) throws -> DeviceTime {
        guard repeats > 0, perReplay > 0 else {
            throw KernelError.graph(reason: "\(repeats) runs of \(perReplay) calls measure nothing")
        }
        let stream = try CUDAStream(on: self)
        try stream.use { try body(stream, 0) }
        try stream.synchronize()
        let graph = try CUDAGraph.capture(on: stream) {
            for call in 0..<perReplay { try body(stream, call) }
        }
        var measured: [Double] = []
        let (start, end) = (try CUDAEvent(on: self), try CUDAEvent(on: self))
        for replay in -max(warmup, 0)..<repeats {
            try prepare()
            try start.record(on: stream)
            try graph.launch(on: stream)
            try end.record(on: stream)
            try end.synchronize()
            let elapsed = try end.elapsed(since: start)
            if replay >= 0 { measured.append(elapsed * 1000 / Double(perReplay)) }
        }
        return DeviceTime(measured)
    }
}
