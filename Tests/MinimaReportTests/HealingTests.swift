import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct HealingTests {
    private func report(
        _ healings: [(HealingResult, String?)], evaluations: [EvaluationResult] = [],
        compressions: [(result: CompressionResult, directory: String?)] = []
    ) -> Report {
        Report(
            title: "t", inspections: [], evaluations: evaluations, compressions: compressions,
            generations: [], analyses: [], plans: [], ablations: [],
            healings: healings.map { (result: $0.0, directory: $0.1) })
    }

    private func labels(_ report: Report) -> [String] {
        report.lineage.models.map { model in
            report.lineage.label(model) + (report.lineage.mark(model).map { " (\($0))" } ?? "")
        }
    }

    // MARK: Whose child a healed model is

    @Test func aHealedModelBringsItsCompression() {
        let healed = report([(Sample.healing(), Sample.healed)])
        #expect(healed.compressions == [Sample.compression])
        #expect(labels(healed) == ["tiny (dense)", "tiny-lowrank", "tiny-healed"])
        #expect(healed.lineage.outputs == [ModelPath(Sample.small)])
        let output = ModelPath(Sample.healed)
        #expect(healed.lineage.sizes[output]?.parameters == 2_932_001)
        #expect(healed.lineage.dense[output] == ModelPath("models/tiny"))
        // What is shown of a compression is shown of the account in a healed model.
        let alone = Report(title: "t", compressions: [Sample.compression])
        let sections = checkedPage(healed).attributes.filter { $0.name == "id" }.map(\.value)
        let expected = checkedPage(alone).attributes.filter { $0.name == "id" }.map(\.value)
        #expect(Set(expected).isSubset(of: sections))
        #expect(checkedPage(healed).text.contains("model.layers.1.mlp.up_proj"))
    }

    @Test func oneCompressionHealedTwiceIsThereOnce() {
        var account = Sample.compression
        account.modules[0].outputError = .nan
        let ways = [
            (Sample.healing(compression: account), "out/a" as String?),
            (Sample.healing(compression: account), "out/b"),
        ]
        let both = report(ways, compressions: [(account, "elsewhere/tiny-lowrank")])
        #expect(both.compressions.count == 1)
        // The same directory, named from elsewhere.
        #expect(labels(both) == ["tiny (dense)", "tiny-lowrank", "a (healed)", "b (healed)"])
        #expect(
            both.lineage.healed.map(\.source.text)
                == Array(repeating: "elsewhere/tiny-lowrank", count: 2))
        #expect(
            report(ways, compressions: [(account, nil)]).lineage.outputs.map(\.text) == [
                Sample.small
            ])
    }

    @Test func whatWasHealedTwiceFollowsItsFirstHealing() {
        let again = Sample.healing(of: Sample.healed, after: .init(kl: 0.05, perplexity: 22))
        let chain = report([(again, "out/again"), (Sample.healing(), Sample.healed)])
        #expect(chain.compressions.count == 1)
        #expect(
            labels(chain)
                == ["tiny (dense)", "tiny-lowrank", "tiny-healed", "again (healed)"])
        #expect(chain.lineage.outputs == [ModelPath(Sample.small)])
    }

    @Test func aResultWithoutItsDirectoryFindsItsModelBySize() {
        let evaluations =
            Sample.evaluations + [
                Sample.evaluation(
                    "x/y", against: Sample.dense, perplexity: 25, kl: 0.1, parameters: 2_932_001)
            ]
        let found = report([(Sample.healing(), nil)], evaluations: evaluations)
        #expect(labels(found) == ["tiny (dense)", "tiny-lowrank", "y (healed)"])
        // With adapters it is larger than what it was made of.
        let adapted = report(
            [(Sample.healing(parameters: 3_000_000), nil)],
            evaluations: evaluations + [
                Sample.evaluation(
                    "x/z", against: Sample.dense, perplexity: 25, kl: 0.1, parameters: 3_000_000)
            ])
        #expect(labels(adapted) == ["tiny (dense)", "tiny-lowrank", "z (healed)", "y"])
        let unnamed = report([(Sample.healing(), nil), (Sample.healing(), nil)])
        #expect(
            labels(unnamed) == [
                "tiny (dense)", "tiny-lowrank", "tiny-lowrank, healed",
                "tiny-lowrank, healed, 2",
            ])
    }

    @Test func keptAdaptersCount() {
        let lineage = report([(Sample.healing(parameters: 3_107_001), Sample.healed)]).lineage
        let output = ModelPath(Sample.healed)
        #expect(lineage.sizes[output] == .init(parameters: 3_107_001, bytes: 6_214_002))
        #expect(lineage.sizes[ModelPath(Sample.small)]?.bytes == 5_864_002)
        // 350,000 bytes beside those of 3,500,000 weights.
        let before = 8 * 4_456_450 / 3_500_000.0
        #expect(abs((lineage.bitsPerWeight[output] ?? 0) - (before + 0.8)) < 1e-9)
    }

    @Test func aHealedModelNeedsNoAccountOfACompression() {
        let healed = report([(Sample.healing(compression: nil), Sample.healed)])
        #expect(healed.compressions.isEmpty)
        #expect(labels(healed) == ["tiny (dense)", "tiny-lowrank", "tiny-healed"])
        let page = checkedPage(healed)
        #expect(
            page.attributes.filter { $0.name == "id" }.map(\.value)
                == ["result", "comparison", "healing", "provenance"])
        #expect(healed.table().contains("tiny (dense)        –            –  20.613"))
        #expect(
            healed.table().contains("tiny-healed   2.932 M     5.864 MB  24.700 1.20×  0.1012"))
    }

    // MARK: Stages

    @Test(arguments: [
        ("layer 3", 3...3), ("layers 0-1", 0...1), ("layers 2-2", 2...2), ("end to end", nil),
        ("layers 5-2", nil), ("layers -1-2", nil), ("layers 1-2-3", nil), ("layer", nil),
        ("layers 0-9223372036854775807", nil), ("layer 99999999999999999999", nil),
    ])
    func blocksAreKnownByName(name: String, layers: ClosedRange<Int>?) {
        #expect(HealingStage.layers(name) == layers)
    }

    @Test func blocksMakeOnePass() {
        let stages = HealingStage.all(of: Sample.healing())
        #expect(stages.map(\.name) == ["layers 0–1, one by one", "end to end"])
        #expect(stages.map(\.start) == [0, 500_000])
        #expect(stages.map(\.tokens) == [500_000, 1_500_000])
        #expect(stages.first?.blocks.map(\.before) == [0.3, 0.4])
        #expect(stages.first?.blocks.map(\.after) == [0.2, 0.25])
        #expect(stages.first?.endings == "1 held-out, 1 steps")
        #expect(abs((stages.first?.tokensPerSecond ?? 0) - 31_250) < 1e-6)
        #expect(Sample.healing().healingTokens == 2_000_000)
        let curve = Sample.healing().curve(\.perplexity, \.perplexity)
        #expect(curve.map(\.tokens) == [0, 500_000, 1_250_000, 2_000_000, 2_000_000])
        #expect(curve.map(\.value) == [37.2, 29.5, 26.1, 24.7, 24.7])
        // Blocks have no perplexities: a straight line.
        let blocks = Sample.healing(phases: Array(Sample.healingPhases.prefix(2)))
        #expect(blocks.curve(\.perplexity, \.perplexity).map(\.value) == [37.2, 24.7])
    }

    @Test func aSecondPassAndOverlapsAreCounted() {
        func tokens(_ phases: [(String, Int)]) -> [Double] {
            let result = Sample.healing(
                phases: phases.map { Sample.phase($0.0, tokens: $0.1, heldOut: []) })
            return HealingStage.all(of: result).map(\.tokens)
        }
        // Layer 1 saw 100 twice: 2 layers × 100 each of two blocks over three layers.
        #expect(tokens([("layers 0-1", 100), ("layers 1-2", 100)]) == [400.0 / 3])
        #expect(tokens([("layer 0", 10), ("layer 1", 30), ("layers 0-1", 7)]) == [20, 7])
        #expect(tokens([("end to end", 5), ("layer 0", 6), ("end to end", .min)]) == [5, 6, 0])
    }

    // MARK: What is shown

    @Test func beforeAndAfterStandSideBySide() {
        let evaluations =
            Sample.evaluations + [
                Sample.evaluation(
                    Sample.healed, against: Sample.dense, perplexity: 24.9, kl: 0.11,
                    parameters: 2_932_001)
            ]
        let healed = report(
            [(Sample.healing(), Sample.healed)], evaluations: evaluations,
            compressions: [(Sample.compression, Sample.small)])
        #expect(
            healed.table() == """
                text.txt: 12,288 tokens, windows of 1,024
                              parameters      bytes            bits  perplexity    KL
                tiny (dense)  4.204 M         8.408 MB         16.0  20.512             –
                tiny-lowrank  2.932 M 0.697×  5.864 MB 0.697×  10.2  37.200 1.81×  0.5933
                tiny-healed   2.932 M 0.697×  5.864 MB 0.697×  10.2  24.900 1.21×  0.1100

                held-out text of healing: 65,536 tokens
                              parameters      bytes            bits  perplexity    KL
                tiny (dense)  4.204 M         8.408 MB         16.0  20.613             –
                tiny-lowrank  2.932 M 0.697×  5.864 MB 0.697×  10.2  37.200 1.80×  0.5933
                tiny-healed   2.932 M 0.697×  5.864 MB 0.697×  10.2  24.700 1.20×  0.1012

                tiny-healed: KL −82.9 %, perplexity −33.6 % by healing, 2.000 M tokens in 72.0 s

                tiny-lowrank: ratio 0.35
                  3 lowrank

                ×: relative to the dense model.
                KL: mean KL(dense ‖ model) per predicted token, in nats.
                bits: stored per weight of the linear layers.

                """)
        let page = checkedPage(healed)
        for text in [
            "KL 0.5933 → 0.1012 (−82.9 %), perplexity 37.200 → 24.700 (−33.6 %) on 65,536",
            "20.512 → 37.200 → 24.900", "20.613 → 37.200 → 24.700", "0.5933 before healing",
            "against tiny, healed from tiny-lowrank", "healed", "+21.4 %", "+19.8 %",
            "layers 0–1, one by one", "end to end", "1 held-out, 1 steps", "1.500 M", "31250",
            "heal.txt (12,000 documents, 1,600,000 tokens)", "context 1024, lr 0.001",
            "cuda:0, bfloat16, libtorch 2.11.0, 2 processes", "ab12cd34",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
        let labels = page.attributes.filter { $0.name == "aria-label" }.map(\.value)
        for label in [
            "Held-out KL, nats per token: end to end from 0.250 to 0.101",
            "Held-out perplexity, per token: end to end from 29.5 to 24.7; dense 20.6",
            "Training loss, mean since the point before: end to end from 0.310 to 0.220",
            "Output error, layers 0–1, one by one: grey before, blue after, relative, on held-out text: "
                + "before from 0.300 to 0.400; after from 0.200 to 0.250",
        ] {
            #expect(labels.contains(label), "\(label)")
        }
    }

    @Test func waysToHealOneModelShareTheirCharts() {
        let blocks = Sample.healing(
            phases: Array(Sample.healingPhases.prefix(2)),
            after: .init(kl: 0.3, perplexity: 30))
        let ways: [(HealingResult, String?)] = [
            (Sample.healing(), "out/both"), (blocks, "out/blocks"),
        ]
        let evaluations = [
            Sample.evaluation(Sample.dense, perplexity: 20.5, parameters: 4_203_776),
            Sample.evaluation(
                Sample.small, against: Sample.dense, perplexity: 37, kl: 0.6, parameters: 2_932_001),
            Sample.evaluation(
                "out/both", against: Sample.dense, perplexity: 25, kl: 0.1, parameters: 2_932_001),
            Sample.evaluation(
                "out/blocks", against: Sample.dense, perplexity: 31, kl: 0.3,
                parameters: 2_932_001),
        ]
        func labels(_ report: Report) -> [String] {
            checkedPage(report).attributes.filter { $0.name == "aria-label" }.map(\.value)
        }
        let shown = labels(report(ways, evaluations: evaluations))
        for label in [
            "Held-out KL, nats per token: both from 0.593 to 0.101; blocks from 0.593 to 0.300",
            "Held-out perplexity, per token: both from 37.2 to 24.7; blocks from 37.2 to 30.0; "
                + "dense 20.6",
            "Perplexity on text.txt, before and after: both from 37.0 to 25.0; "
                + "blocks from 37.0 to 31.0; dense 20.5",
        ] {
            #expect(shown.contains(label), "\(label)")
        }
        // One alone is compared with nothing.
        #expect(!labels(report([ways[0]])).contains { $0.contains("before and after: both") })
    }

    @Test(arguments: [Double.nan, .infinity, -.infinity, 0, -1, .leastNonzeroMagnitude, 1e308])
    func anyNumberCanBeShown(value: Double) {
        let measurement = HealingResult.Measurement(kl: value, perplexity: value)
        var phases = [
            Sample.phase("layer 0", tokens: 10, heldOut: [value, nil, value]),
            Sample.phase("end to end", tokens: .max, heldOut: [], losses: [value]),
            Sample.phase(
                "end to end", tokens: 10, heldOut: [value, 1, value], losses: [value, value]),
            Sample.phase("layers 0-3", tokens: .min, heldOut: [nil]),
        ]
        phases[1].tokensPerSecond = value
        phases[2].seconds = value
        phases[2].points[1].tokens = .min
        phases[3].stepBacks = .max
        phases[3].peakDeviceBytes = .min
        var result = Sample.healing(phases: phases, after: measurement, compression: nil)
        result.before = measurement
        result.teacherPerplexity = value
        result.phases[2].points[1].perplexity = value
        result.parameters = .min
        result.bytes = .max
        result.seconds = value
        result.heldOutTokens = .min
        let shown = report([(result, "out/a"), (result, "out/b"), (result, nil)])
        _ = checkedPage(shown)
        for line in shown.table().split(separator: "\n") { #expect(line.count <= 80) }
        let empty = report([(Sample.healing(phases: [], compression: nil), nil)])
        #expect(checkedPage(empty).text.contains("Nothing."))
    }

    // MARK: Charts

    @Test(arguments: [
        ([0.6, 0.1], false, ["0", "0.2", "0.4", "0.6"]),
        ([37.2, 20.5], false, ["20", "25", "30", "35", "40"]),
        ([5, 0.02], true, ["0.01", "0.1", "1", "10"]),
        ([3, 3], false, ["0", "1", "2", "3"]), ([0, 0], false, ["0", "1"]),
        ([1, 1.0000000001], false, ["0", "0.5", "1"]),
    ])
    func axesSuitTheirValues(values: [Double], isLogarithmic: Bool, labels: [String]) throws {
        let axis = try #require(ValueAxis(values))
        #expect(axis.isLogarithmic == isLogarithmic)
        #expect(axis.ticks.map(\.label) == labels)
        #expect(axis.ticks.first?.share == 0)
        #expect(abs((axis.ticks.last?.share ?? 0) - 1) < 1e-9)
        for value in values { #expect((0...1).contains(axis.share(value))) }
    }

    @Test func longLinesAreThinnedOutAndEndWhereTheyEnd() {
        let points = (0..<10_000).map { (x: Double($0), y: 1.0, title: "") }
        let chart = LineChart(
            title: "t", horizontal: .tokens, values: "v",
            lines: [
                .init(label: "a", colorClass: "s1", points: points),
                .init(label: "b", colorClass: "s2", points: [(1, .nan, ""), (-1, 1, "")]),
            ])
        #expect(chart.drawable.count == 1)
        #expect((200...LineChart.mostPoints).contains(chart.drawable.first?.points.count ?? 0))
        #expect(chart.drawable.first?.points.last?.x == 9_999)
    }

    @Test(arguments: [
        (0.0, "0"), (500, "500"), (1_500, "1.5 K"), (20_000_000, "20 M"), (999_999, "1 M"),
    ])
    func tokensAreBrief(value: Double, text: String) {
        #expect(Figure.brief(value) == text)
    }
}
