import MinimaRuntime
import Synchronization

/// What a server counts, in the text form that Prometheus reads.
final class ServerMetrics: Sendable {
    private struct State {
        var requests: [Request: Int] = [:]
        var inFlight = 0
        var duration = Histogram([0.01, 0.05, 0.1, 0.5, 1, 2, 5, 10, 30, 60, 120, 300, 600])
        var firstToken = Histogram([0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30])
        var perToken = Histogram([
            0.001, 0.0025, 0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1,
        ])
        var disconnects = 0
    }

    private struct Request: Hashable, Comparable {
        let endpoint: String
        let status: Int

        static func < (left: Request, right: Request) -> Bool {
            (left.endpoint, left.status) < (right.endpoint, right.status)
        }
    }

    private let state = Mutex(State())

    func begin() { state.withLock { $0.inFlight += 1 } }

    /// - Parameter endpoint: One of a fixed set of names, never what a client wrote.
    func end(endpoint: String, status: Int, seconds: Double, generates: Bool) {
        state.withLock { state in
            state.inFlight -= 1
            state.requests[Request(endpoint: endpoint, status: status), default: 0] += 1
            if status == 499 { state.disconnects += 1 }
            if generates, status == 200 { state.duration.add(seconds) }
        }
    }

    func add(_ timing: AnswerTiming) {
        state.withLock { state in
            if let first = timing.first { state.firstToken.add(first) }
            if let time = timing.perToken { state.perToken.add(time) }
        }
    }

    /// Seconds after which a place in the queue may be free: an answer's mean time.
    var retryAfter: Int {
        let (sum, count) = state.withLock { ($0.duration.sum, $0.duration.count) }
        return count == 0 ? 1 : min(max(Int((sum / Double(count)).rounded(.up)), 1), 60)
    }

    /// All of it, and the engine's numbers.
    func text(
        _ engine: EngineMetrics, health: EngineWatch.Health, memory: MemoryUse
    ) -> String {
        let state = state.withLock { $0 }
        var page = Page()
        page.head("http_requests_total", "counter", "Requests by endpoint and status; 499: gone.")
        for (request, count) in state.requests.sorted(by: { $0.key < $1.key }) {
            page.value(
                "http_requests_total", "\(count)",
                "endpoint=\"\(request.endpoint)\",status=\"\(request.status)\"")
        }
        page.single("http_requests_in_flight", "gauge", "Requests being answered.", state.inFlight)
        page.single("disconnects_total", "counter", "Clients gone early.", state.disconnects)
        page.histogram("request_seconds", "Time of complete answers.", state.duration)
        page.histogram("time_to_first_token_seconds", "From submission.", state.firstToken)
        page.histogram("time_per_token_seconds", "Mean of an answer.", state.perToken)
        page.single("engine_ready", "gauge", "Whether requests run.", health == .ready ? 1 : 0)
        page.single("requests_running", "gauge", "Requests with a slot.", engine.running)
        page.single("requests_waiting", "gauge", "Requests without one.", engine.waiting)
        page.single("pages_free", "gauge", "Pages of keys and values.", engine.freePages)
        page.single("pages_total", "gauge", "Pages of keys and values.", engine.totalPages)
        page.single("engine_steps_total", "counter", "Steps.", engine.steps)
        page.single(
            "pages_cached", "gauge", "Free pages that hold known tokens.", engine.cachedPages)
        page.single("prompt_tokens_total", "counter", "Tokens prefilled.", engine.promptTokens)
        page.single(
            "cached_tokens_total", "counter", "Tokens found instead of prefilled.",
            engine.cachedTokens)
        page.single(
            "generated_tokens_total", "counter", "Tokens generated.", engine.generatedTokens)
        page.single("preemptions_total", "counter", "Requests that lost pages.", engine.preemptions)
        page.single("engine_failures_total", "counter", "Device calls failed.", engine.failures)
        page.head("tokens_per_second", "gauge", "Over the last five seconds or so.")
        page.value("tokens_per_second", "\(engine.tokensPerSecond)")
        let drafts = engine.speculation
        page.head("draft_tokens_total", "counter", "Room for proposals in steps.")
        let accepted = drafts.accepted.reduce(0, +)
        page.value("draft_tokens_total", "\(accepted)", "outcome=\"accepted\"")
        page.value(
            "draft_tokens_total", "\(drafts.drafted - accepted)", "outcome=\"not_accepted\"")
        page.head("answers_total", "counter", "Answers by how the engine ended them.")
        for (reason, count) in engine.finished.sorted(by: { $0.key < $1.key }) {
            page.value("answers_total", "\(count)", "reason=\"\(reason)\"")
        }
        if let bytes = memory.resident {
            page.single("resident_memory_bytes", "gauge", "Of this process.", bytes)
        }
        if let device = memory.device {
            page.single("device_memory_used_bytes", "gauge", "By anyone.", device.used)
            page.single("device_memory_total_bytes", "gauge", "Of the device.", device.total)
        }
        return page.text
    }

    /// How many values were at most so large.
    private struct Histogram {
        private let bounds: [Double]
        private var counts: [Int]
        private(set) var sum = 0.0
        private(set) var count = 0

        init(_ bounds: [Double]) {
            self.bounds = bounds
            counts = Array(repeating: 0, count: bounds.count)
        }

        mutating func add(_ value: Double) {
            sum += value
            count += 1
            for (index, bound) in bounds.enumerated() where value <= bound { counts[index] += 1 }
        }

        var buckets: [(bound: String, count: Int)] {
            zip(bounds, counts).map { ("\($0)", $1) } + [("+Inf", count)]
        }
    }

    private struct Page {
        private(set) var text = ""

        mutating func head(_ name: String, _ type: String, _ help: String) {
            text += "# HELP minima_\(name) \(help)\n# TYPE minima_\(name) \(type)\n"
        }

        mutating func value(_ name: String, _ value: String, _ labels: String = "") {
            text += "minima_\(name)\(labels.isEmpty ? "" : "{\(labels)}") \(value)\n"
        }

        mutating func single(_ name: String, _ type: String, _ help: String, _ value: Int) {
            head(name, type, help)
            self.value(name, "\(value)")
        }

        mutating func histogram(_ name: String, _ help: String, _ histogram: Histogram) {
            head(name, "histogram", help)
            for (bound, count) in histogram.buckets {
                value("\(name)_bucket", "\(count)", "le=\"\(bound)\"")
            }
            value("\(name)_sum", "\(histogram.sum)")
            value("\(name)_count", "\(histogram.count)")
        }
    }
}
