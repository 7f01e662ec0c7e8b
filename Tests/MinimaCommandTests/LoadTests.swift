import Testing

@Suite("minima load")
struct LoadTests {
    @Test func refusesWhatMakesNoSense() throws {
        let url = "http://127.0.0.1:9"
        let cases: [(arguments: [String], code: Int32, says: String)] = [
            ([], 2, "<url>"), (["https://x"], 2, "socat"), (["ftp://x"], 2, "scheme"),
            ([url, "--rate", "2", "--concurrency", "3"], 2, "open loop"),
            ([url, "--rate", "0"], 2, "--rate"), ([url, "--concurrency", "0"], 2, "--concurrency"),
            ([url, "--requests", "0"], 2, "--requests"), ([url, "--duration=-1"], 2, "--duration"),
            ([url, "--prompt-tokens", "gamma:3"], 2, "lognormal"),
            ([url, "--answer-tokens", "uniform:9:3"], 2, "9 is more than 3"),
            ([url, "--slo", "ttft"], 2, "ttft:500"), ([url, "--kills", "2"], 2, "--soak"),
            ([url, "--soak", "9", "--kills", "2"], 2, "--command"),
            ([url, "--prompts", "/nowhere"], 1, "/nowhere"),
            ([url, "--api-key-file", "/nowhere"], 1, "/nowhere"), ([url], 1, "no connection"),
            ([url, "--soak", "9"], 1, "no connection"),
        ]
        for (arguments, code, says) in cases {
            let outcome = try Run(["load"] + arguments).wait()
            #expect(outcome.code == code, "\(arguments): \(outcome.errors)")
            #expect(outcome.errors.contains(says), "\(arguments): \(outcome.errors)")
            #expect(outcome.output.isEmpty)
        }
    }
}
