import MinimaCore
import Testing

@Suite("Accounts of speed")
struct SpeedResultTests {
    private func row(
        _ configuration: SpeedResult.Configuration, _ requests: Int, _ tokens: Double
    ) -> SpeedResult.Row {
        .init(
            configuration: configuration, label: "m", requests: requests,
            tokensPerSecond: .init(
                median: tokens, lowest: tokens, highest: tokens, repetitions: 3), weightBytes: 7)
    }

    private func result(_ rows: [SpeedResult.Row]) -> SpeedResult {
        SpeedResult(
            version: "0.1.0", model: "m", device: "CPU", dtype: "float32", cacheType: "float32",
            method: .requests, context: 128, tokens: 32, seed: .max, command: "minima speed",
            rows: rows)
    }

    @Test func ratiosAreOfAsManyRequests() {
        let result = result([
            row(.dense, 1, 40), row(.compressed, 1, 60), row(.dense, 8, 10),
            row(.speculation, 8, 25), row(.compressed, 50, 9),
        ])
        #expect(result.rows.map { result.ratio($0) } == [nil, 1.5, nil, 2.5, nil])
        #expect(result.requests == [1, 8, 50])
        #expect(result.rows[3].totalTokensPerSecond == 200)
        let zero = self.result([row(.dense, 1, 0), row(.compressed, 1, 2)])
        #expect(zero.ratio(zero.rows[1]) == nil)
    }

    /// Section 5.2: 40, 50 and 75 tokens/s at one request, 34, 44 and 53 at fifty.
    @Test func thePapersRatios() {
        #expect(SpeedResult.paperRatio(.compressed, requests: 1) == 1.25)
        #expect(SpeedResult.paperRatio(.speculation, requests: 1) == 1.875)
        #expect(SpeedResult.paperRatio(.compressed, requests: 50) == 44.0 / 34)
        #expect(SpeedResult.paperRatio(.speculation, requests: 50) == 53.0 / 34)
        #expect(SpeedResult.paperRatio(.dense, requests: 1) == nil)
        #expect(SpeedResult.paperRatio(.compressed, requests: 8) == nil)
    }

    @Test func jsonIsSnakeCaseAndReadsBack() throws {
        var full = row(.speculation, 50, 53)
        full.firstToken = full.tokensPerSecond
        full.peakBytes = 1 << 40
        full.acceptanceLength = 2.5
        full.simulatedLength = 2.8
        full.proposals = "auto"
        let result = result([row(.dense, 50, 34), full])
        let text = try result.json()
        #expect(try SpeedResult(json: text) == result)
        let json = try JSON(parsing: text)
        #expect(json["kind"]?.string == "speed")
        for name in ["cache_type", "schema", "command", "method", "context", "tokens", "seed"] {
            #expect(json[name] != nil, "\(name)")
        }
        let last = json["rows"]?.array?.last
        for name in [
            "configuration", "label", "requests", "tokens_per_second", "first_token", "peak_bytes",
            "weight_bytes", "acceptance_length", "simulated_length", "proposals",
        ] {
            #expect(last?[name] != nil, "\(name)")
        }
        #expect(throws: (any Error).self) {
            try SpeedResult(json: text.replacing("\"speculation\"", with: "\"magic\""))
        }
    }
}
