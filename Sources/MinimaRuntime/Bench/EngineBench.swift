import MinimaCore
import MinimaTensor
import Synchronization

/// Measures an engine as its clients see it: requests that come at once, their first tokens, and the
/// speed of each while all of them decode.
public struct EngineBench: Sendable {
    /// Tokens that requests draw from: prompts are windows of them.
    public let text: [Int32]
    /// Tokens of a prompt.
    public let context: Int
    /// Tokens of each request, at least, between the last first token and the end of a measurement.
    public let tokens: Int
    /// Repetitions, after one that is not counted.
    public let repeats: Int

    /// - Parameter text: At least one token; prompts longer than it begin again at its beginning.
    public init(text: [Int32], context: Int, tokens: Int, repeats: Int) {
        self.text = text
        self.context = context
        self.tokens = tokens
        self.repeats = repeats
    }

    /// What an engine reached.
    public struct Measurement: Sendable, Hashable {
        /// Tokens per second of each request.
        public var tokensPerSecond: BenchResult.Spread
        /// Seconds to the first token, the middle one of all requests.
        public var firstToken: BenchResult.Spread
        /// Tokens that a step which proposes makes for a request; `nil` without such steps.
        public var acceptanceLength: Double?
        /// Most bytes held since `memory` was begun.
        public var peakBytes: Int?
    }

    /// Tokens that a sequence may reach: the first ones decode while the prompts of others are read,
    /// a chunk in a step.
    ///
    /// - Parameters:
    ///   - chunk: Tokens of prompts in a step.
    ///   - places: Tokens that a step makes for a request at most.
    public func longest(requests: Int, chunk: Int, places: Int) -> Int {
        let reading = requests * (context / max(chunk, 1) + 1)
        // A step is queued, and one computed, while a request is being cancelled.
        return context + tokens + (reading + 4) * places
    }

    /// Begins to count the memory of an engine that is made now.
    public static func beginMemory(on device: Device) throws {
        try device.emptyCache()
        try device.resetPeakMemory()
        if !device.isCUDA { ProcessMemory.resetPeak() }
    }

    /// Submits `requests` requests at a time, again and again.
    ///
    /// - Throws: ``EngineBenchError`` where a request fails, or ends before all decode.
    public func measure(
        _ engine: Engine, requests: Int, on device: Device,
        onProgress: (StageProgress) throws -> Void = { _ in }
    ) throws -> Measurement {
        var rates: [Double] = []
        var first: [Double] = []
        for repetition in 0...repeats {
            let result = try run(engine, requests: requests, number: repetition)
            try onProgress(
                StageProgress(
                    stage: "\(requests) requests", done: repetition + 1, total: repeats + 1,
                    unit: "repetitions"))
            guard repetition > 0 else { continue }
            rates.append(result.rate)
            first.append(result.firstToken)
        }
        guard let rate = BenchResult.Spread(rates), let firstToken = BenchResult.Spread(first)
        else {
            throw EngineBenchError.nothingMeasured
        }
        return Measurement(
            tokensPerSecond: rate, firstToken: firstToken,
            acceptanceLength: engine.metrics.speculation.acceptanceLength,
            peakBytes: device.isCUDA
                ? try device.memory()?.peakAllocated : ProcessMemory.peak())
    }

    /// Prompt `index` of repetition `number`: no two begin at the same place of the text as far as it
    /// is long enough, so that none finds another's prefix.
    func prompt(_ index: Int, of requests: Int, number: Int) -> [Int32] {
        let all = requests * (repeats + 1)
        let place = number * requests + index
        let start = text.count >= all ? place * (text.count / all) : place
        return (0..<context).map { text[(start + $0) % text.count] }
    }

    /// What the threads that read share.
    private struct Window {
        var begun = 0
        /// When the last request had its first token.
        var start: ContinuousClock.Instant?
        /// When the first request had all that it must make after that.
        var end: ContinuousClock.Instant?
    }

    private func run(_ engine: Engine, requests: Int, number: Int) throws
        -> (rate: Double, firstToken: Double)
    {
        let handles = try (0..<requests).map { index in
            try engine.submit(
                GenerationRequest(
                    prompt: prompt(index, of: requests, number: number), maxTokens: .max,
                    sampling: SamplingParameters(), stop: []))
        }
        let clock = ContinuousClock()
        let window = Mutex(Window())
        let readings = try concurrentMap(requests, threads: requests) { index in
            var times: [ContinuousClock.Instant] = []
            var made = 0
            let outcome = try handles[index].wait { _ in
                let now = clock.now
                times.append(now)
                let isEnough = window.withLock { window in
                    if times.count == 1 {
                        window.begun += 1
                        if window.begun == requests { window.start = now }
                        return false
                    }
                    guard let start = window.start, now > start else { return false }
                    made += 1
                    guard made >= tokens else { return false }
                    if window.end == nil { window.end = now }
                    return true
                }
                if isEnough { handles[index].cancel() }
            }
            if case .failed(let error) = outcome.reason {
                throw EngineBenchError.requestFailed("\(error)")
            }
            return (times: times, firstToken: outcome.timings.firstToken)
        }
        let (start, end) = window.withLock { ($0.start, $0.end) }
        guard let start, let end, end > start else {
            throw EngineBenchError.endedEarly(requests: requests, context: engine.context)
        }
        let count = readings.reduce(0) { sum, reading in
            sum + reading.times.count { $0 > start && $0 <= end }
        }
        let seconds = (end - start).totalSeconds
        let first = readings.compactMap(\.firstToken)
        return (
            Double(count) / Double(requests) / seconds,
            BenchResult.Spread(first)?.median ?? 0
        )
    }
}

/// Why an engine could not be measured.
public enum EngineBenchError: Error, Hashable, CustomStringConvertible {
    case nothingMeasured
    case requestFailed(String)
    case endedEarly(requests: Int, context: Int)

    /// What was asked, what was found, what to do.
    public var description: String {
        switch self {
        case .nothingMeasured: "no repetition was measured; ask for at least one"
        case .requestFailed(let reason): "a request failed while it was measured: \(reason)"
        case .endedEarly(let requests, let context):
            """
            \(requests) requests never decoded together within the \(context) tokens that the engine \
            has room for; ask for shorter prompts, fewer tokens or fewer requests
            """
        }
    }
}
