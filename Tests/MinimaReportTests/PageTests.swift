import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct PageTests {
    private let full = Report(
        title: "Tiny",
        inspections: [
            Sample.inspection(
                Sample.dense, format: "dense", upProjection: 12_288, parameters: 4_203_776),
            Sample.inspection(
                Sample.small, format: "lowrank", upProjection: 8_000, parameters: 2_932_001),
        ], evaluations: Sample.evaluations, compressions: [Sample.compression],
        generations: [
            Sample.generation(Sample.small, text: " upon a hill"),
            Sample.generation(Sample.dense, text: " upon a time"),
        ])

    @Test func everythingThatWasMeasuredIsShown() {
        let page = checkedPage(full)
        for text in [
            "−30.3 %", "4.204 M → 2.932 M", "+81.4 %", "20.512 → 37.200", "0.5933",
            "4,203,776", "2,932,001", "0.697×", "12,288 tokens, windows of 1,024", "2 lowrank",
            "12,288", "8,000", "0.651×", "model.layers.1.mlp.up_proj", "lm_head", "0.3100",
            "96 × 64", "text that the dense model wrote itself", "64 windows of 1,024 tokens",
            "9f86d081", "2 min 12 s", "ratio 0.35", "36.3 % (3,500,000 → 2,228,225)", "float32",
            "Once", "upon a time", "upon a hill", "temperature 0.8, seed 1", "0.1.0",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
    }

    @Test func chartsSayInWordsWhatTheyShow() {
        let page = checkedPage(full)
        let labels = page.attributes.filter { $0.name == "aria-label" }.map(\.value)
        #expect(
            labels.contains(
                "Relative output error of mlp.up_proj, layers 0 to 1: "
                    + "tiny-lowrank from 0.125 to 0.250"))
        let widths = page.attributes.filter { $0.name == "width" && $0.value != "100%" }
        #expect(widths.map(\.value).prefix(4) == ["8.33%", "8.33%", "100.00%", "65.10%"])
        #expect(page.elements.filter { $0 == "caption" }.count >= 4)
    }

    @Test func theDenseTextComesFirst() throws {
        let text = checkedPage(full).text
        let time = try #require(text.firstRange(of: "upon a time"))
        let hill = try #require(text.firstRange(of: "upon a hill"))
        #expect(time.lowerBound < hill.lowerBound)
    }

    @Test func onlyWhatIsThereHasASection() {
        func headings(_ report: Report) -> [String] {
            checkedPage(report).attributes.filter { $0.name == "id" }.map(\.value)
        }
        #expect(
            headings(full) == [
                "result", "answers", "comparison", "parts", "allocation", "layers", "samples",
                "provenance",
            ])
        #expect(headings(Report(title: "t")) == [])
        #expect(headings(Report(title: "t", generations: full.generations)) == ["samples"])
        #expect(
            headings(Report(title: "t", evaluations: full.evaluations))
                == ["result", "comparison", "provenance"])
        #expect(
            headings(Report(title: "t", evaluations: [Sample.evaluations[0]]))
                == ["comparison", "provenance"])
        #expect(
            headings(Report(title: "t", inspections: full.inspections))
                == ["comparison", "parts", "provenance"])
        #expect(
            headings(Report(title: "t", compressions: full.compressions))
                == ["result", "answers", "comparison", "allocation", "layers", "provenance"])
        #expect(
            headings(Report(title: "t", analyses: [Sample.analysis()]))
                == ["comparison", "sensitivity", "predictor", "provenance"])
        #expect(
            headings(Report(title: "t", plans: [Sample.planned().plan]))
                == ["answers", "allocation", "provenance"])
        #expect(
            headings(Report(title: "t", ablations: [Sample.ablation]))
                == ["result", "answers", "ablation", "provenance"])
        #expect(
            checkedPage(Report(title: "t", compressions: full.compressions)).text
                .contains("Its effect on text was not measured."))
    }

    @Test func aHostileResultCannotLeaveItsPlace() {
        let hostile = Hostile.text
        let report = Report(
            title: hostile,
            inspections: [
                InspectionResult(
                    model: hostile, family: hostile, architecture: [hostile: hostile], files: -1,
                    dtypes: [hostile: .min], parameters: .max, bytes: .min,
                    parts: [
                        .init(
                            name: hostile, modules: .max, formats: [hostile: .min],
                            parameters: .min, bytes: .max),
                        .init(
                            name: "b", modules: 0, formats: [:], parameters: .max, bytes: 0),
                    ])
            ],
            evaluations: [
                EvaluationResult(
                    model: hostile, against: hostile + "2", text: [hostile], context: .min,
                    tokens: .max, perplexity: .nan, kl: .infinity, parameters: .max, bytes: .min,
                    device: hostile, dtype: hostile, seconds: .infinity, tokensPerSecond: .nan)
            ],
            compressions: [Hostile.compression(hostile)],
            generations: [
                GenerationResult(
                    model: hostile, prompt: hostile, text: hostile, promptTokens: .min,
                    tokens: .min, finishReason: hostile, tokensPerSecond: .nan,
                    temperature: .nan, seed: .max)
            ], analyses: [Hostile.analysis(hostile)], plans: [Hostile.plan(hostile)],
            ablations: [Hostile.ablation(hostile)],
            healings: [Hostile.healing(hostile), Hostile.healing(hostile)],
            benches: [Hostile.bench(hostile)], costs: [Hostile.costs(hostile)],
            speeds: [Hostile.speed(hostile)])
        let page = checkedPage(report)
        #expect(!page.elements.contains("img"))
        #expect(page.text.contains("<script>alert(1)</script>"))
        for scalar in report.html().unicodeScalars {
            #expect(!["\u{0}", "\u{1B}", "\r", "\u{202E}", "\u{2069}"].contains(scalar))
        }
    }

    @Test func expertsOfALayerAreOnePoint() {
        let chart = LayerChart.all([
            (
                Lineage.Series(label: "a", color: 1),
                [
                    Sample.module("model.layers.2.mlp.experts.0.up_proj", outputError: 0.1),
                    Sample.module("model.layers.2.mlp.experts.1.up_proj", outputError: 0.3),
                    Sample.module("model.layers.0.mlp.experts.0.up_proj", outputError: 0.5),
                    Sample.module("lm_head", outputError: 0.5),
                    Sample.module("model.layers.1.mlp.experts.0.up_proj", outputError: .nan),
                    Sample.module("model.layers.3.mlp.experts.0.up_proj", outputError: .infinity),
                ]
            )
        ])
        #expect(chart.map(\.submodule) == ["mlp.experts.*.up_proj"])
        #expect(chart.first?.lines.first?.points.map(\.layer) == [0, 2])
        #expect(abs((chart.first?.lines.first?.points.last?.error ?? 0) - 0.2) < 1e-12)
    }
}
