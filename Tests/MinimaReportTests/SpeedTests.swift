import MinimaCore
import Testing

@testable import MinimaReport

extension Sample {
    /// Dense, compressed, and with a draft, one request and fifty.
    static var speed: SpeedResult {
        func row(
            _ configuration: SpeedResult.Configuration, _ requests: Int, _ tokens: Double
        ) -> SpeedResult.Row {
            var row = SpeedResult.Row(
                configuration: configuration, label: "qwen3 \(configuration)", requests: requests,
                tokensPerSecond: spread(tokens, 0.02), peakBytes: 68_000_000_000,
                weightBytes: 65_524_246_528)
            if requests == 1 { row.firstToken = spread(1.05) }
            if configuration == .speculation {
                row.acceptanceLength = 2.81
                row.simulatedLength = 2.8
                row.proposals = "3"
            }
            return row
        }
        return SpeedResult(
            version: "0.1.0", model: "qwen3-32b", device: "NVIDIA H200", dtype: "bfloat16",
            cacheType: "float8", method: .steps, context: 8_192, tokens: 128, seed: 0,
            command: "minima speed --shape qwen3-32b",
            rows: [
                row(.dense, 1, 60), row(.dense, 50, 32), row(.compressed, 1, 90),
                row(.compressed, 50, 36), row(.speculation, 1, 180), row(.speculation, 50, 48),
            ])
    }
}

extension Hostile {
    static func speed(_ text: String) -> SpeedResult {
        let values = [Double.nan, .infinity, -.infinity, 1e308, .leastNonzeroMagnitude, -3, 0]
        return SpeedResult(
            version: text, schema: .min, model: text, device: text, dtype: text, cacheType: text,
            method: .requests, context: .min, tokens: .max, seed: .max, command: text,
            rows: SpeedResult.Configuration.allCases.flatMap { configuration in
                values.map { value in
                    let spread = BenchResult.Spread(
                        median: value, lowest: -value, highest: value, repetitions: .min)
                    return SpeedResult.Row(
                        configuration: configuration, label: text,
                        requests: value > 0 ? .max : .min, tokensPerSecond: spread,
                        firstToken: spread, peakBytes: .min, weightBytes: .max,
                        acceptanceLength: value, simulatedLength: value, proposals: text)
                }
            })
    }
}

@Suite("Comparisons of speed")
struct SpeedTests {
    @Test func theTableStandsBesideThePaper() {
        #expect(
            Sample.speed.table() == """
                qwen3-32b on NVIDIA H200: random weights, 128 decode steps behind a prompt,
                8,192 tokens of prompt; bfloat16, keys and values float8

                1 request
                                   tokens/s  spread      ×  paper  in total   first      peak
                dense                 60.00  ±2.0 %                   60.00  1.05 s  68.00 GB
                compressed            90.00  ±2.0 %  1.50×  1.25×     90.00  1.05 s  68.00 GB
                compressed, draft     180.0  ±2.0 %  3.00×  1.88×     180.0  1.05 s  68.00 GB

                50 requests at a time
                                   tokens/s  spread      ×  paper  in total  first      peak
                dense                 32.00  ±2.0 %                    1600      –  68.00 GB
                compressed            36.00  ±2.0 %  1.13×  1.29×      1800      –  68.00 GB
                compressed, draft     48.00  ±2.0 %  1.50×  1.56×      2400      –  68.00 GB

                Tokens per step with the draft, 1 request: 2.81 simulated (3 proposed)
                Tokens per step with the draft, 50 requests at a time: 2.81 simulated (3
                proposed)

                """)
    }

    @Test func thePageDrawsWhatThePaperWouldGive() {
        let page = checkedPage(Report(title: "t", speeds: [Sample.speed]))
        #expect(page.text.contains("Speed as in the paper’s section 5.2"))
        #expect(page.text.contains("2.81 simulated (3 proposed)"))
        let html = Report(title: "t", speeds: [Sample.speed]).html()
        // Three bars for each number of requests; the dense run has no outline.
        #expect(html.components(of: "<svg class=\"s0\"") == 2)
        #expect(html.components(of: "<svg class=\"s1\"") == 2)
        #expect(html.components(of: "<svg class=\"s2\"") == 2)
        #expect(html.components(of: "class=\"outline\"") == 4)
        // Of 180, the largest: 75 / 40 times 60.
        #expect(html.contains("width=\"62.50%\" height=\"11\""))
        #expect(html.contains("width=\"33.33%\" height=\"10\""))
    }

    @Test func whatIsMissingIsNotDrawn() {
        var result = Sample.speed
        result.rows = []
        #expect(
            checkedPage(Report(title: "t", speeds: [result])).text.contains("Nothing was timed"))
        result.rows = [Sample.speed.rows[4]]
        let page = checkedPage(Report(title: "t", speeds: [result]))
        #expect(page.text.contains("compressed + speculation"))
        #expect(result.table().contains("180.0"))
        _ = Hostile.speed("x").table()
    }
}

extension String {
    /// How often `part` stands in it.
    fileprivate func components(of part: String) -> Int {
        var (count, rest) = (0, self[...])
        while let range = rest.firstRange(of: part) {
            count += 1
            rest = rest[range.upperBound...]
        }
        return count
    }
}
