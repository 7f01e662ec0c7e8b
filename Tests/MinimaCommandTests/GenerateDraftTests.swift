import Foundation
import MinimaTestSupport
import Testing

/// `minima generate --draft` as a user runs it: what comes out is what comes out without.
@Suite("Generation with a draft from the command line")
struct GenerateDraftTests {
    private let scratch: Scratch

    init() throws {
        scratch = try Scratch()
    }

    private func generate(_ more: [String]) throws -> Outcome {
        try Run(
            ["generate", exampleModel, "--device", "cpu", "--threads", "1", "--prompt", "She said"]
                + more
        ).wait()
    }

    /// The result of a run with `--json`.
    private func result(_ more: [String]) throws -> [String: Any] {
        let outcome = try generate(more + ["--json", "--logprobs", "0"])
        #expect(outcome.code == 0, "\(outcome.errors)")
        return try outcome.json()
    }

    private func tokens(_ result: [String: Any]) throws -> [Int] {
        try #require(result["logprobs"] as? [[String: Any]]).compactMap { $0["id"] as? Int }
    }

    private func trainedDraft() throws -> String {
        let words = try String(contentsOfFile: exampleText, encoding: .utf8)
        let text = try scratch.write(
            Array(String(repeating: words, count: 4).utf8), to: "text.txt")
        let draft = "\(scratch.path)/draft"
        let outcome = try minima(
            "draft", "train", exampleModel, "--text", text, "--out", draft, "--device", "cpu",
            "--threads", "1", "--window", "32", "--batch", "8", "--tokens", "6000", "--vocabulary",
            "512", "--unroll", "3")
        #expect(outcome.code == 0, "\(outcome.errors)")
        return draft
    }

    @Test("the tokens are those without a draft") func sameTokens() throws {
        let choices = [
            ["--max-tokens", "96"],
            [
                "--max-tokens", "48", "--temperature", "0.8", "--top-p", "0.9", "--seed", "7",
                "--repetition-penalty", "1.1",
            ],
        ]
        let head = try trainedDraft()
        let drafts = [["ngram"], [head], [head, "--draft-tree", "3"], [exampleModel]]
        for choice in choices {
            let plain = try result(choice)
            #expect(plain["speculation"] == nil)
            for draft in drafts {
                let found = try result(choice + ["--draft"] + draft + ["--speculate", "3"])
                #expect(try tokens(found) == tokens(plain), "\(draft), \(choice)")
                #expect(found["text"] as? String == plain["text"] as? String)
                let speculation = try #require(found["speculation"] as? [String: Any])
                #expect(speculation["draft"] as? String == draft[0])
                let length = try #require(speculation["acceptance_length"] as? Double)
                #expect((1...4).contains(length))
                // A model agrees with itself, up to the order of its sums.
                if draft[0] == exampleModel { #expect(length > 3, "\(choice)") }
            }
        }
    }

    @Test("how many are proposed") func counts() throws {
        let greedy = ["--max-tokens", "64"]
        let plain = try tokens(result(greedy))
        let off = try result(greedy + ["--draft", "ngram", "--speculate", "off"])
        #expect(try tokens(off) == plain && off["speculation"] == nil)
        let automatic = try result(greedy + ["--draft", "ngram"])
        #expect(try tokens(automatic) == plain && automatic["speculation"] != nil)
        let fixed = try result(
            greedy + ["--draft", "ngram", "--speculate", "2", "--deterministic"])
        #expect(try tokens(fixed) == plain)
        // The text is alone on the standard output, what was accepted on the other.
        let shown = try generate(greedy + ["--draft", "ngram", "--speculate", "2"])
        #expect(shown.output == "\(try #require(fixed["text"] as? String))\n")
        #expect(shown.errors.contains("tokens per step with up to 2 proposed"), "\(shown.errors)")
    }

    @Test("what cannot be done is said") func failures() throws {
        let foreign = try scratch.copy(goldenModel("qwen3-gqa4-tied-v5"), to: "model")
        let head = "\(packageFolder())/Tests/Goldens/draft/authors"
        let cases: [([String], Int32, String)] = [
            (["--speculate", "3"], 2, "--draft"),
            (["--draft-tree", "3"], 2, "--draft"),
            (["--draft", "ngram", "--draft-tree", "3"], 1, "--draft-tree"),
            (["--draft", "ngram", "--draft-tree", "9"], 2, "--draft-tree"),
            (["--draft", "ngram", "--speculate", "16"], 2, "--speculate"),
            (["--draft", "ngram", "--speculate", "-1"], 2, "--speculate"),
            (["--draft", "ngram", "--deterministic"], 2, "--speculate a number"),
            (["--draft", "\(scratch.path)/nothing"], 1, "or ngram"),
            (["--draft", foreign], 1, "vocabulary"),
            (["--draft", head], 1, "a hidden size of 24"),
        ]
        for (arguments, code, hint) in cases {
            let outcome = try generate(arguments)
            #expect(outcome.code == code && outcome.output.isEmpty, "\(arguments)")
            #expect(outcome.errors.contains(hint), "\(arguments): \(outcome.errors)")
        }
    }

    @Test func memoryIsExplained() throws {
        let outcome = try Run([
            "generate", exampleModel, "--device", "cpu", "--dtype", "bfloat16", "--draft",
            exampleModel, "--explain-memory",
        ]).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        // As much again: 1,536 bytes of each token, see GenerateTests.
        #expect(outcome.output.contains("of which the draft"), "\(outcome.output)")
        #expect(outcome.output.contains("pages of 64 tokens, 0.2 MiB each"), "\(outcome.output)")
    }
}
