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

    /// The page, checked for what every page must be.
    private func page(_ report: Report) -> TagBalance {
        let html = report.html()
        let page = TagBalance(html)
        #expect(page.problems == [])
        #expect(page.elements.filter { $0 == "h1" }.count == 1)
        #expect(!page.elements.contains("script"))
        for scheme in ["http:", "https:", "url(", "@import", "file:", "NaN", " inf"] {
            #expect(!html.contains(scheme), "\(scheme)")
        }
        for attribute in page.attributes {
            #expect(!["src", "href", "style", "onclick", "onerror"].contains(attribute.name))
        }
        let ids = page.attributes.filter { $0.name == "id" }.map(\.value)
        #expect(Set(ids).count == ids.count)
        for label in page.attributes where label.name == "aria-labelledby" {
            #expect(ids.contains(label.value))
        }
        return page
    }

    @Test func everythingThatWasMeasuredIsShown() {
        let page = page(full)
        for text in [
            "−30.3 %", "4.204 M → 2.932 M", "+81.4 %", "20.512 → 37.200", "0.5933",
            "4,203,776", "2,932,001", "0.697×", "12,288 tokens, windows of 1,024", "2 lowrank",
            "12,288", "8,000", "0.651×", "model.layers.1.mlp.up_proj", "lm_head", "0.3100",
            "96 × 64", "text that the dense model wrote itself", "64 windows of 1,024 tokens",
            "9f86d081", "2 min 12 s", "35.0 %", "36.3 % (3,500,000 → 2,228,225)", "float32",
            "Once", "upon a time", "upon a hill", "temperature 0.8, seed 1", "0.1.0",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
    }

    @Test func chartsSayInWordsWhatTheyShow() {
        let page = page(full)
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
        let text = page(full).text
        let time = try #require(text.firstRange(of: "upon a time"))
        let hill = try #require(text.firstRange(of: "upon a hill"))
        #expect(time.lowerBound < hill.lowerBound)
    }

    @Test func onlyWhatIsThereHasASection() {
        func headings(_ report: Report) -> [String] {
            page(report).attributes.filter { $0.name == "id" }.map(\.value)
        }
        #expect(
            headings(full) == ["result", "comparison", "parts", "layers", "samples", "provenance"])
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
                == ["result", "comparison", "layers", "provenance"])
        #expect(
            page(Report(title: "t", compressions: full.compressions)).text
                .contains("Its effect on text was not measured."))
    }

    @Test func aHostileResultCannotLeaveItsPlace() {
        let hostile =
            "</bdi></title></style><script>alert(1)</script><img src=x onerror='a'>\"'&amp;\u{0}"
            + "\u{202E}\u{2069}\r\nשלום\u{1B}[31m]]><!--"
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
            compressions: [
                CompressionResult(
                    version: hostile, parent: hostile, parentHashes: [hostile: hostile],
                    format: hostile, ratio: .nan, device: hostile, dtype: hostile, torch: hostile,
                    calibration: .init(
                        sources: [hostile], samples: .min, context: .max, seed: .max),
                    linearParametersBefore: 0, linearParametersAfter: .min,
                    parametersBefore: .min, parametersAfter: .max, bytesBefore: 0,
                    bytesAfter: .max, seconds: -.infinity,
                    modules: [
                        .init(
                            name: "\(hostile).3.\(hostile)", outputs: .max, inputs: .max,
                            spec: FormatSpec(
                                format: hostile, outputModes: [.min], inputModes: [],
                                ranks: [.max]),
                            parameters: .min, weightError: .nan, outputError: 1e308),
                        .init(
                            name: "layers.99999999999999999999.x", outputs: 0, inputs: 0,
                            spec: FormatSpec(format: ""), parameters: 0,
                            weightError: .infinity, outputError: -.infinity),
                        .init(
                            name: "layers.4.x", outputs: 1, inputs: 1,
                            spec: FormatSpec(format: ""), parameters: 0, weightError: 0,
                            outputError: 5e-324),
                    ])
            ],
            generations: [
                GenerationResult(
                    model: hostile, prompt: hostile, text: hostile, promptTokens: .min,
                    tokens: .min, finishReason: hostile, tokensPerSecond: .nan,
                    temperature: .nan, seed: .max)
            ])
        let page = page(report)
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
