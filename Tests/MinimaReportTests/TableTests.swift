import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct TableTests {
    @Test func oneModelBeforeAndAfter() {
        let report = Report(title: "t", evaluations: Sample.evaluations)
        #expect(
            report.table() == """
                text.txt: 12,288 tokens, windows of 1,024
                              parameters      bytes            perplexity    KL
                tiny (dense)  4.204 M         8.408 MB         20.512             –
                tiny-lowrank  2.932 M 0.697×  5.864 MB 0.697×  37.200 1.81×  0.5933

                ×: relative to the dense model.
                KL: mean KL(dense ‖ model) per predicted token, in nats.

                """)
    }

    @Test func severalTextsAndModels() {
        let tensorTrain = Sample.evaluation(
            "out/tt", against: Sample.dense, text: ["a/one.txt", "a/two.txt"],
            perplexity: .infinity, kl: .nan, parameters: 2_000_000)
        let report = Report(
            title: "t", evaluations: [tensorTrain] + Sample.evaluations.reversed())
        #expect(
            report.table() == """
                one.txt, two.txt: 12,288 tokens, windows of 1,024
                              parameters      bytes            perplexity  KL
                tiny (dense)  4.204 M         8.408 MB         –           –
                tt            2.000 M 0.476×  4.000 MB 0.476×  –           –

                text.txt: 12,288 tokens, windows of 1,024
                              parameters      bytes            perplexity    KL
                tiny (dense)  4.204 M         8.408 MB         20.512             –
                tiny-lowrank  2.932 M 0.697×  5.864 MB 0.697×  37.200 1.81×  0.5933

                ×: relative to the dense model.
                KL: mean KL(dense ‖ model) per predicted token, in nats.

                """)
    }

    @Test func sizesAloneWhenNothingWasEvaluated() {
        let report = Report(title: "t", compressions: [Sample.compression])
        #expect(
            report.table() == """
                Sizes; nothing was evaluated
                                           parameters      bytes            bits
                tiny (dense)               4.204 M         8.408 MB         16.0
                tiny, lowrank, ratio 0.35  2.932 M 0.697×  5.864 MB 0.697×  10.2

                tiny, lowrank, ratio 0.35: ratio 0.35
                  3 lowrank

                ×: relative to the dense model.
                bits: stored per weight of the linear layers.

                """)
    }

    @Test func nothingAtAll() {
        #expect(
            Report(title: "t").table()
                == "No model was inspected, analyzed, compressed, healed, evaluated or timed.\n")
    }

    @Test func repeatedMeasurementsSayWhereTheyRan() {
        let again = Sample.evaluation(
            Sample.dense, perplexity: 25, parameters: 4_203_776, device: "cuda:0")
        let table = Report(title: "t", evaluations: [again] + Sample.evaluations).table()
        #expect(table.contains("tiny, cpu float32 (dense)"))
        #expect(table.contains("tiny, cuda:0 float32 (dense)"))
        // The ratio is to the measurement on the same device.
        #expect(table.contains("37.200 1.81×"))
    }

    @Test func perplexitiesOverOtherTokensAreNotCompared() {
        var evaluations = Sample.evaluations
        evaluations[0].tokens = 12_000
        let table = Report(title: "t", evaluations: evaluations).table()
        #expect(table.contains("token counts differ"))
        #expect(!table.contains("1.81×"))
        #expect(table.contains("0.697×"))
    }

    @Test func anAblationHasItsRowsAndAVerdict() {
        #expect(
            Report(title: "t", ablations: [Sample.ablation]).table() == """
                ref at equal parameters, 65.0 %; perplexity on books-valid.txt
                                      kept  bits  predicted      KL  perplexity
                uniform ranks       65.0 %  10.4          –  0.6100      52.811
                + sensitivity       65.0 %  10.4      0.380  0.4100      44.112
                + mixed families *  65.0 %  10.4      0.300  0.3300      41.047
                only tt             65.0 %  10.4      0.440  0.4700      46.559
                only tucker         65.0 %  10.4      0.400  0.4300      44.913
                At 65.0 % of the linear parameters, + mixed families wins: KL 0.330 (mean of 2
                texts); the best tensor-network plan (tucker alone): 0.430; the best without
                tensor networks (+ sensitivity): 0.410; the baseline (uniform ranks): 0.610.

                ref at equal bytes, 10.4 bits; perplexity on books-valid.txt
                                      kept  bits  predicted         KL  perplexity
                uniform ranks       65.0 %  10.4          –     0.6100      52.811
                + quantised cores   99.0 %  10.4     0.0200    0.02100      31.082
                only int8 *        100.0 %  10.4   0.000500  0.0005000      30.514
                only tt            120.0 %  10.4      0.200     0.2100      36.845
                At 10.4 bits per linear weight, int8 alone wins: KL 0.000500 (mean of 2 texts);
                the best tensor-network plan (tt alone): 0.210; the baseline (uniform ranks):
                0.610.

                KL: mean KL(dense ‖ model) per predicted token, in nats.
                bits: stored per weight of the linear layers.
                *: the least KL, mean of all texts.

                """)
    }

    @Test func plansSayWhatTheyGave() {
        let plan = Sample.planned().plan
        #expect(
            Report(title: "t", plans: [plan]).table() == """
                plan for ref, ratio 0.35: ratio 0.35; predicted KL 0.310
                  9 int8 lowrank, 14 int4, 5 tucker, 10 tt, 6 blocks of tt, int4

                """)
        // Executed by a compression: told once.
        let both = Report(title: "t", compressions: [Sample.planned()], plans: [plan]).table()
        #expect(!both.contains("plan for"))
    }

    @Test(arguments: [1, 30, 60, 79, 200])
    func neverWiderThanATerminal(length: Int) {
        let name = String(repeating: "漢x", count: length) + "\u{1B}[31m\n"
        let report = Report(
            title: "t",
            evaluations: [
                Sample.evaluation(
                    name, perplexity: 1e300, parameters: .max / 2, tokens: .max),
                Sample.evaluation(
                    "\(name)-small", against: name, text: [name], perplexity: 1.23456e-7,
                    kl: -1.23456e-100, parameters: .min / 2),
                Sample.evaluation(
                    "\(name)-small", against: name, perplexity: 3.3e306, kl: 1e-9, parameters: 1,
                    tokens: .max),
            ], compressions: [Hostile.compression(name)], plans: [Hostile.plan(name)],
            ablations: [Hostile.ablation(name)], healings: [Hostile.healing(name)],
            benches: [Hostile.bench(name)])
        for table in [report.table(), Hostile.bench(name).table(), Hostile.costs(name).table()] {
            for line in table.unicodeScalars.split(separator: "\n") {
                #expect(VisibleText.columns(String(line)) <= 80, "\(String(line))")
                #expect(!line.contains("\u{1B}"))
            }
        }
    }
}
