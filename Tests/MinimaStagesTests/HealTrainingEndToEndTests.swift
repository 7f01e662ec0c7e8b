import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

private struct Stopped: Error {}

/// A step's loss and gradients.
private struct Outcome {
    var loss: Double
    var gradients: [Tensor]
}

private func outcome(_ objective: EndToEnd, step: Int = 0) throws -> Outcome {
    let sums = try objective.parameters.map { try Tensor.zeros($0.tensor.shape) }
    let loss = try objective.gradients(step: step) { gradients in
        for (sum, gradient) in zip(sums, gradients) {
            if let gradient { try sum.addInPlace(gradient.to(dtype: .float32)) }
        }
    }
    return Outcome(loss: try loss.item(), gradients: sums)
}

/// ‖left − right‖ / ‖right‖ over all gradients.
private func distance(_ left: [Tensor], _ right: [Tensor]) throws -> Double {
    var (square, norm) = (0.0, 0.0)
    for (left, right) in zip(left, right) {
        square += try (left - right).square().sum(dtype: .float64).item()
        norm += try right.square().sum(dtype: .float64).item()
    }
    return (square / norm).squareRoot()
}

@Suite("Healing end to end")
struct HealTrainingEndToEndTests {
    private let model: HealCase

    init() throws { model = try HealCase.shared.get() }

    /// Sums over a step's tokens in another order differ by about √tokens roundings of terms that
    /// went through all layers, at ten operators each.
    private let rounding = DType.float32.epsilon * 8 * 6 * 10

    private static let settings: TrainingSettings = {
        var settings = TrainingSettings(
            steps: 9, learningRate: 0.002, isRelative: true, validationInterval: 3, patience: nil,
            checkpointInterval: 0)
        settings.warmUpShare = 0.1
        return settings
    }()

    @Test func lossAndHeldOutDivergenceFall() throws {
        let objective = try model.objective()
        #expect(objective.parameters.contains { $0.role == .quantised })
        let before = try objective.measure()
        let phase = try TrainingLoop("end to end", Self.settings).run(objective)
        let after = try objective.measure()
        #expect(after.kl < 0.95 * before.kl)
        #expect(after.perplexity < before.perplexity)
        let (first, last) = (phase.points[1], try #require(phase.points.last))
        #expect(try #require(last.loss) < #require(first.loss))
        #expect(phase.points[0].heldOut == before.kl)
        #expect(phase.points.compactMap(\.heldOut).min() == after.kl)
        #expect(phase.tokens == 9 * 4 * 16)
    }

    @Test("a run of one layer at a time, of small passes or both has the same gradient")
    func passesChangeNothing() throws {
        func change(_ settings: inout EndToEnd.Settings) {
            settings.hidden = HiddenLoss(boundaries: [2, 6], weight: 0.5)
        }
        let roles = Set(TrainedTensor.Role.allCases)
        let whole = try outcome(model.objective(TrainingOptions(roles: roles), change))
        #expect(whole.loss.isFinite && whole.loss > 0)
        for (checkpointing, tokens) in [
            (ActivationCheckpointing.on, 64), (.off, 16), (.off, 48), (.on, 16),
        ] {
            let objective = try model.objective(TrainingOptions(roles: roles)) { settings in
                change(&settings)
                settings.checkpointing = checkpointing
                settings.tokensPerPass = tokens
            }
            #expect(objective.memory.recomputes == (checkpointing == .on))
            #expect(objective.memory.windowsPerPass == tokens / 16)
            let found = try outcome(objective)
            #expect(abs(found.loss - whole.loss) <= rounding * whole.loss)
            #expect(try distance(found.gradients, whole.gradients) <= rounding)
        }
    }

    @Test("the gradient is the loss's slope", arguments: [ActivationCheckpointing.on, .off])
    func slope(checkpointing: ActivationCheckpointing) throws {
        // Of weights behind codes the gradient is none of a slope.
        let objective = try model.objective(
            TrainingOptions(roles: [.core, .dense, .norm, .bias, .embedding])
        ) { settings in
            settings.hidden = HiddenLoss(boundaries: [3], weight: 0.1)
            settings.checkpointing = checkpointing
        }
        let found = try outcome(objective)
        let norm = try found.gradients.reduce(0) {
            try $0 + $1.square().sum(dtype: .float64).item()
        }.squareRoot()
        func loss(_ step: Double) throws -> Double {
            func move(_ step: Double) throws {
                try withoutGradients {
                    for (leaf, gradient) in zip(objective.parameters, found.gradients) {
                        try leaf.tensor.addInPlace(gradient, scale: step / norm)
                    }
                }
            }
            try move(step)
            defer { try? move(-step) }
            return try outcome(objective).loss
        }
        let width = 1e-3
        let slope = try (loss(width) - loss(-width)) / (2 * width)
        // The loss is rounded to float32 and has a third derivative.
        let error = DType.float32.epsilon * 100 * found.loss / width + 0.01 * norm
        #expect(abs(slope - norm) <= error)
        #expect(objective.parameters.contains { $0.role == .embedding })
    }

    @Test func aStoppedTrainingGoesOnBitwise() throws {
        let scratch = try Scratch()
        let reference = try model.objective()
        let phase = try TrainingLoop("test", Self.settings).run(reference)
        // Each run gets a few reports further; a state is saved every three steps.
        for _ in 0..<20 {
            let objective = try model.objective()
            let store = TrainingStore(scratch.path, name: "e2e", key: "k")
            var reports = 0
            do {
                let resumed = try TrainingLoop("test", Self.settings, store: store)
                    .run(objective) { _ in
                        reports += 1
                        if reports > 3 { throw Stopped() }
                    }
                #expect(resumed.points.map(\.heldOut) == phase.points.map(\.heldOut))
                #expect(resumed.points.map(\.loss) == phase.points.map(\.loss))
                for (left, right) in zip(objective.parameters, reference.parameters) {
                    #expect(try left.tensor.isIdentical(to: right.tensor))
                }
                try store.remove()
                break
            } catch is Stopped {
                continue
            }
        }
        #expect(scratch.entries.isEmpty)
    }

    @Test func twoProcessesTrainAsOne() throws {
        let scratch = try Scratch()
        let path = scratch.path
        var settings = Self.settings
        settings.steps = 4
        settings.validationInterval = 2
        let fixed = settings
        let alone = try model.objective()
        let phase = try TrainingLoop("test", fixed).run(alone)
        let model = model
        func curves(stops: Int) throws -> [[HealingResult.Point]?] {
            try processes(2) { group in
                let objective = try model.objective(group: group)
                let store = TrainingStore(path, name: "test", key: "k", group: group)
                var reports = 0
                do {
                    return try TrainingLoop("test", fixed, store: store, group: group)
                        .run(objective) { _ in
                            reports += 1
                            if reports > stops { throw Stopped() }
                        }.points
                } catch is Stopped {
                    return nil
                }
            }
        }
        // Stopped once, then to the end.
        #expect(try curves(stops: 2).allSatisfy { $0 == nil })
        #expect(scratch.entries.count == 3)
        for points in try curves(stops: .max) {
            let points = try #require(points)
            #expect(points.map(\.step) == phase.points.map(\.step))
            for (left, right) in zip(points, phase.points) {
                let (found, expected) = (try #require(left.heldOut), try #require(right.heldOut))
                // Adam divides by the root of the second moment: where a gradient is next to
                // nothing its rounding decides, in up to one step's length.
                #expect(abs(found - expected) <= 0.01 * expected)
            }
            #expect(
                points[0].heldOut.map { abs($0 - (phase.points[0].heldOut ?? 0)) < 1e-6 } == true)
        }
    }

    @Test func shardsOfAStepAddUp() throws {
        let whole = try outcome(model.objective())
        let model = model
        let shares = try processes(2) { group in try outcome(model.objective(group: group)) }
        let sums = try zip(shares[0].gradients, shares[1].gradients).map { try $0 + $1 }
        #expect(try distance(sums, whole.gradients) <= rounding)
        #expect(abs(shares[0].loss + shares[1].loss - whole.loss) <= rounding * whole.loss)
        #expect(shares[0].loss != shares[1].loss)
    }

    @Test func heldOutIsWhatTheEvaluatorSays() throws {
        let student = try model.source.loadModel()
        let expected = try Evaluator(student, against: model.teacher).measure(model.text.heldOut)
        let found = try model.heldOut().measure(student)
        let kl = try #require(expected.kl)
        #expect(abs(found.kl - kl) <= rounding * kl)
        #expect(abs(found.perplexity - expected.perplexity) <= rounding * expected.perplexity)
        #expect(try model.heldOut().tokens == expected.tokens)
    }

    @Test func aCachedTeacherSaysTheSame() throws {
        let scratch = try Scratch()
        var key = TeacherCache.Key(model.text, teacher: ["a": "b"], vocabulary: 8192)
        key.count = 4096
        try TeacherCache.write(key, text: model.text, teacher: model.teacher, to: scratch.path)
        let cache = try TeacherCache(key, directory: scratch.path)
        let cached = try outcome(model.objective(teacher: .cached(cache)))
        let whole = try outcome(model.objective())
        // Log-probabilities are kept in half precision, half of the tokens one by one.
        #expect(abs(cached.loss - whole.loss) <= 0.02 * whole.loss)
        #expect(try distance(cached.gradients, whole.gradients) < 0.05)
        #expect(throws: TrainingError.self) {
            try model.objective(teacher: .cached(cache)) {
                $0.hidden = HiddenLoss(boundaries: [1], weight: 1)
            }
        }
    }

    @Test func stepsAreCutToTheMemory() throws {
        var sizes = TrainingMemory.Sizes(
            sites: model.sites, hidden: 192, vocabulary: 8192, context: 1024, dtype: .bfloat16,
            device: .cuda(0), trained: 4_000_000, windows: 32, tokensPerPass: .max)
        func memory(_ available: Int?, _ checkpointing: ActivationCheckpointing = .automatic) throws
            -> TrainingMemory
        {
            try TrainingMemory(sizes, checkpointing, available: available)
        }
        let whole = try memory(nil)
        #expect(whole.windowsPerPass == 32 && !whole.recomputes)
        // Sums, masters and moments, and gradients in half precision.
        #expect(whole.optimiserBytes == 4_000_000 * (4 + 12 + 2))
        var last = whole
        while true {
            guard let next = try? memory(last.deviceBytes - 1) else { break }
            #expect(next.deviceBytes < last.deviceBytes)
            #expect(next.recomputes || next.windowsPerPass * 1024 >= 4096)
            last = next
        }
        #expect(last.recomputes && last.windowsPerPass == 1)
        let error = #expect(throws: StageError.self) { try memory(1 << 20) }
        #expect("\(try #require(error))".contains("optimiser \(last.optimiserBytes >> 20)"))
        let off = try #require(try? memory(last.deviceBytes * 2, .off))
        #expect(!off.recomputes)
        // An output projection that is multiplied out, and what it is made from.
        sizes.expandsHead = true
        #expect(try memory(nil).deviceBytes == whole.deviceBytes + 192 * 8192 * (20 + 2))
        sizes.expandsHead = false
        sizes.processes = 8
        #expect(try memory(nil).optimiserBytes == 4_000_000 * (4 + 2) + 500_000 * 12)
    }
}
