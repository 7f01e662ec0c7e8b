import Foundation
import MinimaTestSupport
import Testing

/// `minima draft` as a user runs it.
@Suite("Drafts on the command line")
struct DraftTests {
    private let scratch: Scratch
    private let text: String

    init() throws {
        scratch = try Scratch()
        let words = try String(contentsOfFile: exampleText, encoding: .utf8)
        text = try scratch.write(Array(String(repeating: words, count: 4).utf8), to: "text.txt")
    }

    private func arguments(_ out: String, _ more: String...) -> [String] {
        [
            "draft", "train", exampleModel, "--text", text, "--out", "\(scratch.path)/\(out)",
            "--device", "cpu", "--threads", "1", "--window", "32", "--batch", "8", "--tokens",
            "6000", "--vocabulary", "512", "--unroll", "3",
        ] + more
    }

    private func file(_ name: String) throws -> Data {
        try Data(contentsOf: URL(fileURLWithPath: "\(scratch.path)/\(name)"))
    }

    private func length(_ result: [String: Any], _ when: String) -> Double {
        (result[when] as? [String: Any])?["length"] as? Double ?? .nan
    }

    @Test("a draft trains, says how often it is right, and takes fewer bits")
    func trains() throws {
        let outcome = try Run(arguments("draft", "--json")).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        let result = try outcome.json()
        #expect(result["kind"] as? String == "draft")
        #expect(result["draft_vocabulary"] as? Int == 512)
        #expect(length(result, "after") > length(result, "before"))
        for part in ["acceptance", "τ", "MiB beside the weights", "tokens/s"] {
            #expect(outcome.errors.contains(part), "\(part): \(outcome.errors)")
        }
        #expect(scratch.entries == ["draft", "text.txt"])
        let names = try FileManager.default.contentsOfDirectory(atPath: "\(scratch.path)/draft")
        #expect(names.sorted() == ["config.json", "minima.json", "model.safetensors"])

        let before = try file("draft/model.safetensors").count
        let small = "\(scratch.path)/small"
        let compressed = try minima(
            "draft", "compress", "\(scratch.path)/draft", "--bits", "4", "--out", small,
            "--device", "cpu")
        #expect(compressed.code == 0, "\(compressed.errors)")
        #expect(compressed.output.contains("weights' error"))
        #expect(try file("small/model.safetensors").count < before / 3)
        let float8 = try minima(
            "draft", "compress", "\(scratch.path)/draft", "--bits", "8", "--levels", "float8",
            "--out", "\(scratch.path)/float8", "--device", "cpu")
        #expect(float8.code == 0, "\(float8.errors)")
        let levels = try String(decoding: file("float8/config.json"), as: UTF8.self)
        #expect(levels.contains("\"float8\""), "\(levels)")
        let factored = try minima(
            "draft", "compress", "\(scratch.path)/draft", "--ratio", "0.4", "--out",
            "\(scratch.path)/factored", "--device", "cpu", "--json")
        #expect(factored.code == 0, "\(factored.errors)")
        #expect(try factored.json()["kind"] as? String == "draft-compression")
        let config = try String(decoding: file("factored/config.json"), as: UTF8.self)
        #expect(config.contains("interpolative"))
    }

    @Test("text that the model writes", arguments: ["self", "regenerated"])
    func ownText(kind: String) throws {
        var arguments = arguments("draft", "--self-windows", "24", "--json")
        if kind == "self" {
            arguments[4] = "self"
        } else {
            arguments += ["--regenerate", "8", "--temperature", "0", "--held-out", text]
        }
        let outcome = try Run(arguments).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(outcome.errors.contains("sample"))
        let texts = try #require(try outcome.json()["texts"] as? [[String: Any]])
        #expect(texts.count == 1 && texts[0]["documents"] as? Int == 24)
        #expect(texts[0]["tokens"] as? Int == 24 * 32 + 1)
        #expect((texts[0]["name"] as? String)?.contains(kind) == true)
    }

    @Test("a run that is killed goes on to the same bits") func killedRunsGoOn() throws {
        let whole = try Run(arguments("whole", "--checkpoint-minutes", "0.00001")).wait()
        #expect(whole.code == 0, "\(whole.errors)")
        let work = "\(scratch.path)/parts.minima-work"
        for place in ["a", "b"] {
            let run = try Run(arguments("parts", "--checkpoint-minutes", "0.00001"))
            #expect(
                run.wait {
                    FileManager.default.fileExists(atPath: "\(work)/draft.state-\(place).json")
                })
            run.send(SIGKILL)
            _ = run.wait()
            #expect(!scratch.entries.contains("parts"))
        }
        let rest = try Run(arguments("parts", "--checkpoint-minutes", "0.00001")).wait()
        #expect(rest.code == 0, "\(rest.errors)")
        for name in ["model.safetensors", "config.json"] {
            #expect(try file("parts/\(name)") == file("whole/\(name)"))
        }
        #expect(scratch.entries == ["parts", "text.txt", "whole"])
    }

    @Test("Ctrl-C ends it, and the next run goes on") func interrupts() throws {
        let run = try Run(arguments("draft", "--tokens", "6000000"))
        #expect(run.waitForError("acceptance"))
        run.send(SIGINT)
        let outcome = run.wait()
        #expect(outcome.code == 130 && outcome.errors.contains("interrupted"))
        #expect(!scratch.entries.contains("draft"))
    }

    @Test("what cannot be done is said") func failures() throws {
        let model = try scratch.copy(goldenModel("qwen3-gqa4-tied-v5"), to: "model")
        let short = try scratch.write(Array("She said".utf8), to: "short.txt")
        let compress = ["draft", "compress", "x", "--ratio", "0.3", "--format"]
        let cases: [([String], Int32, String)] = [
            (["draft", "train", exampleModel, "--out", "x"], 2, "--text"),
            (arguments("x", "--unroll", "8"), 2, "--unroll"),
            (arguments("x", "--learning-rate", "1"), 2, "--learning-rate"),
            (arguments("x", "--vocabulary", "0"), 2, "--vocabulary"),
            (arguments("x", "--window", "9000"), 1, "8192"),
            (arguments("x", "--window", "4"), 1, "too short"),
            (arguments("x", "--regenerate", "32"), 2, "--regenerate"),
            (arguments("x", "--held-out", "\(scratch.path)/nothing"), 1, "nothing"),
            (arguments("x", "--regenerate", "8", "--held-out", short), 1, "short.txt has"),
            (["draft", "compress", model, "--out", "x"], 2, "--bits"),
            (["draft", "compress", model, "--bits", "7", "--out", "x"], 2, "--bits"),
            (compress + ["y", "--out", "x"], 2, "\"y\""),
            (compress + ["sum", "--out", "x"], 2, "--format: sum"),
            (
                ["draft", "compress", "x", "--bits", "4", "--levels", "float8", "--out", "x"], 2,
                "--bits"
            ),
            (["draft", "compress", model, "--bits", "4", "--out", "x"], 1, "EAGLE-3"),
            (["draft", "compress", exampleText, "--bits", "4", "--out", "x"], 1, "a file"),
        ]
        for (arguments, code, hint) in cases {
            let outcome = try Run(arguments).wait()
            #expect(outcome.code == code, "\(arguments): \(outcome.errors)")
            #expect(outcome.errors.contains(hint), "\(arguments): \(outcome.errors)")
        }
        #expect(scratch.entries == ["model", "short.txt", "text.txt"])
    }
}
