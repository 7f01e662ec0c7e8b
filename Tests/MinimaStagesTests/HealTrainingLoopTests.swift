import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

/// ½‖x − target‖² over a matrix and a vector; each step's target is a little off.
private final class Quadratic: TrainingObjective {
    let parameters: [TrainedTensor]
    let tokensPerStep = 10
    private let target: [Tensor]
    /// Changes a step's loss: the step, how often it was asked for, the true one.
    var distort: (_ step: Int, _ times: Int, _ loss: Double) -> Double = { $2 }
    /// Changes the held-out measure: how often it was asked for, the true one.
    var distortHeldOut: (_ times: Int, _ value: Double) -> Double = { $1 }
    private(set) var asked: [Int: Int] = [:]
    private(set) var measured = 0
    /// Processes that share the work; each sees all of it.
    private let processes: Int

    init(dtype: DType = .float32, processes: Int = 1) throws {
        self.processes = processes
        let shapes = [[4, 3], [5]]
        let generator = try RandomGenerator(seed: 1)
        parameters = try shapes.enumerated().map { index, shape in
            let tensor = try Tensor.randn(shape, generator: generator).to(dtype: dtype)
            return TrainedTensor(
                name: "leaf.\(index)", tensor: tensor, role: index == 0 ? .core : .norm)
        }
        target = try shapes.map { try Tensor.randn($0, generator: generator) }
    }

    private func errors(_ generator: RandomGenerator?) throws -> [Tensor] {
        try zip(parameters, target).map { leaf, target in
            let error = try leaf.tensor.to(dtype: .float32) - target
            guard let generator else { return error }
            return try error + Tensor.randn(target.shape, generator: generator) * 0.05
        }
    }

    func gradients(step: Int, _ accumulate: ([Tensor?]) throws -> Void) throws -> Tensor {
        asked[step, default: 0] += 1
        let errors = try errors(RandomGenerator(seed: UInt64(step)))
        // In two parts, as micro-batches are.
        for _ in 0..<2 { try accumulate(errors.map { try $0 * (0.5 / Double(processes)) }) }
        let loss = try errors.reduce(0) { try $0 + 0.5 * $1.square().sum().item() }
        return try Tensor.full(
            [], distort(step, asked[step] ?? 0, loss) / Double(processes))
    }

    func validate() throws -> Double {
        measured += 1
        let value = try errors(nil).reduce(0) { try $0 + 0.5 * $1.square().sum().item() }
        return distortHeldOut(measured, value)
    }

    func values() throws -> [Float] {
        try parameters.flatMap { try $0.tensor.values(as: Float.self) }
    }
}

private struct Stopped: Error {}

/// What does not depend on time.
private func curve(_ phase: HealingResult.Phase) -> [HealingResult.Point] {
    phase.points.map { point in
        var point = point
        point.seconds = 0
        return point
    }
}

@Suite struct HealTrainingLoopTests {
    private static let settings = TrainingSettings(
        steps: 60, learningRate: 0.2, validationInterval: 5, patience: nil, checkpointInterval: 0)

    @Test(arguments: [DType.float32, .bfloat16])
    func lossFallsAndTheCurveIsNoted(dtype: DType) throws {
        let objective = try Quadratic(dtype: dtype)
        let phase = try TrainingLoop("test", Self.settings).run(objective)
        #expect(phase.points.map(\.step) == Array(stride(from: 0, through: 60, by: 5)))
        #expect(phase.points.map(\.tokens) == phase.points.map { $0.step * 10 })
        #expect(phase.points[0].loss == nil)
        let (first, last) = (try #require(phase.points.first), try #require(phase.points.last))
        let (before, after) = (try #require(first.heldOut), try #require(last.heldOut))
        // Adam moves each number by up to 0.2 a step, which is as far as it has to go in 60.
        #expect(after < 0.01 * before)
        #expect(try #require(last.loss) < #require(phase.points[1].loss))
        #expect(phase.steps == 60)
        #expect(phase.tokens == 600)
        #expect(phase.parameters == 17)
        #expect(phase.ending == "steps")
        #expect(phase.stepBacks == 0)
        // The schedule has come down to its floor.
        #expect(abs(last.learningRate - 0.02) < 1e-12)
    }

    @Test func stopsWithoutImprovementAndEndsWithTheBest() throws {
        let objective = try Quadratic()
        var best: [Float] = []
        objective.distortHeldOut = { times, value in
            // Measurement 1 is before training; the fourth is the last that improves.
            if times == 4 { best = (try? objective.values()) ?? [] }
            return times <= 4 ? value : value + 100
        }
        var settings = Self.settings
        settings.patience = 3
        let phase = try TrainingLoop("test", settings).run(objective)
        // Misses count from the middle of the cosine on.
        #expect(phase.ending == "held-out")
        #expect(phase.steps == 45)
        #expect(try objective.values() == best)
    }

    @Test func aTrainingThatOnlyHarmsLeavesTheModelAsItWas() throws {
        let objective = try Quadratic(dtype: .bfloat16)
        let before = try objective.values()
        objective.distortHeldOut = { times, _ in Double(times) }
        let phase = try TrainingLoop("test", Self.settings).run(objective)
        #expect(phase.steps == 60)
        #expect(try objective.values() == before)
    }

    @Test func endsWhenTheTimeIsSpent() throws {
        let objective = try Quadratic()
        var settings = Self.settings
        settings.timeLimit = 0
        let phase = try TrainingLoop("test", settings).run(objective)
        #expect(phase.ending == "time")
        #expect(phase.steps < 60)
        #expect(phase.points.last?.step == phase.steps)
    }

    @Test func oneBadLossStepsBackWithHalfTheRate() throws {
        let objective = try Quadratic()
        objective.distort = { step, times, loss in step == 23 && times == 1 ? .nan : loss }
        var notes: [String] = []
        let phase = try TrainingLoop("test", Self.settings).run(objective) { notes.append($0.note) }
        #expect(phase.stepBacks == 1)
        #expect(notes.contains { $0.contains("step 23") && $0.contains("back to step 20") })
        // Steps 20 to 23 were taken twice.
        #expect((20...23).allSatisfy { objective.asked[$0] == 2 })
        #expect(objective.asked[19] == 1)
        #expect(phase.steps == 60)
        #expect(phase.ending == "steps")
        #expect(abs(try #require(phase.points.last).learningRate - 0.01) < 1e-12)
        #expect(phase.points.map(\.step) == Array(stride(from: 0, through: 60, by: 5)))
    }

    @Test(arguments: ["loss", "held-out"])
    func badNumbersThatStayAreAnError(where place: String) throws {
        let objective = try Quadratic()
        if place == "loss" {
            objective.distort = { step, _, loss in step == 23 ? .infinity : loss }
        } else {
            objective.distortHeldOut = { times, value in times > 3 ? .nan : value }
        }
        let error = #expect(throws: TrainingError.self) {
            try TrainingLoop("end to end", Self.settings).run(objective)
        }
        let text = "\(try #require(error))"
        #expect(text.contains("5 returns"))
        #expect(text.contains(place == "loss" ? "loss of step 23 is inf" : "held-out measure"))
        #expect(text.contains("learning rate below"))
    }

    @Test func anUnusableModelIsRefusedBeforeTraining() throws {
        let objective = try Quadratic()
        objective.distortHeldOut = { _, _ in .nan }
        #expect(throws: TrainingError.self) {
            try TrainingLoop("test", Self.settings).run(objective)
        }
        #expect(objective.asked.isEmpty)
    }

    @Test func aRisingLossStepsBack() throws {
        let objective = try Quadratic()
        // From step 40 on the loss grows by half a step, until it is noticed.
        var isRising = true
        objective.distort = { step, _, loss in
            step >= 40 && isRising ? loss * exp(0.4 * Double(step - 39)) : loss
        }
        let phase = try TrainingLoop("test", Self.settings).run(objective) { progress in
            guard progress.note.contains("back to step") else { return }
            #expect(progress.note.contains("the loss rose"))
            isRising = false
        }
        #expect(!isRising)
        #expect(phase.stepBacks == 1)
        #expect(phase.steps == 60)
    }

    @Test func noiseIsNoDivergence() {
        var monitor = LossMonitor()
        for loss in someTokens(1000, vocabulary: 1000) {
            // From 0.5 to 1.5 and with a tail.
            monitor.add(0.5 + Double(loss) / 1000 + (loss > 990 ? 3 : 0))
            #expect(!monitor.hasDiverged)
        }
        #expect(monitor.isCalm)
    }

    // MARK: Resuming

    /// Trains in runs that end at report `stops`, `2 · stops`, … of progress.
    private func interrupted(
        _ objective: () throws -> Quadratic, at stops: Int, in directory: String,
        _ settings: TrainingSettings
    ) throws -> (phase: HealingResult.Phase, values: [Float], runs: Int) {
        for run in 1...200 {
            let objective = try objective()
            let store = TrainingStore(directory, name: "test", key: "k")
            var reports = 0
            do {
                let phase = try TrainingLoop("test", settings, store: store).run(objective) { _ in
                    reports += 1
                    if reports > stops { throw Stopped() }
                }
                return (phase, try objective.values(), run)
            } catch is Stopped {
                continue
            }
        }
        throw Stopped()
    }

    @Test(arguments: [3, 4, 7], [DType.float32, .bfloat16])
    func aStoppedTrainingGoesOnBitwise(stops: Int, dtype: DType) throws {
        let scratch = try Scratch()
        var settings = Self.settings
        settings.validationInterval = 2
        settings.patience = 8
        func objective() throws -> Quadratic {
            let objective = try Quadratic(dtype: dtype)
            objective.distort = { step, _, loss in
                // A step back that repeats: step 31 is bad at the first learning rate only.
                step == 31 && objective.asked[31] == 1 && objective.asked[30] ?? 0 == 1
                    ? .nan : loss
            }
            return objective
        }
        let whole = try objective()
        let reference = try TrainingLoop("test", settings).run(whole)
        #expect(reference.stepBacks == 1)
        let resumed = try interrupted(objective, at: stops, in: scratch.path, settings)
        #expect(resumed.runs > 2)
        #expect(resumed.values == (try whole.values()))
        #expect(curve(resumed.phase) == curve(reference))
        #expect(resumed.phase.ending == reference.ending)
    }

    /// Copies of the directory between all its changes stand for what `kill -9` leaves.
    @Test func whateverAKillLeavesCanBeGoneOnFrom() throws {
        let (scratch, copies) = (try Scratch(), try Scratch())
        let whole = try Quadratic()
        let reference = try TrainingLoop("test", Self.settings).run(whole)
        let files = FileManager.default
        // Every file that a run has at some point, and states in which some are not there yet or
        // any more: a new state without its record, both, a new one and half of the old.
        let objective = try Quadratic()
        var reports = 0
        _ = try TrainingLoop(
            "test", Self.settings, store: TrainingStore(scratch.path, name: "test", key: "k")
        ).run(objective) { progress in
            reports += 1
            guard progress.done >= 20, progress.done % 5 == 0 else { return }
            for name in scratch.entries {
                let copy = "\(copies.path)/\(progress.done)-\(name)"
                guard !files.fileExists(atPath: copy) else { continue }
                try files.copyItem(atPath: "\(scratch.path)/\(name)", toPath: copy)
            }
        }
        let (a, b) = ("20-test.state-b", "25-test.state-a")
        let suffix = "-0-of-1.safetensors"
        #expect(copies.entries.contains("\(a).json") && copies.entries.contains("\(b).json"))
        let states: [[(from: String, to: String)]] = [
            [("\(a).json", "b.json"), ("\(a)\(suffix)", "b\(suffix)")],
            [
                ("\(a).json", "b.json"), ("\(a)\(suffix)", "b\(suffix)"),
                ("\(b)\(suffix)", "a\(suffix)"),
            ],
            [
                ("\(a).json", "b.json"), ("\(a)\(suffix)", "b\(suffix)"),
                ("\(b)\(suffix)", "a\(suffix)"), ("\(b).json", "a.json"),
            ],
            [
                ("\(a)\(suffix)", "b\(suffix)"), ("\(b)\(suffix)", "a\(suffix)"),
                ("\(b).json", "a.json"),
            ],
        ]
        for state in states {
            let place = try Scratch()
            for (from, to) in state {
                try files.copyItem(
                    atPath: "\(copies.path)/\(from)", toPath: "\(place.path)/test.state-\(to)")
            }
            // What a killed writer had begun.
            try Data([1, 2]).write(
                to: URL(filePath: "\(place.path)/.test.state-a\(suffix).partial-1-0"))
            let store = TrainingStore(place.path, name: "test", key: "k")
            let resumed = try Quadratic()
            let phase = try TrainingLoop("test", Self.settings, store: store).run(resumed)
            #expect(resumed.asked[19] == nil)
            #expect(try resumed.values() == whole.values())
            #expect(curve(phase) == curve(reference))
            try store.remove()
            #expect(place.entries.isEmpty)
        }
    }

    @Test("what two processes began, two of them or one go on with")
    func otherNumbersOfProcesses() throws {
        let (scratch, path) = (try Scratch(), try Scratch().path)
        let reference = try Quadratic(dtype: .bfloat16)
        let phase = try TrainingLoop("test", Self.settings).run(reference)
        let expected = try reference.values()
        let directory = scratch.path
        @Sendable func train(_ group: ProcessGroup?, until last: Int) throws -> [Float]? {
            let objective = try Quadratic(dtype: .bfloat16, processes: group?.size ?? 1)
            // Of two processes both see the bad loss of step 52 and go back.
            objective.distort = { step, times, loss in step == 52 && times == 1 ? .nan : loss }
            let store = TrainingStore(directory, name: "test", key: "k", group: group)
            do {
                let phase = try TrainingLoop("test", Self.settings, store: store, group: group)
                    .run(objective) { if $0.done >= last { throw Stopped() } }
                #expect(phase.stepBacks == 1)
            } catch is Stopped {
                return nil
            }
            return try objective.values()
        }
        #expect(try processes(2) { try train($0, until: 30) } == [nil, nil])
        #expect(scratch.entries.count == 3)
        try FileManager.default.copyItem(atPath: directory, toPath: path)
        let both = try processes(2) { try train($0, until: .max) }
        try FileManager.default.removeItem(atPath: directory)
        try FileManager.default.moveItem(atPath: path, toPath: directory)
        let alone = try train(nil, until: .max)
        // Halves add up without rounding, so that one process does the same.
        #expect(both == [alone, alone])
        #expect(alone != nil && alone != expected)
        #expect(phase.stepBacks == 0)
        // Only the files of the last process count are left.
        #expect(scratch.entries.count == 2)
    }

    @Test func onlyOneCheckpointStaysAndOthersAreRefused() throws {
        let scratch = try Scratch()
        let store = TrainingStore(scratch.path, name: "test", key: "k")
        _ = try TrainingLoop("test", Self.settings, store: store).run(try Quadratic())
        #expect(scratch.entries.count == 2)
        var other = Self.settings
        other.learningRate = 0.1
        #expect(throws: TrainingError.self) {
            try TrainingLoop("test", other, store: store).run(try Quadratic())
        }
        let foreign = TrainingStore(scratch.path, name: "test", key: "l")
        #expect(throws: TrainingError.self) {
            try TrainingLoop("test", Self.settings, store: foreign).run(try Quadratic())
        }
        // More time may be given later.
        other = Self.settings
        other.timeLimit = 1e6
        let again = try Quadratic()
        let phase = try TrainingLoop("test", other, store: store).run(again)
        #expect(phase.ending == "steps")
        #expect(again.asked.isEmpty)
    }

    @Test func aDirectoryThatIsGoneIsAnErrorWithItsPath() throws {
        let store = TrainingStore("/nonexistent/work", name: "test", key: "k")
        let error = #expect(throws: (any Error).self) {
            try TrainingLoop("test", Self.settings, store: store).run(try Quadratic())
        }
        #expect("\(try #require(error))".contains("/nonexistent/work"))
    }

    @Test func tooLittleRoomNamesTheBytes() throws {
        let store = TrainingStore("/", name: "test", key: "k")
        let error = #expect(throws: CheckpointError.self) { try store.checkRoom(1 << 60) }
        guard case .noSpace("/", let needed, let free) = error else {
            Issue.record("\(String(describing: error))")
            return
        }
        #expect(needed == 1 << 60)
        #expect(free < needed)
    }
}
