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
                                              parameters      bytes
                tiny (dense)                  4.204 M         8.408 MB
                tiny, lowrank 35.0 % removed  2.932 M 0.697×  5.864 MB 0.697×

                ×: relative to the dense model.

                """)
    }

    @Test func nothingAtAll() {
        #expect(
            Report(title: "t").table() == "No model was inspected, compressed or evaluated.\n")
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
            ])
        for line in report.table().unicodeScalars.split(separator: "\n") {
            #expect(VisibleText.columns(String(line)) <= 80, "\(String(line))")
            #expect(!line.contains("\u{1B}"))
        }
    }
}
