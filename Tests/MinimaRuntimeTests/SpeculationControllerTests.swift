import MinimaCore
import Testing

@testable import MinimaRuntime

/// A device on which steps cost what a table says and proposals are accepted by chance.
private struct SimulatedDevice {
    var random: SplitMix
    let choices: [Int]
    /// Seconds of a step of so many rows and proposals, after so many steps.
    var seconds: (_ rows: Int, _ draftTokens: Int, _ step: Int) -> Double
    /// Share accepted at a place where all before were, after so many steps.
    var share: (_ place: Int, _ step: Int) -> Double
    /// Relative spread of times.
    var noise = 0.0
    /// How often a step takes four times as long, as other programs run.
    var interruptions = 0.0
    /// Whether the controller is told times, or measures them.
    var isKnown = false
    /// Factor of what it is told for so many proposals.
    var error: (_ draftTokens: Int) -> Double = { _ in 1 }

    private(set) var spent = 0.0
    private(set) var plain = 0.0
    private(set) var tokens = 0.0
    /// What was proposed, step by step.
    private(set) var chosen: [Int] = []

    /// Steps by what they proposed.
    var counts: [Int: Int] { Dictionary(chosen.map { ($0, 1) }, uniquingKeysWith: +) }

    init(
        _ seed: UInt64, choices: [Int] = Array(0...7),
        seconds: @escaping (Int, Int, Int) -> Double, share: @escaping (Int, Int) -> Double
    ) {
        random = SplitMix(seed)
        self.choices = choices
        self.seconds = seconds
        self.share = share
    }

    /// A random device: a fixed time, one that grows with the tokens, in jumps, a draft's, and shares
    /// that fall from place to place.
    init(seed: UInt64) {
        var random = SplitMix(seed)
        let slope: Double = [0.001, 0.01, 0.1, 0.4].randomElement(using: &random) ?? 0
        let jump: Int = [1, 8, 16].randomElement(using: &random) ?? 1
        let draft: Double = [0, 0.01, 0.05, 0.2].randomElement(using: &random) ?? 0
        let first = Double.random(in: 0...1, using: &random)
        let factor = Double.random(in: 0.5...1, using: &random)
        self.init(
            seed,
            choices: [Array(0...7), [0, 1, 3], [0, 5], [0, 2, 4, 8]]
                .randomElement(using: &random) ?? [],
            seconds: { rows, draftTokens, _ in
                let tiles = (rows * (draftTokens + 1) + jump - 1) / jump
                let drafting: Double = draft * Double(draftTokens)
                return 1 + slope * Double(tiles * jump) + drafting
            },
            share: { place, _ in
                (0..<place).reduce(first) { share, _ in share * factor }
            })
        noise = [0, 0.05].randomElement(using: &random) ?? 0
        isKnown = Bool.random(using: &random)
    }

    /// Runs steps of so many rows each.
    mutating func run(_ steps: Int, rows: (Int) -> Int) {
        let times = seconds
        let (isKnown, error) = (isKnown, error)
        var controller = SpeculationController(choices) { rows, draftTokens in
            // As a backend knows them: before anything has run.
            isKnown ? times(rows, draftTokens, 0) * error(draftTokens) : nil
        }
        for step in 0..<steps {
            let rows = rows(step)
            let choice = controller.choose(bucket: rows)
            chosen.append(choice.draftTokens)
            let accepted = (0..<rows).map { _ in
                var count = 0
                while count < choice.draftTokens,
                    Double.random(in: 0..<1, using: &random) < share(count, step)
                {
                    count += 1
                }
                return count
            }
            let mean = 1 + Double(accepted.reduce(0, +)) / Double(rows)
            let isInterrupted = Double.random(in: 0..<1, using: &random) < interruptions
            let time =
                seconds(rows, choice.draftTokens, step) * (isInterrupted ? 4 : 1)
                * (1 + noise * Double.random(in: -1...1, using: &random))
            spent += time
            tokens += mean
            plain += mean * seconds(rows, 0, step)
            controller.record(choice, bucket: rows, accepted: accepted, seconds: time)
        }
    }

    /// Seconds that the same tokens take with the best number of proposals for all steps.
    func best(rows: Int) -> Double {
        let rates = choices.map { count in
            var (expected, run) = (1.0, 1.0)
            for place in 0..<count {
                run *= share(place, 0)
                expected += run
            }
            return expected / seconds(rows, count, 0)
        }
        return tokens / (rates.max() ?? 1)
    }
}

@Suite("Speculation: how many tokens to propose")
struct SpeculationControllerTests {
    /// Steps that the accounts may lose once, whatever the device: their openings, and as the last
    /// step of each may be larger than what was left, a step of each.
    private let opening = 2 * (4.0 + 8)

    /// On any device, at 1 row and at 50: no slower than without proposals but for 1 % and a few steps,
    /// and close to the best fixed number once that is found, with shares known to a few percent.
    @Test(arguments: 0..<24 as Range<UInt64>, [1, 50]) func neverSlower(seed: UInt64, rows: Int) {
        var device = SimulatedDevice(seed: seed)
        device.run(3000) { _ in rows }
        let step = device.seconds(rows, 0, 0)
        #expect(device.spent <= 1.01 * device.plain + opening * step, "\(device.counts)")
        #expect(device.spent <= 1.06 * device.best(rows: rows), "\(device.counts)")
    }

    /// Shares that rise and fall, times that grow, rows that come and go.
    @Test(arguments: 0..<20 as Range<UInt64>) func neverSlowerWhileThingsChange(seed: UInt64) {
        var random = SplitMix(seed)
        let steady = SimulatedDevice(seed: seed)
        let period = Int.random(in: 50...1500, using: &random)
        let (low, high) = (
            Double.random(in: 0...0.4, using: &random), Double.random(in: 0.3...1, using: &random)
        )
        var device = SimulatedDevice(
            seed, choices: steady.choices,
            seconds: { rows, draftTokens, step in
                steady.seconds(rows, draftTokens, 0) * (1 + Double(step) / 5000)
            },
            share: { place, step in
                (step / period % 2 == 0 ? low : high) * (place == 0 ? 1 : 0.9)
            })
        device.noise = steady.noise
        device.isKnown = steady.isKnown
        let crowds = (0..<8).map { _ in Int.random(in: 1...32, using: &random) }
        device.run(4000) { crowds[$0 / 500] }
        let step = crowds.map { device.seconds($0, 0, 4000) }.max() ?? 0
        #expect(device.spent <= 1.01 * device.plain + opening * step, "\(device.counts)")
    }

    /// What a backend says of its times may be wrong either way, and for each number of proposals in
    /// another way: what runs says more. Until it has run, steps are paid for by wrong times.
    @Test(arguments: 0..<24 as Range<UInt64>, [1, 50])
    func neverSlowerWhenTheBackendIsWrong(seed: UInt64, rows: Int) {
        var random = SplitMix(seed)
        var device = SimulatedDevice(seed: seed)
        device.isKnown = true
        let factors = (0...8).map { _ in Double.random(in: 0.6...1.5, using: &random) }
        device.error = { factors[$0] }
        device.run(3000) { _ in rows }
        let step = device.seconds(rows, 0, 0)
        #expect(device.spent <= 1.01 * device.plain + opening * step, "\(device.counts)")
    }

    /// A draft that is useless and looks free, one that pays and looks dear.
    @Test func wrongTimesAreCorrected() {
        var device = SimulatedDevice(
            4, seconds: { _, draftTokens, _ in 1 + 0.3 * Double(draftTokens) },
            share: { _, _ in 0.25 })
        device.isKnown = true
        device.error = { 1 / (1 + 0.29 * Double($0)) }
        device.run(2000) { _ in 1 }
        #expect(device.counts[0, default: 0] > 1850, "\(device.counts)")
        device.seconds = { _, draftTokens, _ in 1 + 0.02 * Double(draftTokens) }
        device.share = { _, _ in 0.8 }
        device.error = { 1 + 0.3 * Double($0) }
        device.run(2000) { _ in 1 }
        #expect(device.chosen.suffix(1000).count { $0 >= 5 } > 900, "\(device.counts)")
    }

    /// Memory-bound at 1 row, bound by arithmetic at 50: proposals for the one, none for the others.
    @Test(arguments: [true, false]) func oneRequestAndFifty(isKnown: Bool) {
        func counts(_ rows: Int) -> [Int: Int] {
            var device = SimulatedDevice(
                1,
                seconds: { rows, draftTokens, _ in
                    max(1, Double(rows * (draftTokens + 1)) / 60) + 0.02 * Double(draftTokens)
                },
                share: { _, _ in 0.5 })
            device.isKnown = isKnown
            device.run(2000) { _ in rows }
            return device.counts
        }
        let one = counts(1)
        // E(K)/t(K) is flat from K = 3 to 7: 1.77 to 1.76.
        #expect((3...7).reduce(0) { $0 + (one[$1] ?? 0) } > 1800, "\(one)")
        let fifty = counts(50)
        #expect(fifty[0, default: 0] > 1900, "\(fifty)")
    }

    /// Proposals that were useless for long and now are right are found.
    @Test(arguments: [true, false]) func changesAreFound(isKnown: Bool) {
        var device = SimulatedDevice(
            2, seconds: { rows, draftTokens, _ in 1 + 0.01 * Double(rows * (draftTokens + 1)) },
            share: { $1 < 3000 ? 0 : 0.9 })
        device.isKnown = isKnown
        device.run(6000) { _ in 1 }
        #expect(device.chosen.prefix(3000).count { $0 == 0 } > 2500, "\(device.counts)")
        #expect(device.chosen.suffix(2000).count { $0 == 7 } > 1500, "\(device.counts)")
    }

    /// On a machine that others use, too: a fifth of all steps takes four times as long, 1.6 on average.
    @Test(arguments: 0..<10 as Range<UInt64>, [true, false])
    func interruptions(seed: UInt64, isKnown: Bool) {
        var device = SimulatedDevice(
            seed, seconds: { rows, draftTokens, _ in 1 + 0.05 * Double(rows * (draftTokens + 1)) },
            share: { _, _ in 0.85 })
        device.interruptions = 0.2
        device.isKnown = isKnown
        device.run(1500) { _ in 1 }
        #expect(device.spent <= 1.6 * 1.1 * device.best(rows: 1), "\(device.counts)")
    }

    @Test func stepsThatDoNotExistAreNeverChosen() {
        var device = SimulatedDevice(
            3, seconds: { rows, draftTokens, _ in rows * (draftTokens + 1) > 64 ? .infinity : 1 },
            share: { _, _ in 1 })
        device.isKnown = true
        device.run(500) { $0 % 2 == 0 ? 1 : 50 }
        #expect(device.counts[7] == 250 || device.counts[7, default: 0] > 200)
        #expect(device.counts[0, default: 0] >= 250)
        #expect(device.spent.isFinite)
    }

    /// Without a time there is nothing to compare: plain steps until there is one.
    @Test func withoutTimesNothingIsProposed() {
        var controller = SpeculationController([0, 3]) { _, _ in nil }
        for _ in 0..<20 {
            let choice = controller.choose(bucket: 1)
            #expect(choice == .init())
            controller.record(choice, bucket: 1, accepted: [0], seconds: nil)
        }
        controller.record(.init(), bucket: 1, accepted: [0], seconds: 1)
        #expect(controller.choose(bucket: 1).draftTokens == 3)
    }
}
