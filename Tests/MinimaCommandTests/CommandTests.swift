import Foundation
import MinimaTestSupport
import Testing

@Suite("Command line")
struct CommandTests {
    @Test func versionAndHelp() throws {
        let version = try minima("--version")
        #expect(version.code == 0)
        #expect(version.output.wholeMatch(of: /\d+\.\d+\.\d+\n/) != nil)
        let help = try minima("--help")
        #expect(help.code == 0 && help.errors.isEmpty)
        for command in ["inspect", "compress", "heal", "eval", "generate", "tokenize", "report"] {
            #expect(help.output.contains(command))
            let own = try minima(command, "--help")
            #expect(own.code == 0 && own.output.contains("USAGE: minima \(command)"))
        }
    }

    @Test(
        "wrong usage exits with 2 and says what is right",
        arguments: [
            (["frobnicate"], "frobnicate"),
            (["inspect"], "model"),
            (
                ["compress", "x", "--out", "y", "--ratio", "1.5", "--calibration", "self"],
                "--ratio"
            ),
            (
                [
                    "compress", "x", "--out", "y", "--ratio", "0.3", "--calibration", "self",
                    "--format", "svd",
                ],
                "lowrank"
            ),
            (["compress", "x", "--out", "y", "--ratio", "0.3"], "--calibration"),
            (
                ["compress", "x", "--out", "y", "--ratio", "0.3", "--calibration", "self", "b"],
                "self"
            ),
            (["eval", "x"], "--text"),
            (["eval", "x", "--text", "t", "--context", "1"], "--context"),
            (["eval", "x", "--text", "t", "--device", "tpu"], "device"),
            (["eval", "x", "--text", "t", "--dtype", "int4"], "dtype"),
            (["generate", "x", "--prompt", "a", "--temperature", "-1"], "temperature"),
            (["generate", "x", "--prompt", "a", "--top-p", "0"], "top-p"),
            (["generate", "x", "--prompt", "a", "--max-tokens", "0"], "--max-tokens"),
            (["generate", "x", "--prompt", "a", "--threads", "0"], "--threads"),
        ])
    func usage(arguments: [String], hint: String) throws {
        let outcome = try Run(arguments).wait()
        #expect(outcome.code == 2)
        #expect(outcome.output.isEmpty)
        #expect(outcome.errors.contains(hint), "\(outcome.errors)")
        #expect(outcome.errors.contains("Usage:"))
    }

    @Test func inspect() throws {
        let outcome = try minima("inspect", exampleModel)
        #expect(outcome.code == 0)
        for word in ["qwen3", "4,156,608", "8.31 MB", "mlp.gate_proj", "embed_tokens", "BF16"] {
            #expect(outcome.output.contains(word), "\(word)")
        }
        let foreign = try Scratch()
        let quantised = try foreign.copy(exampleModel, to: "fp8")
        let config = try String(contentsOfFile: "\(quantised)/config.json", encoding: .utf8)
        try config.replacingOccurrences(
            of: "\"use_cache\": true",
            with: "\"use_cache\": true, \"quantization_config\": {\"quant_method\": \"fp8\"}"
        ).write(toFile: "\(quantised)/config.json", atomically: true, encoding: .utf8)
        #expect(try minima("inspect", quantised).output.contains("quantised by fp8"))
        let json = try minima("inspect", exampleModel, "--json", "--check-finite").json()
        #expect(json["parameters"] as? Int == 4_156_608)
        #expect(json["kind"] as? String == "inspection")
    }

    @Test("the output projection alone, in codes")
    func compressedHead() throws {
        let scratch = try Scratch()
        let out = "\(scratch.path)/small"
        let arguments = ["compress", exampleModel, "--out", out, "--calibration", "random"]
        for wrong in [[], ["--head", "int7"], ["--head", "8"], ["--head", "fp4"]] {
            let outcome = try Run(arguments + wrong).wait()
            #expect(outcome.code == 2 && outcome.errors.contains("--head"), "\(outcome.errors)")
        }
        let outcome = try Run(
            arguments + ["--head", "int4", "--samples", "4", "--context", "32", "--device", "cpu"]
        ).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        let inspected = try minima("inspect", out).output
        #expect(inspected.contains("tied false"), "\(inspected)")
        #expect(
            inspected.split(separator: "\n").contains { line in
                line.hasPrefix("lm_head") && line.hasSuffix("quantized")
            })
        let text = try minima("generate", out, "--prompt", "A", "--max-tokens", "2")
        #expect(text.code == 0, "\(text.errors)")
        let float8 = "\(scratch.path)/float8"
        let numbers = try Run(
            [
                "compress", exampleModel, "--out", float8, "--calibration", "random", "--head",
                "fp8", "--samples", "4", "--context", "32", "--device", "cpu",
            ]
        ).wait()
        #expect(numbers.code == 0, "\(numbers.errors)")
        let config = try String(contentsOfFile: "\(float8)/config.json", encoding: .utf8)
        #expect(config.contains("\"levels\": \"float8\""), "\(config)")
        let said = try minima("generate", float8, "--prompt", "A", "--max-tokens", "2")
        #expect(said.code == 0, "\(said.errors)")
    }

    @Test("options whose codes of 8 bits are float8")
    func float8Options() throws {
        let scratch = try Scratch()
        let (folder, plan) = ("\(scratch.path)/analysis", "\(scratch.path)/plan.json")
        let analyzed = try minima(
            "analyze", exampleModel, "--out", folder, "--formats", "quantized", "--levels",
            "float8", "--probes", "0", "--calibration", "random", "--samples", "2", "--context",
            "32", "--device", "cpu")
        #expect(analyzed.code == 0, "\(analyzed.errors)")
        let planned = try minima("plan", folder, "--out", plan, "--bits-per-weight", "8.5")
        #expect(planned.code == 0, "\(planned.errors)")
        let text = try String(contentsOfFile: plan, encoding: .utf8)
        #expect(text.contains("\"float8\""), "\(text.prefix(2000))")
        let wrong = try minima("analyze", exampleModel, "--out", folder, "--levels", "fp9")
        #expect(wrong.code == 2 && wrong.errors.contains("--levels"), "\(wrong.errors)")
    }

    @Test("the learned road: analyze, plan, compress by the plan, report")
    func learnedRoad() throws {
        let scratch = try Scratch()
        let (folder, plan) = ("\(scratch.path)/analysis", "\(scratch.path)/plan.json")
        let calibration = [
            "--calibration", exampleText, "--samples", "8", "--context", "64", "--device", "cpu",
        ]
        let analyzed = try Run(
            [
                "analyze", exampleModel, "--out", folder, "--formats", "interpolative", "--probes",
                "0",
            ]
                + calibration
        ).wait()
        #expect(analyzed.code == 0, "\(analyzed.errors)")
        #expect(analyzed.output.contains("24 sites"))

        let planned = try minima("plan", folder, "--out", plan, "--ratio", "0.35", "--explain")
        #expect(planned.code == 0, "\(planned.errors)")
        for word in ["where the budget went", "gate_up_proj", "interpolative", "neighbouring"] {
            #expect(planned.output.contains(word), "\(planned.output)")
        }
        let explanation = try minima(
            "plan", folder, "--out", plan, "--ratio", "0.35", "--json"
        ).json()
        #expect(explanation["kind"] as? String == "plan-explanation")
        let hopeless = try minima("plan", folder, "--out", plan, "--bits-per-weight", "0.001")
        #expect(hopeless.code == 1 && hopeless.errors.contains("--bits-per-weight"))
        #expect(try minima("plan", folder, "--out", plan).code == 2)
        let bad = try minima("plan", folder, "--out", plan, "--ratio", "0.35", "--head", "int7")
        #expect(bad.code == 2 && bad.errors.contains("--head"), "\(bad.errors)")
        let headed = "\(scratch.path)/headed.json"
        let withHead = try minima(
            "plan", folder, "--out", headed, "--ratio", "0.35", "--head", "int8")
        #expect(withHead.code == 0, "\(withHead.errors)")
        #expect(withHead.output.contains("lm_head"), "\(withHead.output)")
        #expect(try String(contentsOfFile: headed, encoding: .utf8).contains("lm_head"))
        let float8 = try minima(
            "plan", folder, "--out", headed, "--ratio", "0.35", "--head", "fp8")
        #expect(float8.code == 0, "\(float8.errors)")
        #expect(try String(contentsOfFile: headed, encoding: .utf8).contains("\"float8\""))

        var totals: [Int] = []
        for arguments in [["--plan", plan, "--analysis", folder], ["--ratio", "0.35"]] {
            let out = "\(scratch.path)/small\(totals.count)"
            let outcome = try Run(
                ["compress", exampleModel, "--out", out, "--json"] + arguments + calibration
            ).wait()
            #expect(outcome.code == 0, "\(outcome.errors)")
            let account = try #require(outcome.json()["totals"] as? [String: Any])
            totals.append(try #require(account["linear_parameters_after"] as? Int))
        }
        #expect(Double(totals[0]) <= 0.65 * 2_580_480 && Double(totals[0]) > 0.64 * 2_580_480)
        let report = "\(scratch.path)/report.html"
        let reported = try minima(
            "report", "\(folder)/analysis.json", plan, "\(scratch.path)/small0/minima.json",
            "--out", report, "--json")
        #expect(reported.code == 0, "\(reported.errors)")
        #expect(try reported.json()["analyses"] as? Int == 1)

        // A plan that was edited wrongly, and one of another model, say so.
        let text = try String(contentsOfFile: plan, encoding: .utf8)
        for (old, new, hint) in [
            ("\"ranks\"", "\"rnaks\"", "rnaks"), ("model.layers.0", "model.layers.99", "layers.99"),
        ] {
            try text.replacingOccurrences(of: old, with: new).write(
                toFile: plan, atomically: true, encoding: .utf8)
            let refused = try Run(
                ["compress", exampleModel, "--out", "\(scratch.path)/no", "--plan", plan]
                    + calibration
            ).wait()
            #expect(refused.code == 1 && refused.errors.contains(hint), "\(refused.errors)")
        }
        #expect(!scratch.entries.contains("no"))
    }

    @Test("the main job: compress, evaluate, generate, report")
    func mainJob() throws {
        let scratch = try Scratch()
        let small = "\(scratch.path)/small"
        let compressed = try minima(
            "compress", exampleModel, "--out", small, "--ratio", "0.35", "--calibration",
            exampleText, "--samples", "8", "--context", "64", "--json", "--device", "cpu")
        #expect(compressed.code == 0, "\(compressed.errors)")
        #expect(compressed.errors.contains("decompose 42/42 layers"))
        let totals = try #require(compressed.json()["totals"] as? [String: Any])
        let before = try #require(totals["linear_parameters_before"] as? Int)
        let after = try #require(totals["linear_parameters_after"] as? Int)
        #expect(Double(after) <= 0.65 * Double(before) && Double(after) > 0.6 * Double(before))

        var perplexities: [Double] = []
        for (model, file) in [(exampleModel, "dense.json"), (small, "small.json")] {
            let outcome = try minima(
                "eval", model, "--text", exampleText, "--context", "128", "--against",
                exampleModel, "--json", "--device", "cpu")
            #expect(outcome.code == 0, "\(outcome.errors)")
            let result = try outcome.json()
            perplexities.append(try #require(result["perplexity"] as? Double))
            let kl = try #require(result["kl"] as? Double)
            #expect(model == exampleModel ? abs(kl) < 1e-6 : kl > 0.01)
            #expect(try #require(result["tokens"] as? Int) > 500)
            _ = try scratch.write(Array(outcome.output.utf8), to: file)
        }
        #expect(perplexities[1] > perplexities[0] && perplexities[1] < 10 * perplexities[0])

        let text = try minima(
            "generate", small, "--prompt", "The river", "--max-tokens", "12", "--device", "cpu")
        #expect(text.code == 0 && !text.output.isEmpty)
        let again = try minima(
            "generate", small, "--prompt", "The river", "--max-tokens", "12", "--json",
            "--device", "cpu"
        ).json()
        #expect(again["text"] as? String == String(text.output.dropLast()))
        #expect(again["tokens"] as? Int == 12 || again["finish_reason"] as? String == "stop")

        let report = try minima(
            "report", "\(scratch.path)/dense.json", "\(scratch.path)/small.json",
            "\(small)/minima.json", "--out", "\(scratch.path)/report.html")
        #expect(report.code == 0, "\(report.errors)")
        let counted = try minima(
            "report", "\(scratch.path)/dense.json", "\(scratch.path)/small.json", "--out",
            "\(scratch.path)/other.html", "--json"
        ).json()
        #expect(counted["evaluations"] as? Int == 2)
        let html = try String(contentsOfFile: "\(scratch.path)/report.html", encoding: .utf8)
        #expect(html.hasPrefix("<!DOCTYPE html>") || html.hasPrefix("<!doctype html>"))
        #expect(!scratch.entries.contains { $0.hasPrefix(".") }, "nothing half-written is left")
    }

    /// transformers' perplexity of Examples/text.txt; see `Tests/Goldens/models/make_tiny.py`.
    @Test func perplexityIsThatOfTransformers() throws {
        let path = "\(packageFolder())/Tests/Goldens/models/tiny.json"
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        let golden = try JSONSerialization.jsonObject(with: data) as? [String: Any] ?? [:]
        let result = try minima(
            "eval", exampleModel, "--text", exampleText, "--context", "128", "--json",
            "--device", "cpu"
        ).json()
        let expected = try #require(golden["perplexity"] as? Double)
        let found = try #require(result["perplexity"] as? Double)
        #expect(result["tokens"] as? Int == golden["predicted"] as? Int)
        // float32 rounding of the mean of 929 terms.
        #expect(abs(found / expected - 1) < 1e-5)
    }

    @Test func tokenize() throws {
        let ids = try minima("tokenize", exampleModel, "--prompt", "Once upon", "--json").json()
        #expect((ids["ids"] as? [Int])?.count == (ids["tokens"] as? [String])?.count)
        #expect((ids["tokens"] as? [String])?.joined() == "OnceĠupon")
        let files = try minima("tokenize", exampleModel, "--text", exampleText, "--json").json()
        #expect(files["tokens"] as? Int == 937)
        #expect(try minima("tokenize", exampleModel).code == 2)
    }

    @Test func generationFollowsSeedAndTemplate() throws {
        func text(_ more: String...) throws -> [String: Any] {
            try Run(
                [
                    "generate", exampleModel, "--prompt", "She said", "--max-tokens", "16",
                    "--json", "--device", "cpu",
                ] + more
            ).wait().json()
        }
        let first = try text("--temperature", "1", "--seed", "3")["text"] as? String
        #expect(try text("--temperature", "1", "--seed", "3")["text"] as? String == first)
        #expect(try text("--temperature", "1", "--seed", "4")["text"] as? String != first)
        let chat = try text("--chat")["prompt"] as? String
        #expect(chat == "<|im_start|>user\nShe said<|im_end|>\n<|im_start|>assistant\n")
    }

    @Test func pipedProgressIsPlainLines() throws {
        let outcome = try minima(
            "eval", exampleModel, "--text", exampleText, "--context", "64", "--device", "cpu")
        #expect(outcome.code == 0)
        #expect(!outcome.errors.contains("\r") && !outcome.errors.contains("\u{1B}"))
        #expect(outcome.errors.contains("evaluate") && outcome.errors.contains("tokens/s"))
        #expect(outcome.output.contains("perplexity"))
    }
}
