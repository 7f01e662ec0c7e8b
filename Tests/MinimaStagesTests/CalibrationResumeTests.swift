import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

private struct Killed: Error {}

/// The ways to keep things: with gradients or without, inputs in memory or in files, input moments
/// stored or not.
struct Keeping: Sendable, CustomTestStringConvertible {
    var gradientWindows: Int
    var isSpilled: Bool
    var storesMoments: Bool

    var testDescription: String {
        "\(gradientWindows) gradient windows, \(isSpilled ? "files" : "memory"), "
            + (storesMoments ? "C stored" : "C not stored")
    }

    static let all = [0, 3].flatMap { gradients in
        [false, true].flatMap { spilled in
            [false, true].map {
                Keeping(gradientWindows: gradients, isSpilled: spilled, storesMoments: $0)
            }
        }
    }

    func calibrator(_ directory: String?, labels: LabelSampler? = nil) throws -> Calibrator {
        var settings = CalibrationSettings(gradientWindows: gradientWindows, seed: 7)
        settings.tokensPerPass = 18
        settings.tokensPerGradientPass = 9
        if isSpilled { settings.hostBudget = 0 }
        if !storesMoments { settings.momentBudget = 0 }
        let calibrator = try Calibrator(
            goldenModel("llama-gqa2-bias-v5"), sources: smallSources, settings: settings,
            fingerprints: ["model.safetensors": "abc"], directory: directory, labels: labels)
        #expect(calibrator.memory.isSpilled == (isSpilled && directory != nil))
        return calibrator
    }
}

@Suite("Resumed calibration")
struct CalibrationResumeTests {
    @Test("ended at a visit", arguments: Keeping.all)
    func visits(keeping: Keeping) throws {
        let whole = try keeping.calibrator(nil).collect()
        #expect(whole.count >= 2)
        for survivor in whole.indices {
            let scratch = try Scratch()
            var visited: [Int] = []
            #expect(throws: Killed.self) {
                try keeping.calibrator(scratch.path).run { statistics, _ in
                    if visited.count == survivor { throw Killed() }
                    visited.append(statistics.layer)
                }
            }
            #expect(visited == whole.prefix(survivor).map(\.layer))
            // What a visitor has already, it need not be shown again.
            let rest = try keeping.calibrator(scratch.path)
                .collect(isNeeded: { !visited.contains($0) })
            #expect(rest == Array(whole.dropFirst(survivor)))
        }
    }

    @Test("ended at any report of progress", arguments: Keeping.all)
    func reports(keeping: Keeping) throws {
        var reports = 0
        let whole = try keeping.calibrator(nil).collect { _ in reports += 1 }
        for end in stride(from: 1, through: reports, by: 7) {
            let scratch = try Scratch()
            var count = 0
            #expect(throws: Killed.self) {
                _ = try keeping.calibrator(scratch.path).collect { _ in
                    count += 1
                    if count == end { throw Killed() }
                }
            }
            #expect(try keeping.calibrator(scratch.path).collect() == whole, "report \(end)")
            #expect(scratch.entries.allSatisfy { $0.hasPrefix("layer-") })
        }
    }

    @Test("a finished calibration computes nothing again", arguments: [0, 3])
    func finished(gradientWindows: Int) throws {
        let keeping = Keeping(
            gradientWindows: gradientWindows, isSpilled: false, storesMoments: true)
        let scratch = try Scratch()
        let first = try keeping.calibrator(scratch.path).collect()
        var stages: Set<String> = []
        let again = try keeping.calibrator(scratch.path) { _, _, _ in throw Killed() }
            .collect { if $0.total > 0 { stages.insert($0.stage) } }
        #expect(again == first)
        #expect(!stages.contains("statistics"))
        let store = try #require(try keeping.calibrator(scratch.path).store)
        for numbers in first {
            let loaded = try #require(try store.load(layer: numbers.layer))
            #expect(try Numbers(loaded) == numbers)
        }
    }

    /// 1 output holds no member, 40 all members and no site of several, 50 one of the two.
    @Test("stored metrics are those that were visited", arguments: [1, 40, 50, 2048])
    func metrics(limit: Int) throws {
        let scratch = try Scratch()
        let calibrator = try smallCalibrator(directory: scratch.path) { $0.fullMetricLimit = limit }
        var runs = Set<Int>()
        try calibrator.run { statistics, _ in
            let store = try #require(calibrator.store)
            let loaded = try #require(try store.outputMetrics(layer: statistics.layer))
            for site in statistics.sites {
                let metric = try #require(site.output)
                let stored = try #require(loaded[site.site.name])
                #expect(stored.runs.count == metric.runs.count)
                for (left, right) in zip(stored.runs, metric.runs) {
                    #expect(try left.isIdentical(to: right), "\(site.site.name)")
                }
                if site.site.members.count > 1 { runs.insert(metric.runs.count) }
            }
        }
        #expect(runs == (limit > 50 ? [1] : limit == 50 ? [1, 2] : [2, 3]))
    }

    @Test func gradientsAreReusedWhereMomentsAreNotStored() throws {
        let keeping = Keeping(gradientWindows: 3, isSpilled: true, storesMoments: false)
        let scratch = try Scratch()
        let first = try keeping.calibrator(scratch.path).collect()
        let store = try #require(try keeping.calibrator(scratch.path).store)
        #expect(try store.load(layer: 0) == nil)
        let metrics = try #require(try store.outputMetrics(layer: 0))
        #expect(metrics.count == 4)
        // No label is asked for: no gradient is taken again.
        let again = try keeping.calibrator(scratch.path) { _, _, _ in throw Killed() }.collect()
        #expect(again == first)
    }

    @Test("damaged and foreign files are calibrated anew", arguments: [0, 3])
    func damage(gradientWindows: Int) throws {
        let keeping = Keeping(
            gradientWindows: gradientWindows, isSpilled: true, storesMoments: true)
        let scratch = try Scratch()
        let whole = try keeping.calibrator(scratch.path).collect()
        let path = "\(scratch.path)/layer-001.safetensors"
        let intact = try #require(FileManager.default.contents(atPath: path))
        func expectSame(_ name: String, _ bytes: Data) throws {
            try bytes.write(to: URL(filePath: path))
            let store = try #require(try keeping.calibrator(scratch.path).store)
            #expect(try store.load(layer: 1) == nil, "\(name)")
            #expect(try keeping.calibrator(scratch.path).collect() == whole, "\(name)")
            #expect(try store.load(layer: 1) != nil, "\(name)")
        }
        try expectSame("cut", intact.prefix(intact.count / 2))
        try expectSame("empty", Data())
        try expectSame("header", Data([0xff]) + intact.dropFirst())
        // Infinities where the last numbers were.
        let infinite = [UInt8](repeating: 0, count: 6) + [0xf0, 0x7f]
        let single = [UInt8](repeating: 0, count: 2) + [0x80, 0x7f]
        let end = gradientWindows > 0 ? single : infinite
        try expectSame("values", intact.dropLast(end.count) + end)
        let other = FileManager.default.contents(
            atPath: "\(scratch.path)/layer-000.safetensors")
        try expectSame("another layer", #require(other))
        try FileManager.default.removeItem(atPath: path)
        #expect(try keeping.calibrator(scratch.path).collect() == whole)
    }

    @Test func otherContentIsAnotherCalibration() throws {
        let scratch = try Scratch()
        let one = try smallCalibrator(directory: scratch.path)
        _ = try one.collect()
        var keys = [one.key]
        for change in [
            { $0.seed = 8 }, { $0.gradientWindows = 2 }, { $0.dtype = .bfloat16 },
            { $0.fullMetricLimit = 4 }, { $0.tokensPerGradientPass = 18 },
        ] as [(inout CalibrationSettings) -> Void] {
            keys.append(try smallCalibrator(directory: scratch.path, change: change).key)
        }
        keys.append(try smallCalibrator(fingerprints: ["a": "b"]).key)
        var weighted = smallSources
        weighted[0].weight = 2
        keys.append(try smallCalibrator(sources: weighted).key)
        #expect(Set(keys).count == keys.count)
        #expect(try smallCalibrator().key == one.key)
        // Budgets change where things are kept, not what they are.
        #expect(try smallCalibrator { $0.hostBudget = 1 }.key == one.key)
        let other = try smallCalibrator(directory: scratch.path) { $0.seed = 8 }
        #expect(try #require(other.store).load(layer: 0) == nil)
        #expect(try other.collect() == smallCalibrator { $0.seed = 8 }.collect())
    }

    @Test("one layer alone is what it is among all", arguments: [0, 3])
    func single(gradientWindows: Int) throws {
        let keeping = Keeping(
            gradientWindows: gradientWindows, isSpilled: false, storesMoments: false)
        let whole = try keeping.calibrator(nil).collect()
        for numbers in whole {
            let alone = try keeping.calibrator(nil).collect(isNeeded: { $0 == numbers.layer })
            #expect(alone == [numbers])
        }
        #expect(try keeping.calibrator(nil).collect(isNeeded: { _ in false }).isEmpty)
    }
}
