import Foundation
import MinimaTestSupport
import Testing

/// `minima heal` as a user runs it.
@Suite("Healing on the command line")
struct HealTests {
    private let scratch: Scratch
    private let small: String
    private let text: String

    init() throws {
        scratch = try Scratch()
        small = "\(scratch.path)/small"
        let words = try String(contentsOfFile: exampleText, encoding: .utf8)
        // Windows enough for a few steps, and some to hold out.
        text = try scratch.write(Array(String(repeating: words, count: 6).utf8), to: "text.txt")
        let outcome = try minima(
            "compress", exampleModel, "--out", small, "--ratio", "0.3", "--format",
            "interpolative", "--calibration", exampleText, "--samples", "8", "--context", "64",
            "--device", "cpu")
        #expect(outcome.code == 0, "\(outcome.errors)")
    }

    private func arguments(_ out: String, _ more: String...) -> [String] {
        [
            "heal", small, "--teacher", exampleModel, "--text", text, "--out",
            "\(scratch.path)/\(out)", "--device", "cpu", "--context", "64", "--batch", "8",
            "--block-windows", "16", "--block-epochs", "1", "--tokens", "4096", "--threads", "1",
        ] + more
    }

    private func weights(_ out: String) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: "\(scratch.path)/\(out)/model.safetensors"))
    }

    private func kl(_ result: [String: Any], _ when: String) -> Double {
        (result[when] as? [String: Any])?["kl"] as? Double ?? .nan
    }

    @Test("a healed model is nearer to the dense one, and every other command takes it")
    func heals() throws {
        let outcome = try Run(arguments("healed", "--json")).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        let result = try outcome.json()
        #expect(result["kind"] as? String == "healing")
        #expect(kl(result, "after") < kl(result, "before"))
        #expect((result["phases"] as? [Any])?.count == 7)
        #expect(scratch.entries == ["healed", "small", "text.txt"])

        let healed = "\(scratch.path)/healed"
        func parameters(_ model: String) throws -> Int? {
            try minima("inspect", model, "--json").json()["parameters"] as? Int
        }
        #expect(try parameters(healed) == parameters(small))
        #expect(try minima("generate", healed, "--prompt", "The", "--max-tokens", "4").code == 0)
        var divergences: [Double] = []
        for model in [small, healed] {
            let measured = try minima(
                "eval", model, "--text", exampleText, "--against", exampleModel, "--json",
                "--device", "cpu")
            divergences.append(try #require(measured.json()["kl"] as? Double))
        }
        #expect(divergences[1] < divergences[0])
        let report = try minima(
            "report", healed, "--out", "\(scratch.path)/report.html", "--json")
        #expect(report.code == 0, "\(report.errors)")
        #expect(try report.json()["healings"] as? Int == 1)
        // A healed model may be healed again.
        let again = try Run([
            "heal", healed, "--teacher", exampleModel, "--text", text, "--out",
            "\(scratch.path)/again", "--device", "cpu", "--context", "64", "--batch", "8",
            "--no-blocks", "--tokens", "1024", "--lora", "2", "--keep-adapters",
        ]).wait()
        #expect(again.code == 0, "\(again.errors)")
        #expect(try minima("inspect", "\(scratch.path)/again").output.contains("sum"))
    }

    @Test("a run that is killed anywhere goes on to the same bits")
    func killedRunsGoOn() throws {
        let whole = try Run(arguments("whole", "--checkpoint-minutes", "0.00001")).wait()
        #expect(whole.code == 0, "\(whole.errors)")
        let work = "\(scratch.path)/parts.minima-work"
        for file in ["blocks-1-00001.json", "end-to-end.state-a.json", "end-to-end.state-b.json"] {
            let run = try Run(arguments("parts", "--checkpoint-minutes", "0.00001"))
            #expect(
                run.wait { FileManager.default.fileExists(atPath: "\(work)/\(file)") }, "\(file)")
            run.send(SIGKILL)
            _ = run.wait()
            #expect(!scratch.entries.contains("parts"))
        }
        let rest = try Run(arguments("parts", "--checkpoint-minutes", "0.00001")).wait()
        #expect(rest.code == 0, "\(rest.errors)")
        #expect(try weights("parts") == weights("whole"))
        #expect(scratch.entries == ["parts", "small", "text.txt", "whole"])
    }

    @Test("healed blocks serve whatever end-to-end phase follows")
    func optionsMayChange() throws {
        let run = try Run(arguments("parts"))
        let block = "\(scratch.path)/parts.minima-work/blocks-1-00001.json"
        #expect(run.wait { FileManager.default.fileExists(atPath: block) })
        run.send(SIGKILL)
        _ = run.wait()
        let rest = try Run(
            arguments("parts", "--no-end-to-end", "--checkpoint-minutes", "9", "--json")
        ).wait()
        #expect(rest.code == 0, "\(rest.errors)")
        #expect((try rest.json()["phases"] as? [Any])?.count == 6)
        let whole = try Run(arguments("whole", "--no-end-to-end")).wait()
        #expect(whole.code == 0, "\(whole.errors)")
        #expect(try weights("parts") == weights("whole"))
    }

    @Test("two processes heal as one does")
    func processes() throws {
        let one = try Run(arguments("one", "--json")).wait()
        #expect(one.code == 0, "\(one.errors)")
        let port = "\(Int.random(in: 30_000..<32_700))"
        let runs = try (0..<2).map { rank in
            try Run(
                arguments("two", "--json"),
                environment: [
                    "RANK": "\(rank)", "LOCAL_RANK": "\(rank)", "WORLD_SIZE": "2",
                    "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port,
                ])
        }
        let outcomes = runs.map { $0.wait() }
        #expect(outcomes.allSatisfy { $0.code == 0 }, "\(outcomes.map(\.errors))")
        #expect(outcomes[1].output.isEmpty)
        let (single, both) = (try one.json(), try outcomes[0].json())
        #expect(both["processes"] as? Int == 2)
        // Sums in another order, through 15 steps of optimisers.
        #expect(abs(kl(both, "after") / kl(single, "after") - 1) < 0.01)
    }

    @Test("what cannot be healed is said")
    func failures() throws {
        let bad = try scratch.write(
            Array("{\"text\": \"fine\"}\n{\"prompt\": \"no completion\"}\n".utf8), to: "bad.jsonl")
        let packed = try scratch.write([0xFD, 0x37, 0x7A, 0x58, 0x5A, 0x00, 1], to: "text.xz")
        let cases: [([String], Int32, String)] = [
            (["heal", small, "--teacher", exampleModel, "--text", bad, "--out", "x"], 1, "line 2"),
            (["heal", small, "--teacher", exampleModel, "--text", packed, "--out", "x"], 1, "xz"),
            (["heal", small, "--teacher", small, "--text", text, "--out", "x"], 1, "--teacher"),
            (
                ["heal", exampleModel, "--teacher", exampleModel, "--text", text, "--out", "x"], 1,
                "dense"
            ),
            (["heal", small, "--teacher", exampleModel, "--out", "x"], 2, "--text"),
            (arguments("x", "--no-blocks", "--no-end-to-end"), 2, "nothing to do"),
            (arguments("x", "--train", "core", "--lora", "4"), 2, "--lora"),
            (arguments("x", "--optimiser", "sgd"), 2, "muon"),
        ]
        for (arguments, code, hint) in cases {
            let outcome = try Run(arguments).wait()
            #expect(outcome.code == code, "\(arguments): \(outcome.errors)")
            #expect(outcome.errors.contains(hint), "\(outcome.errors)")
        }
        #expect(scratch.entries == ["bad.jsonl", "small", "text.txt", "text.xz"])
    }
}
