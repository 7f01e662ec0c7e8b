import Glibc
import MinimaCore
import MinimaFormats
import MinimaTensor

/// One run of a loop: from the start or a checkpoint to the end.
final class TrainingRun {
    private typealias State = [String: Tensor]

    private let loop: TrainingLoop
    private let objective: any TrainingObjective
    private let progress: ProgressHandler
    private let optimiser: Optimizer
    private let device: Device
    private var settings: TrainingSettings { loop.settings }

    private var record: TrainingRecord
    /// Losses and norms that the host has not read, by step.
    private var unread: [(loss: Tensor, norm: Tensor)] = []
    /// Steps after which they are read.
    private var readInterval = 1
    private var reads = 0

    /// The last good state, and what was known then; on the host.
    private var mark: (record: TrainingRecord, state: State)
    /// Masters of the best state, on the host.
    private var best: State = [:]
    /// The step of the checkpoint in the store, and when it was written.
    private var saved: (step: Int?, seconds: Double)

    private let clock = ContinuousClock()
    private var start: ContinuousClock.Instant
    /// Since when nothing but steps was done.
    private var stepping: ContinuousClock.Instant
    /// Seconds and steps of earlier runs.
    private var (earlier, resumed) = (0.0, 0)

    /// Times that a training goes back before it gives up.
    private static let stepBackLimit = 5
    /// Steps between reads, at most; there is one every second or so.
    private static let longestReadInterval = 10.0

    init(
        _ loop: TrainingLoop, _ objective: any TrainingObjective,
        _ progress: @escaping ProgressHandler
    ) throws {
        guard let first = objective.parameters.first else { throw TrainingError.nothingTrains }
        self.loop = loop
        self.objective = objective
        self.progress = progress
        device = first.tensor.device
        optimiser = try Self.optimiser(objective.parameters, loop)
        record = TrainingRecord(
            settings: loop.settings.fixed, markInterval: loop.settings.validationInterval)
        mark = (record, [:])
        saved = (nil, 0)
        start = clock.now
        stepping = start
    }

    private static func optimiser(_ leaves: [TrainedTensor], _ loop: TrainingLoop) throws
        -> Optimizer
    {
        let parameters = try leaves.map { try Self.parameter($0, loop.settings) }
        let configuration = AdamW.Configuration(beta2: 0.95)
        switch loop.settings.optimiser {
        case .adamW: return try AdamW(parameters, configuration, group: loop.group)
        case .muon:
            let hidden = Set(
                leaves.filter { Self.isMatrix($0) && $0.role != .embedding }.map(\.name))
            return try Muon(parameters, others: configuration, group: loop.group) {
                hidden.contains($0.name)
            }
        }
    }

    /// Whether it multiplies activations: norms, biases and scales have a size of their own.
    private static func isMatrix(_ leaf: TrainedTensor) -> Bool {
        leaf.tensor.shape.count > 1 && ![.norm, .bias, .scale].contains(leaf.role)
    }

    private static func parameter(_ leaf: TrainedTensor, _ settings: TrainingSettings) throws
        -> AdamW.Parameter
    {
        let scale = settings.isRelative ? try leaf.usualSize() : 1
        return AdamW.Parameter(
            name: leaf.name, tensor: leaf.tensor, learningRateScale: scale,
            weightDecay: isMatrix(leaf) ? settings.weightDecay : 0)
    }

    /// Seconds of this run and those before.
    private var seconds: Double { earlier + (clock.now - start).totalSeconds }

    func run() throws -> HealingResult.Phase {
        try device.resetPeakMemory()
        try begin()
        var ending = self.ending(isOver: false)
        while ending == nil {
            switch try advance() {
            case .goOn: break
            case .goBack(let seen): try stepBack(seen)
            case .end(let reason): ending = reason
            }
        }
        try optimiser.restore(current(masters: best))
        let tokens = record.step * objective.tokensPerStep
        return HealingResult.Phase(
            name: loop.name, parameters: objective.parameters.reduce(0) { $0 + $1.tensor.count },
            steps: record.step, tokens: tokens, seconds: seconds,
            tokensPerSecond: rate, peakDeviceBytes: try device.memory()?.peakAllocated,
            stepBacks: record.stepBacks, ending: ending ?? "", points: record.points)
    }

    // MARK: Steps

    private enum Outcome {
        case goOn
        case goBack(seen: String)
        case end(String)
    }

    /// One step, and what is due after it.
    private func advance() throws -> Outcome {
        try step()
        var isMeasured =
            record.step == settings.steps || record.step % settings.validationInterval == 0
        let isMark = isMeasured || record.step % record.markInterval == 0
        guard isMark || unread.count >= readInterval else { return .goOn }
        if let seen = try read() { return .goBack(seen: seen) }
        let isOver = settings.timeLimit.map { record.seconds >= $0 } ?? false
        isMeasured = isMeasured || isOver
        var isGood = record.monitor.isCalm
        if isMeasured {
            let value = try objective.validate()
            guard value.isFinite else {
                return .goBack(seen: "the held-out measure after step \(record.step) is \(value)")
            }
            // A state that is better than any before is good, whatever the losses do.
            isGood = isGood || value < record.best
            try note(value, isGood: isGood)
        }
        if isGood, isMark || isOver { try keep() }
        try report()
        stepping = clock.now
        return ending(isOver: isOver).map { .end($0) } ?? .goOn
    }

    /// Why it ends here; `nil` when it goes on.
    private func ending(isOver: Bool) -> String? {
        if let patience = settings.patience, record.misses >= patience { return "held-out" }
        return record.step >= settings.steps ? "steps" : isOver ? "time" : nil
    }

    private var learningRate: Double {
        settings.schedule.value(at: record.step) * record.learningRateScale
    }

    private func step() throws {
        let loss = try objective.gradients(step: record.step) { try optimiser.accumulate($0) }
        let norm = try optimiser.step(
            learningRate: learningRate, maximumNorm: settings.maximumNorm)
        unread.append((try loss.detach().reshape([1]), try norm.reshape([1])))
        record.step += 1
        record.taken += 1
    }

    /// Waits for the device and takes in the losses.
    ///
    /// - Returns: What was seen that calls for a step back.
    private func read() throws -> String? {
        let values = try Tensor.cat(unread.map(\.loss) + unread.map(\.norm)).values(as: Double.self)
        let now = clock.now
        var (losses, norms) = (Array(values.prefix(unread.count)), values.suffix(unread.count))
        var clocks = [seconds, (now - stepping).totalSeconds]
        if let group = loop.group {
            // All processes go by the first one's clock, so that they do the same.
            if group.rank != 0 { clocks = [0, 0] }
            let sums = try group.sum(losses + clocks)
            (losses, clocks) = (Array(sums.dropLast(2)), sums.suffix(2))
        }
        record.seconds = clocks[0]
        record.trainingSeconds += clocks[1]
        stepping = now
        setIntervals(secondsPerStep: clocks[1] / Double(unread.count))
        let first = record.step - unread.count
        unread = []
        for (offset, (loss, norm)) in zip(losses, norms).enumerated() {
            guard loss.isFinite else { return "the loss of step \(first + offset) is \(loss)" }
            guard norm.isFinite else {
                return "the norm of the gradients of step \(first + offset) is \(norm)"
            }
            record.monitor.add(loss)
            guard !record.monitor.hasDiverged else {
                return "the loss rose to \(loss) at step \(first + offset)"
            }
            record.lossSum += loss
            record.losses += 1
        }
        return nil
    }

    private func setIntervals(secondsPerStep: Double) {
        reads += 1
        // The first steps are slower: kernels are loaded, memory is taken.
        guard reads > 1 else { return }
        let steps = (1 / max(secondsPerStep, 1e-9)).rounded()
        readInterval = Int(min(max(steps, 1), Self.longestReadInterval))
        guard loop.store != nil, saved.step == nil else { return }
        while record.markInterval > 1,
            Double(record.markInterval) * secondsPerStep > settings.checkpointInterval,
            settings.checkpointInterval > 0
        {
            record.markInterval = (record.markInterval + 1) / 2
        }
    }

    // MARK: Held-out measurements

    private func note(_ value: Double, isGood: Bool) throws {
        record.points.append(
            HealingResult.Point(
                step: record.step, tokens: record.step * objective.tokensPerStep, seconds: seconds,
                loss: record.losses > 0 ? record.lossSum / Double(record.losses) : nil,
                heldOut: value, perplexity: objective.perplexity,
                acceptance: objective.acceptance, learningRate: learningRate))
        (record.lossSum, record.losses) = (0, 0)
        guard isGood else { return }
        if value < record.best {
            (record.best, record.bestStep, record.misses) = (value, record.step, 0)
            try copy(optimiser.state.filter { Self.isMaster($0.name) }, to: &best)
        } else if settings.countsMisses(after: record.step) {
            record.misses += 1
        }
    }

    private static func isMaster(_ name: String) -> Bool { name.hasSuffix(".master") }

    // MARK: States

    /// Starts, or goes on from the checkpoint.
    private func begin() throws {
        guard let saved = try loop.store?.load() else {
            let value = try objective.validate()
            guard value.isFinite else { throw TrainingError.notFinite(phase: loop.name) }
            try note(value, isGood: true)
            try copy(optimiser.state, to: &mark.state)
            mark.record = record
            // Two checkpoints, each with the best masters beside the state.
            try loop.store?.checkRoom(
                2
                    * (contents() + optimiser.state.filter { Self.isMaster($0.name) })
                    .reduce(0) { $0 + $1.tensor.count * $1.tensor.dtype.byteCount })
            try report()
            stepping = clock.now
            return
        }
        guard saved.record.settings == settings.fixed else {
            throw TrainingError.otherTraining(path: loop.name, what: "other settings")
        }
        record = saved.record
        (earlier, resumed, start) = (record.seconds, record.step, clock.now)
        self.saved = (record.step, record.seconds)
        let own = Set(optimiser.state.map(\.name))
        mark = (record, try saved.tensors("state.", where: own.contains))
        best = try saved.tensors("best.", where: own.contains)
        if record.bestStep == record.step {
            best = try mark.state.filter { Self.isMaster($0.key) }.mapValues { try $0.clone() }
        }
        try optimiser.restore(mark.state)
        try report()
        stepping = clock.now
    }

    /// Keeps the present state as a good one, and saves it when that is due.
    private func keep() throws {
        try copy(optimiser.state, to: &mark.state)
        mark.record = record
        guard record.seconds - saved.seconds >= settings.checkpointInterval else { return }
        try save()
    }

    /// Saves the last good state, unless the store has it.
    private func save() throws {
        guard let store = loop.store, saved.step != mark.record.step else { return }
        try store.save(mark.record, contents())
        saved = (mark.record.step, record.seconds)
    }

    /// What the store keeps of the last good state. The best one is as good or before it.
    private func contents() -> [(name: String, tensor: Tensor)] {
        let isBest = mark.record.bestStep == mark.record.step
        let parts = [("state.", mark.state)] + (isBest ? [] : [("best.", best)])
        return parts.flatMap { prefix, state in
            state.sorted { $0.key < $1.key }.map { (name: prefix + $0.key, tensor: $0.value) }
        }
    }

    /// Goes back to the last good state, with half the learning rate from there on.
    private func stepBack(_ seen: String) throws {
        let halved = record.learningRateScale / 2
        guard record.stepBacks < Self.stepBackLimit else {
            throw TrainingError.diverged(
                phase: loop.name, seen: seen, stepBacks: record.stepBacks,
                learningRate: learningRate)
        }
        let now = record
        record = mark.record
        (record.stepBacks, record.learningRateScale) = (now.stepBacks + 1, halved)
        (record.taken, record.seconds) = (now.taken, now.seconds)
        (record.trainingSeconds, record.markInterval) = (now.trainingSeconds, now.markInterval)
        unread = []
        try optimiser.restore(mark.state)
        try report(note: "\(seen); back to step \(record.step) with half the learning rate")
        stepping = clock.now
    }

    /// The optimiser's state, with other masters.
    private func current(masters: State) -> State {
        var state = State(
            optimiser.state.map { ($0.name, $0.tensor) }, uniquingKeysWith: { first, _ in first })
        state.merge(masters) { $1 }
        return state
    }

    /// Copies to the host, into the memory of an earlier copy where there is one.
    private func copy(_ tensors: [(name: String, tensor: Tensor)], to state: inout State) throws {
        try withoutGradients {
            for (name, tensor) in tensors {
                let place = try state[name] ?? .empty(tensor.shape, dtype: tensor.dtype)
                try place.copy(from: tensor)
                state[name] = place
            }
        }
    }

    // MARK: Progress

    /// Training tokens per second.
    private var rate: Double {
        let tokens = Double(record.taken * objective.tokensPerStep)
        return record.trainingSeconds > 0 ? tokens / record.trainingSeconds : 0
    }

    private func report(note: String? = nil) throws {
        var parts = ["\(Int(rate)) tokens/s"]
        if record.losses > 0 {
            parts.append("loss \(significant(record.monitor.average))")
        }
        if let value = record.points.last?.heldOut {
            parts.append("held-out \(significant(value)), best \(significant(record.best))")
        }
        if let acceptance = record.points.last?.acceptance {
            let shares = acceptance.map { "\(significant(($0 * 1000).rounded() / 1000))" }
            let length = significant((100 * AcceptanceLength.of(acceptance)).rounded() / 100)
            parts.append("acceptance \(shares.joined(separator: " ")), τ \(length)")
        }
        parts.append("lr \(significant(learningRate))")
        if let memory = try device.memory() {
            parts.append("\(memory.peakAllocated >> 20) MiB on \(device)")
        }
        do {
            try progress(
                StageProgress(
                    stage: loop.name, done: record.step, total: settings.steps, resumed: resumed,
                    unit: "steps", note: note ?? parts.joined(separator: ", ")))
        } catch {
            // Who stops a training wants to go on with it later. Among several processes only this
            // one may have been stopped, and saving takes all.
            if loop.group == nil, mark.record.step > 0 { try? save() }
            throw error
        }
    }
}

extension TrainedTensor {
    /// What relative step sizes are counted in: the root mean square of the numbers, and less of
    /// vectors, each number of which decides over a whole channel.
    ///
    /// Rounded to powers of √2, so that many tensors share a kernel of the optimiser.
    fileprivate func usualSize() throws -> Double {
        let size: Double
        switch role {
        case .adapter, .scale:
            // One factor of an adapter begins at zero, and scales have a unit of their own.
            size = 0.03
        default:
            let square = try tensor.detach().to(dtype: .float32).square().mean().item()
            let share =
                switch role {
                case .norm, .bias: 0.1
                // Codes that GPTQ has chosen together are worse for flipping one by one.
                case .quantised: 0.25
                default: 1.0
                }
            // Shazeer & Stern 2018: what begins at zero has to get away from there.
            size = share * max(square.squareRoot(), 1e-3)
        }
        return exp2((log2(size) * 2).rounded() / 2)
    }
}
