import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Block-wise healing that is interrupted")
struct HealBlocksResumeTests {
    private struct Stop: Error {}

    @Test("a run that stops anywhere goes on and heals to the same bits")
    func everywhere() throws {
        let model = try BlockCase(layers: 3, windows: 8, length: 8)
        var settings = BlockCase.settings
        settings.layersPerBlock = 2
        settings.epochs = 2
        settings.checkpointInterval = 0
        let healing = try model.healing(settings)
        var steps: [StageProgress] = []
        let whole = try healing.run(work: model.work("whole")) { steps.append($0) }
        let expected = try values(of: whole.source)
        // Where several reports are alike, as for the batches of a pass, the last one.
        let stops = steps.indices.filter { !steps[($0 + 1)...].contains(steps[$0]) }
        #expect(stops.count > 10)
        var resumed = 0
        for stop in stops {
            var step = 0
            #expect(throws: Stop.self) {
                try healing.run(work: model.work()) { _ in
                    if step == stop { throw Stop() }
                    step += 1
                }
            }
            let before = try model.records(model.work(), layersPerBlock: 2)
            if !before.isEmpty { resumed += 1 }
            let (phases, source) = try healing.run(work: model.work()) { report in
                let done = before.count * 2
                #expect(report.unit != "layers" || report.done >= done, "nothing is done again")
            }
            #expect(try values(of: source) == expected, "stopped at \(steps[stop])")
            #expect(
                phases.map { $0.points.map(\.heldOut) }
                    == whole.phases.map { $0.points.map(\.heldOut) })
            let work = try model.work()
            #expect(
                try FileManager.default.contentsOfDirectory(atPath: work.path).allSatisfy {
                    !$0.contains("training") && !$0.contains("partial")
                })
            try work.remove()
        }
        #expect(resumed > stops.count / 4)
    }

    @Test func aFinishedRunOnlyOpensItsFiles() throws {
        let model = try BlockCase()
        let healing = try model.healing()
        let first = try healing.run(work: model.work())
        let second = try healing.run(work: model.work()) { _ in throw Stop() }
        #expect(first.phases == second.phases)
        #expect(try values(of: first.source) == values(of: second.source))
    }

    @Test func activationsThatAreMissingAreComputedAgain() throws {
        let model = try BlockCase(layers: 3, windows: 12)
        let healing = try model.healing()
        let expected = try values(of: healing.run(work: model.work("whole")).source)
        #expect(throws: Stop.self) {
            try healing.run(work: model.work()) { if $0.note == "layer 1 done" { throw Stop() } }
        }
        let folder = "\(model.path)/work"
        let chains = try FileManager.default.contentsOfDirectory(atPath: folder)
            .filter { $0.contains("-of-") }
        #expect(chains.count == 2)
        for name in chains { try FileManager.default.removeItem(atPath: "\(folder)/\(name)") }
        let source = try healing.run(work: model.work()).source
        #expect(try values(of: source) == expected)
    }
}
