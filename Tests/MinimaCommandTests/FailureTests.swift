import Foundation
import MinimaTestSupport
import Testing

@Suite("Failures exit with 1, one clear line and nothing half-written")
struct FailureTests {
    private func expectFailure(
        _ arguments: [String], _ hints: String..., environment: [String: String] = [:]
    ) throws {
        let outcome = try Run(arguments, environment: environment).wait()
        #expect(outcome.code == 1, "\(outcome.errors)")
        #expect(outcome.output.isEmpty)
        #expect(outcome.errors.contains("minima: error: "))
        for hint in hints { #expect(outcome.errors.contains(hint), "\(outcome.errors)") }
    }

    private func eval(_ model: String, _ text: String = exampleText) -> [String] {
        ["eval", model, "--text", text, "--context", "64", "--device", "cpu"]
    }

    @Test func noSuchModel() throws {
        try expectFailure(["inspect", "/no/such/model"], "/no/such/model", "no such directory")
        try expectFailure(eval("/no/such/model"), "/no/such/model")
    }

    @Test func badText() throws {
        let scratch = try Scratch()
        try expectFailure(eval(exampleModel, "/no/text.txt"), "/no/text.txt", "No such file")
        let latin = try scratch.write(Array("na".utf8) + [0xEF] + Array("ve".utf8), to: "l.txt")
        try expectFailure(eval(exampleModel, latin), "l.txt", "not UTF-8 at byte 2")
        let empty = try scratch.write([], to: "empty.txt")
        try expectFailure(eval(exampleModel, empty), "at least 2 tokens")
        try expectFailure(
            [
                "compress", exampleModel, "--out", "\(scratch.path)/x", "--ratio", "0.3",
                "--calibration", empty, "--device", "cpu",
            ], "0 tokens do not fill one window")
        #expect(scratch.entries == ["empty.txt", "l.txt"])
    }

    @Test func damagedWeights() throws {
        let scratch = try Scratch()
        let model = try scratch.copy(exampleModel, to: "model")
        let weights = URL(fileURLWithPath: "\(model)/model.safetensors")
        let bytes = try Data(contentsOf: weights)
        try bytes.prefix(bytes.count - 10).write(to: weights)
        try expectFailure(["inspect", model], "model.safetensors", "download or copy it again")
        try Data([255, 255, 255, 255, 255, 255, 255, 127]).write(to: weights)
        try expectFailure(["inspect", model], "model.safetensors")
    }

    @Test func weightsThatAreNotFinite() throws {
        let scratch = try Scratch()
        let model = try scratch.copy(exampleModel, to: "model")
        let weights = URL(fileURLWithPath: "\(model)/model.safetensors")
        var bytes = try Data(contentsOf: weights)
        // The last value of the last tensor, the final norm: a bfloat16 NaN.
        bytes.replaceSubrange(bytes.count - 2..<bytes.count, with: [0xC0, 0x7F])
        try bytes.write(to: weights)
        try expectFailure(eval(model), "not finite")
        for temperature in ["0", "1"] {
            try expectFailure(
                [
                    "generate", model, "--prompt", "x", "--temperature", temperature, "--device",
                    "cpu",
                ],
                "NaN")
        }
        try expectFailure(["inspect", model, "--check-finite"], "model.norm.weight")
        try expectFailure(
            [
                "compress", model, "--out", "\(scratch.path)/x", "--ratio", "0.3",
                "--calibration", "self", "--samples", "2", "--device", "cpu",
            ], "NaN")
        #expect(scratch.entries == ["model"])
    }

    @Test func wrongTensors() throws {
        let scratch = try Scratch()
        let model = try scratch.copy(exampleModel, to: "model")
        let path = "\(model)/config.json"
        let config = try String(contentsOfFile: path, encoding: .utf8)
        func rewrite(_ old: String, _ new: String) throws {
            #expect(config.contains(old))
            try config.replacingOccurrences(of: old, with: new).write(
                toFile: path, atomically: true, encoding: .utf8)
        }
        try rewrite("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 7")
        try expectFailure(eval(model), "missing", "model.layers.6.")
        try rewrite("\"num_hidden_layers\": 6", "\"num_hidden_layers\": 5")
        try expectFailure(eval(model), "unexpected", "model.layers.5.")
        try rewrite("\"hidden_size\": 192", "\"hidden_size\": 191")
        try expectFailure(eval(model), "[8192, 192]", "191")
        try rewrite("\"model_type\": \"qwen3\"", "\"model_type\": \"mamba\"")
        try expectFailure(eval(model), "mamba", "qwen3")
        try rewrite("\"hidden_act\": \"silu\"", "\"hidden_act\": \"relu\"")
        try expectFailure(eval(model), "hidden_act", "relu")
        try rewrite(
            "\"hidden_act\": \"silu\"",
            "\"hidden_act\": \"silu\", \"quantization_config\": {\"quant_method\": \"gptq\"}")
        try expectFailure(eval(model), "quant_method", "gptq")
    }

    @Test func missingTokenizerOrTemplate() throws {
        try expectFailure(eval(goldenModel("llama-linear-v4")), "tokenizer.json")
        let scratch = try Scratch()
        let model = try scratch.copy(exampleModel, to: "model")
        try FileManager.default.removeItem(atPath: "\(model)/chat_template.jinja")
        try expectFailure(
            ["generate", model, "--prompt", "x", "--chat", "--device", "cpu"], "chat template")
    }

    @Test func outputInTheWay() throws {
        let scratch = try Scratch()
        let taken = try scratch.copy(goldenModel("llama-linear-v4"), to: "taken")
        try expectFailure(
            [
                "compress", exampleModel, "--out", taken, "--ratio", "0.3", "--calibration",
                exampleText, "--context", "64", "--device", "cpu",
            ], "taken")
        #expect(FileManager.default.fileExists(atPath: "\(taken)/config.json"))
        #expect(scratch.entries == ["taken"])
    }

    @Test func promptBeyondTheContext() throws {
        try expectFailure(
            [
                "generate", exampleModel, "--prompt", String(repeating: "word ", count: 9000),
                "--device", "cpu",
            ], "8192", "context")
    }

    @Test func missingLibtorch() throws {
        try expectFailure(
            eval(exampleModel), "2.11.0", "MINIMA_TORCH",
            environment: ["MINIMA_TORCH": "/no/torch"])
        // What does not compute does not need it.
        let inspect = try minima("inspect", exampleModel, environment: ["MINIMA_TORCH": "/no"])
        #expect(inspect.code == 0)
    }

    @Test func outputThatCannotBeWritten() throws {
        let full = try minima("inspect", exampleModel, outputTo: "/dev/full")
        #expect(full.code == 1)
        #expect(full.errors.contains("standard output cannot be written"))
    }

    @Test func missingDevice() throws {
        try expectFailure(
            ["eval", exampleModel, "--text", exampleText, "--device", "cuda:99"], "cuda:99")
    }

    @Test func reportOfSomethingElse() throws {
        let scratch = try Scratch()
        let file = try scratch.write(Array("{\"a\": 1}".utf8), to: "a.json")
        try expectFailure(["report", file, "--out", "\(scratch.path)/r.html"], "a.json")
        #expect(scratch.entries == ["a.json"])
        // Neither an input nor a device is overwritten.
        let result = try scratch.write(
            Array(try minima("inspect", exampleModel, "--json").output.utf8), to: "i.json")
        #expect(try minima("report", result, "--out", result).code == 2)
        try expectFailure(["report", result, "--out", "/dev/null"], "device")
        #expect(try String(contentsOfFile: result, encoding: .utf8).contains("inspection"))
    }

    @Test("Ctrl-C and SIGTERM leave nothing behind", arguments: [SIGINT, SIGTERM, SIGHUP])
    func interrupts(signal: Int32) throws {
        let scratch = try Scratch()
        // A text long enough that calibration takes a while: the output's place is claimed by then.
        let text = try String(contentsOfFile: exampleText, encoding: .utf8)
        let long = try scratch.write(
            Array(String(repeating: text, count: 200).utf8), to: "long.txt")
        let run = try Run([
            "compress", exampleModel, "--out", "\(scratch.path)/small", "--ratio", "0.35",
            "--calibration", long, "--context", "128", "--samples", "100000", "--device", "cpu",
        ])
        #expect(run.waitForError("decompose"))
        #expect(scratch.entries.count > 1, "a partial directory is there: \(scratch.entries)")
        run.send(signal)
        let outcome = run.wait()
        #expect(outcome.code == 130, "\(outcome.errors)")
        #expect(outcome.errors.contains("interrupted"))
        #expect(scratch.entries == ["long.txt"])
    }

    @Test func ignoredSignalsStayIgnored() throws {
        let scratch = try Scratch()
        let text = try String(contentsOfFile: exampleText, encoding: .utf8)
        let long = try scratch.write(
            Array(String(repeating: text, count: 20).utf8), to: "long.txt")
        // As nohup does it: hang-ups are ignored from before the start.
        let run = try Run(
            ["eval", exampleModel, "--text", long, "--context", "128", "--device", "cpu"],
            ignoring: "HUP")
        #expect(run.waitForError("evaluate"))
        run.send(SIGHUP)
        let outcome = run.wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(outcome.output.contains("perplexity"))
    }

    @Test func killedRunsGoOn() throws {
        let scratch = try Scratch()
        let text = try String(contentsOfFile: exampleText, encoding: .utf8)
        let long = try scratch.write(
            Array(String(repeating: text, count: 40).utf8), to: "long.txt")
        func arguments(_ samples: String) -> [String] {
            [
                "compress", exampleModel, "--out", "\(scratch.path)/small", "--ratio", "0.35",
                "--calibration", long, "--context", "128", "--samples", samples, "--device", "cpu",
            ]
        }
        let work = "\(scratch.path)/small.minima-work"
        let run = try Run(arguments("300"))
        #expect(run.wait { FileManager.default.fileExists(atPath: work + "/part-00000.json") })
        run.send(SIGKILL)
        #expect(run.wait().code == SIGKILL)
        #expect(!scratch.entries.contains("small"))
        // Another request must not go on with this one's layers.
        let other = try Run(arguments("8")).wait()
        #expect(other.code == 1 && other.errors.contains("minima-work"), "\(other.errors)")
        let outcome = try Run(arguments("300")).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(scratch.entries == ["long.txt", "small"])
    }
}
