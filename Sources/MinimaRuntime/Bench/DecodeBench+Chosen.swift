import MinimaCore
import MinimaKernels

extension DecodeBench {
    /// Steps that are run at least where the number of proposals is chosen as they run.
    private static let chosenSteps = 200

    /// What some steps came to.
    private struct ChosenSteps {
        var seconds = 0.0
        /// Of all requests.
        var tokens = 0.0
        /// Steps by what they proposed.
        var counts: [Int: Int] = [:]
    }

    /// Steps that propose what ``SpeculationController`` says, as in an engine: it learns from the
    /// outcomes and times of these steps, and begins with what the backend says of its times. All of
    /// them count, those from which it learns, too.
    func measureChosen(
        _ parts: SpeculationParts, _ backend: CUDABackend, _ prepared: BenchResult.Run
    ) throws -> BenchResult.Run {
        var run = prepared
        var controller = SpeculationController(backend.capacity.draftTokens) {
            backend.decodeSeconds(bucket: $0, draftTokens: $1)
        }
        var timer = LaunchTimer(queuedSteps: backend.capacity.queuedSteps)
        // What is loaded with the first step is no part of them.
        _ = try decode(parts.prompt, run.requests, backend, draftTokens: 0)
        let repetitions = max(repeats, (Self.chosenSteps + steps - 1) / steps)
        let all = try (0..<repetitions).map { repetition in
            try reset(
                parts.prompt, run.requests, backend, seed: seed &+ UInt64(repetition) &+ 1)
            try backend.decoder.stream.synchronize()
            return try decode(run.requests, backend, &controller, &timer)
        }
        run.peakBytes = try kernels.device.memory()?.peakAllocated
        // As few draws have a mean far from what is asked, tokens are those to be expected; of trees those
        // that were made.
        func tokens(_ steps: ChosenSteps) -> Double {
            steps.counts.reduce(0) { sum, entry in
                sum + Double(entry.value) * (parts.length(entry.key) ?? 0)
            }
        }
        let made = all.map {
            parts.rate == nil || parts.draft.width > 1
                ? $0.tokens / Double(run.requests) : tokens($0)
        }
        run.step = Self.spread(zip(all, made).map { $0.seconds / $1 })
        run.graph = nil
        run.kernels = []
        let count = Double(repetitions * steps)
        var shares: [Int: Double] = [:]
        for part in all {
            for (draftTokens, steps) in part.counts {
                shares[draftTokens, default: 0] += Double(steps) / count
            }
        }
        let verified = Int(run.traffic.total)
        var (seconds, bytes) = (0.0, 0.0)
        for (draftTokens, share) in shares where draftTokens > 0 {
            let round = try round(parts, backend, count: draftTokens, requests: run.requests)
            seconds += share * round.seconds
            bytes += share * Double(round.bytes)
        }
        run.traffic.weights += Int(bytes)
        let mean = all.reduce(0) { $0 + $1.seconds } / count
        run.speculation = BenchResult.Run.Speculation(
            draft: parts.label, draftTokens: parts.choice.count, shares: shares,
            acceptanceLength: made.reduce(0, +) / count, simulatedLength: parts.choice.length,
            addedBytes: parts.addedBytes, round: .init(seconds: seconds, bytes: Int(bytes)),
            verification: .init(seconds: max(mean - seconds, 0), bytes: verified))
        run.settings["draft_tokens"] = "auto"
        run.settings["chosen_from"] = backend.capacity.draftTokens.map(String.init)
            .joined(separator: ",")
        return run
    }

    /// Decodes ``steps`` steps as an engine does: what a step proposes is chosen before the result of the
    /// one ahead is known.
    private func decode(
        _ requests: Int, _ backend: CUDABackend, _ controller: inout SpeculationController,
        _ timer: inout LaunchTimer
    ) throws -> ChosenSteps {
        let layout = backend.decoder.layout
        let bucket = layout.largestBucket
        let pages = (0..<requests).map { Self.pages(of: $0, layout) }
        // The last token that was read of each request; at first the prompt's, which goes in again.
        var positions = Array(repeating: context - 1, count: requests)
        var queued: [(choice: SpeculationController.Choice, launch: LaunchTimer.Launch)] = []
        var result = ChosenSteps()
        func collect() throws {
            let (choice, launch) = queued.removeFirst()
            let collecting = ContinuousClock.now
            let made = try backend.collect().map(\.count)
            let seconds = timer.seconds(launch, collecting: collecting, .now)
            controller.record(
                choice, bucket: bucket, accepted: made.map { $0 - 1 }, seconds: seconds)
            for (slot, count) in made.enumerated() { positions[slot] += count }
            result.tokens += Double(made.reduce(0, +))
        }
        let begin = ContinuousClock.now
        for _ in 0..<steps {
            let choice = controller.choose(bucket: bucket)
            var launch = LaunchTimer.Launch()
            try backend.decode(
                DecodeBatch(
                    rows: (0..<requests).map {
                        DecodeBatch.Row(
                            slot: $0, position: positions[$0] + queued.count, pages: pages[$0])
                    }, bucket: bucket, draftTokens: choice.draftTokens))
            launch.isQueued()
            queued.append((choice, launch))
            result.counts[choice.draftTokens, default: 0] += 1
            if queued.count > 1 { try collect() }
        }
        while !queued.isEmpty { try collect() }
        result.seconds = (ContinuousClock.now - begin).totalSeconds
        return result
    }
}
