import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Block-wise healing")
struct HealBlocksTests {
    @Test(
        "every block's held-out error falls, and so does the model's KL",
        arguments: [1, 2, 3])
    func falls(layersPerBlock: Int) throws {
        let model = try BlockCase(layers: 4, windows: 64, length: 16)
        var settings = BlockCase.settings
        settings.layersPerBlock = layersPerBlock
        let work = try model.work()
        let (phases, healed) = try model.healing(settings).run(work: work)
        let records = try model.records(work, layersPerBlock: layersPerBlock)
        #expect(phases.count == records.count)
        for record in records {
            #expect(record.isHealed && record.after < 0.95 * record.before)
            // The loop measured the same model when it began and where it was best.
            let points = try #require(record.phase).points.compactMap(\.heldOut)
            let best = try #require(points.min())
            #expect(abs(points[0] - record.before) <= 1e-6 * record.before)
            #expect(abs(best - record.after) <= 1e-6 * record.after)
        }
        let names = ["1": ["layer 0", "layer 1", "layer 2", "layer 3"]]
        #expect(
            phases.map(\.name) == names["\(layersPerBlock)"]
                ?? (layersPerBlock == 2
                    ? ["layers 0-1", "layers 2-3"] : ["layers 0-2", "layer 3"]))
        #expect(try model.kl(healed) < 0.95 * model.kl(model.student))
    }

    @Test(
        "quantised cores, experts and half precision heal, too",
        arguments: [
            ("qwen3moe-normalised-v5", 0), ("llama-gqa2-bias-v5", 3),
            ("qwen3-gqa3-untied-bf16-v4", 0),
        ])
    func others(golden: String, bits: Int) throws {
        let model = try BlockCase(golden, windows: 48) { plan in
            guard bits > 0 else { return }
            for index in plan.modules.indices {
                plan.modules[index].spec = FormatSpec(
                    format: "quantized", bits: bits, parts: [FormatSpec(format: Dense.name)])
            }
        }
        var settings = BlockCase.settings
        settings.learningRate = 0.01
        let work = try model.work()
        let (_, healed) = try model.healing(settings).run(work: work)
        for record in try model.records(work) {
            #expect(record.isHealed && record.after < record.before)
        }
        #expect(
            try CompressionManifest(healed.config).modules
                == CompressionManifest(model.student.config).modules)
    }

    @Test func aModelThatIsItsTeacherStaysAsItIs() throws {
        let model = try BlockCase()
        let healing = try BlockHealing(
            student: model.teacher, teacher: model.teacher, settings: BlockCase.settings,
            windows: model.windows, heldOut: model.heldOut, device: .cpu)
        let work = try model.work()
        let (phases, healed) = try healing.run(work: work)
        #expect(phases.isEmpty && healed.healed.isEmpty)
        #expect(try model.records(work).map(\.before) == [0, 0])
        #expect(try values(of: healed) == values(of: model.teacher))
    }

    @Test func gradientsAreThoseOfTheLoss() throws {
        let model = try BlockCase()
        let trainable = TrainableModelParts(TrainingOptions())
        let layers = try BlockLayers(
            model.student, 0..<2, device: .cpu, dtype: .float64, adapter: trainable
        ) {}
        let ends = try model.teacher.loadPart(.ends, dtype: .float64)
        let windows = BlockWindows(
            training: model.windows, heldOut: [], windowsPerStep: 4, tokensPerPass: 24, seed: 0)
        let inputs = try ActivationChain(windows.batches, embeddedBy: ends)
        var targets = inputs
        for layer in 0..<2 {
            try targets.advance(layer: model.teacher.loadPart(.layer(layer), dtype: .float64))
        }
        let objective = try BlockObjective(
            layers, parameters: trainable.tensors, windows: windows, inputs: inputs,
            targets: targets, group: nil)
        var sums: [Tensor] = []
        func loss() throws -> Double {
            sums = []
            return try objective.gradients(step: 3) { gradients in
                let gradients = gradients.compactMap(\.self)
                sums = sums.isEmpty ? gradients : try zip(sums, gradients).map { try $0 + $1 }
            }.item()
        }
        // Along the gradient, the loss changes by the gradient's square; central differences are
        // exact up to the third derivative and the rounding of float32 sums.
        _ = try loss()
        #expect(sums.count == objective.parameters.count)
        let gradients = sums
        let square = try gradients.reduce(0) { try $0 + $1.square().sum().item() }
        let step = 1e-2 / square.squareRoot()
        func shift(_ scale: Double) throws {
            for (leaf, gradient) in zip(objective.parameters, gradients) {
                try withoutGradients { try leaf.tensor.addInPlace(gradient, scale: scale) }
            }
        }
        try shift(step)
        let above = try loss()
        try shift(-2 * step)
        let below = try loss()
        #expect(abs((above - below) / (2 * step) / square - 1) < 1e-2)
    }

    @Test func processesShareTheWindows() throws {
        let windows = (0..<11).map { someTokens($0 % 3 == 0 ? 5 : 8, vocabulary: 64, seed: $0) }
        func share(_ rank: Int, of processes: Int) -> BlockWindows {
            BlockWindows(
                training: windows, heldOut: Array(windows.prefix(3)), windowsPerStep: 4,
                tokensPerPass: 16, seed: 9, rank: rank, processes: processes)
        }
        let whole = share(0, of: 1)
        let shares = (0..<3).map { share($0, of: 3) }
        #expect(whole.tokensPerEpoch == windows.reduce(0) { $0 + $1.count })
        #expect(Set((0..<3).map(whole.place)) == [0, 1, 2])
        #expect((0..<40).contains { whole.place(ofStep: 3 * $0) != whole.place(ofStep: 0) })
        for step in 0..<3 {
            for share in shares {
                #expect(share.tokens == whole.tokens)
                #expect(share.place(ofStep: step) == whole.place(ofStep: step))
            }
            func tokens(_ windows: BlockWindows) -> [[Int32]] {
                windows.batches[windows.steps[step]].flatMap(\.windows)
            }
            let all = Set(shares.flatMap(tokens))
            #expect(all == Set(tokens(whole)) && all.count == (step < 2 ? 4 : 3))
        }
        // The last step has no window for the last process but what it counts is the same.
        #expect(share(3, of: 4).steps[2].isEmpty)
    }

    @Test func twoProcessesHealAsOneDoes() throws {
        let model = try BlockCase(windows: 32)
        var settings = BlockCase.settings
        settings.learningRate = 0.01
        let one = try model.work("one")
        _ = try model.healing(settings).run(work: one)
        let alone = try model.records(one)
        let (teacher, student, windows, heldOut) = (
            model.teacher, model.student, model.windows, model.heldOut
        )
        let (path, chosen) = ("\(model.path)/two", settings)
        let found = try processes(2) { group in
            let own = try group.rank == 0 ? WorkDirectory(path, key: "test") : nil
            try group.barrier()
            let work = try own ?? WorkDirectory(joining: path, key: "test")
            let healing = try BlockHealing(
                student: student, teacher: teacher, settings: chosen, windows: windows,
                heldOut: heldOut, device: .cpu, group: group)
            let healed = try values(of: healing.run(work: work).source)
            // All is there already, for a process that asks again.
            #expect(try values(of: healing.run(work: work) { _ in throw Stop() }.source) == healed)
            return healed
        }
        #expect(found[0] == found[1])
        let together = try model.records(model.work("two"))
        #expect(together.count == alone.count)
        for (two, one) in zip(together, alone) {
            // Sums in another order; Adam's steps make a little of that.
            #expect(abs(two.before - one.before) < 1e-5 * one.before)
            #expect(abs(two.after - one.after) < 1e-3 * one.after)
            #expect(two.phase?.tokens == one.phase?.tokens)
        }
    }

    private struct Stop: Error {}

    @Test func foreignModelsAndMissingTextAreRefused() throws {
        let model = try BlockCase()
        let other = try BlockCase(layers: 3)
        #expect(throws: HealingError.self) {
            try BlockHealing(
                student: model.student, teacher: other.teacher, windows: model.windows,
                heldOut: model.heldOut, device: .cpu)
        }
        for (windows, heldOut) in [([], model.heldOut), (model.windows, [[]])] {
            #expect(throws: StageError.self) {
                try BlockHealing(
                    student: model.student, teacher: model.teacher, windows: windows,
                    heldOut: heldOut, device: .cpu)
            }
        }
        let healing = try model.healing()
        #expect(healing.requirements.deviceBytes > 0)
        #expect("\(healing.requirements)".contains("of disk at most"))
    }
}
