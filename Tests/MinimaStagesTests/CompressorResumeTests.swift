import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Compression that is interrupted")
struct CompressorResumeTests {
    private struct Stop: Error {}

    private func request(_ compensation: Compensation) throws -> (Checkpoint, Compressor.Request) {
        let parent = try goldenModel("qwen3-gqa4-tied-v5")
        let plan = try CompressionPlan.uniform(
            parent, ratio: 0.35, format: LowRank.name, version: "test")
        let sources = try someSources(parent, windows: 10, length: 8)
        return (parent, try compression(parent, plan, compensation: compensation, sources: sources))
    }

    @Test(
        "a run that stops anywhere goes on and writes the same bytes",
        arguments: [(Compensation.off, true), (.fixed(0.5), false), (.automatic, true)])
    func everywhere(compensation: Compensation, isSharded: Bool) throws {
        let scratch = try Scratch()
        var (parent, request) = try request(compensation)
        if isSharded { request.largestFile = 1 }
        let compressor = try Compressor(parent, request)
        var steps: [StageProgress] = []
        let whole = try compressor.run(output: "\(scratch.path)/whole") { steps.append($0) }
        let expected = try weights("\(scratch.path)/whole")
        // Where several reports are alike, as for the batches of a pass, the last one.
        let stops = steps.indices.filter { !steps[($0 + 1)...].contains(steps[$0]) }
        #expect(stops.count > 20)
        var resumed = 0
        for stop in stops {
            let output = "\(scratch.path)/x"
            var step = 0
            #expect(throws: Stop.self) {
                try compressor.run(output: output) { _ in
                    if step == stop { throw Stop() }
                    step += 1
                }
            }
            #expect(!scratch.entries.contains("x"), "nothing unfinished is at the destination")
            #expect(scratch.entries.allSatisfy { !$0.hasPrefix(".") })
            if scratch.entries.contains("x.minima-work") { resumed += 1 }
            var again = 0
            let result = try compressor.run(output: output) { _ in again += 1 }
            if stop == steps.count - 1 {
                #expect(again < steps.count / 2, "finished layers are not repeated")
            }
            #expect(try weights(output) == expected, "stopped at \(steps[stop])")
            #expect(scratch.entries == ["whole", "x"])
            #expect(result.modules.map(\.outputError) == whole.modules.map(\.outputError))
            #expect(result.totals == whole.totals)
            try FileManager.default.removeItem(atPath: output)
        }
        #expect(resumed > stops.count / 4)
    }

    @Test func aRunThatNeverGetsFarArrives() throws {
        let scratch = try Scratch()
        let (parent, request) = try request(.fixed(0.5))
        let compressor = try Compressor(parent, request)
        _ = try compressor.run(output: "\(scratch.path)/whole")
        // Each run gets a part further at best: there are two layers, and the rest.
        var (runs, isDone) = (0, false)
        while !isDone, runs < 5 {
            runs += 1
            do {
                _ = try compressor.run(output: "\(scratch.path)/x") { progress in
                    if progress.note.hasSuffix("done") { throw Stop() }
                }
                isDone = true
            } catch is Stop {}
        }
        #expect(runs == 4)
        #expect(try weights("\(scratch.path)/x") == weights("\(scratch.path)/whole"))
    }

    @Test func foreignProgressIsRefused() throws {
        let scratch = try Scratch()
        let output = "\(scratch.path)/x"
        let (parent, first) = try request(.fixed(0.5))
        #expect(throws: Stop.self) {
            try Compressor(parent, first).run(output: output) {
                if $0.note == "layer 0 done" { throw Stop() }
            }
        }
        let changes: [(inout Compressor.Request) throws -> Void] = [
            { $0.compensation = .fixed(0.25) },
            { $0.ridge = 0.5 },
            { $0.sources[0].windows[3][2] ^= 1 },
            { $0.sources[0].weight = 2 },
            { $0.plan.modules.removeLast() },
            { $0.version = "next" },
        ]
        for change in changes {
            var request = first
            try change(&request)
            do {
                _ = try Compressor(parent, request).run(output: output)
                Issue.record("foreign progress was used")
            } catch WorkDirectoryError.foreign(let path) {
                #expect(path.hasSuffix("x.minima-work"))
            }
        }
        #expect(scratch.entries == ["x.minima-work"])
        // Something else of that name is left alone, too.
        try FileManager.default.createDirectory(
            atPath: "\(scratch.path)/y.minima-work/precious", withIntermediateDirectories: true)
        #expect(throws: WorkDirectoryError.self) {
            try Compressor(parent, first).run(output: "\(scratch.path)/y")
        }
        #expect(scratch.entries == ["x.minima-work", "y.minima-work"])
    }

    @Test func oneRunAtATime() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/work"
        let first = try WorkDirectory(path, key: "a")
        #expect(throws: WorkDirectoryError.inUse(path: path)) {
            try WorkDirectory(path, key: "a")
        }
        withExtendedLifetime(first) {}
    }
}
