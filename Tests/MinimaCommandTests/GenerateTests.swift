import Foundation
import MinimaTestSupport
import Testing

@Suite("Generation from the command line")
struct GenerateTests {
    private func generate(_ more: String...) throws -> Outcome {
        try Run(["generate", exampleModel, "--device", "cpu"] + more).wait()
    }

    /// The results of a run with `--json` and several answers.
    private func lines(_ outcome: Outcome) throws -> [[String: Any]] {
        #expect(outcome.code == 0, "\(outcome.errors)")
        return try outcome.output.split(separator: "\n").map { line in
            let object = try JSONSerialization.jsonObject(with: Data(line.utf8))
            return try #require(object as? [String: Any])
        }
    }

    @Test(
        "wrong usage exits with 2 and says what is right",
        arguments: [
            ([], "--prompts"),
            (["--prompt", "a", "--prompts", "b"], "--prompts"),
            (["--prompt", "a", "--count", "0"], "--count"),
            (["--prompt", "a", "--count", "2"], "--temperature"),
            (["--prompt", "a", "--parallel", "257"], "--parallel"),
            (["--prompt", "a", "--logprobs", "1"], "--json"),
            (["--prompt", "a", "--json", "--logprobs", "21"], "20"),
            (["--prompt", "a", "--min-p", "1.5"], "min-p"),
            (["--prompt", "a", "--repetition-penalty", "0"], "repetition penalty"),
            (["--prompt", "a", "--presence-penalty", "3"], "presence penalty"),
            (["--prompt", "a", "--frequency-penalty", "-3"], "frequency penalty"),
            (["--prompt", "a", "--logit-bias", "5"], "id=bias"),
            (["--prompt", "a", "--logit-bias", "5=101"], "101"),
            (["--prompt", "a", "--logit-bias", "5=1", "5=2"], "more than once"),
            (["--prompt", "a", "--backend", "tpu"], "libtorch"),
            (["--prompt", "a", "--kv-dtype", "int4"], "float8"),
            (["--prompt", "a", "--explain-memory"], "--explain-memory"),
        ])
    func usage(arguments: [String], hint: String) throws {
        let outcome = try Run(["generate", "x"] + arguments).wait()
        #expect(outcome.code == 2 && outcome.output.isEmpty)
        #expect(outcome.errors.contains(hint), "\(outcome.errors)")
    }

    /// transformers' 200 greedy tokens; see `Tests/Goldens/models/make_tiny.py`.
    @Test func greedyTextIsThatOfTransformers() throws {
        let path = "\(packageFolder())/Tests/Goldens/models/tiny.json"
        let data = try Data(contentsOf: URL(fileURLWithPath: path))
        let golden = try JSONSerialization.jsonObject(with: data) as? [String: Any] ?? [:]
        let prompt = try #require(golden["prompt"] as? String)
        let outcome = try generate(
            "--prompt", prompt, "--max-tokens", "200", "--json", "--logprobs", "0")
        let tokens = try #require(outcome.json()["logprobs"] as? [[String: Any]])
        #expect(tokens.compactMap { $0["id"] as? Int } == golden["greedy"] as? [Int])
    }

    @Test("several prompts give what each gives alone, in order")
    func prompts() throws {
        let scratch = try Scratch()
        let texts = ["She said", "The river", "Once upon a time", "In the year 1850"]
        let plain = try scratch.write(
            Array("She said\r\n\nThe river\nOnce upon a time\n  \nIn the year 1850".utf8),
            to: "prompts.txt")
        let alone = try texts.map { text in
            try #require(
                generate("--prompt", text, "--max-tokens", "24", "--deterministic", "--json")
                    .json()["text"] as? String)
        }
        let together = try lines(
            generate(
                "--prompts", plain, "--max-tokens", "24", "--deterministic", "--parallel", "3",
                "--json"))
        #expect(together.map { $0["prompt"] as? String } == texts)
        #expect(together.map { $0["text"] as? String } == alone)
        #expect(together.allSatisfy { $0["kind"] as? String == "generation" })
        let shown = try generate("--prompts", plain, "--max-tokens", "24", "--deterministic")
        var expected = ""
        for (index, text) in alone.enumerated() {
            expected += "==> prompt \(index + 1) <==\n\(text)\n"
        }
        #expect(shown.code == 0 && shown.output == expected)
        #expect(shown.errors.contains("4 answers"))
    }

    @Test func promptFilesOfJSONLines() throws {
        let scratch = try Scratch()
        let file = try scratch.write(
            Array("\"two\\nlines\"\n\n\"\\u00e9\"\n".utf8), to: "prompts.jsonl")
        let results = try lines(generate("--prompts", file, "--max-tokens", "2", "--json"))
        #expect(results.map { $0["prompt"] as? String } == ["two\nlines", "é"])
        for (name, content, hint) in [
            ("plain.jsonl", "\"good\"\nplain", "line 2"), ("array.jsonl", "[1]", "an array"),
            ("empty.txt", "\n \n", "no prompt"),
        ] {
            let bad = try scratch.write(Array(content.utf8), to: name)
            let outcome = try generate("--prompts", bad)
            #expect(outcome.code == 1 && outcome.output.isEmpty)
            #expect(outcome.errors.contains(hint), "\(outcome.errors)")
        }
        // Which of several prompts is too long is said before anything is loaded.
        let long = String(repeating: "word ", count: 9000)
        let outcome = try generate(
            "--prompts", scratch.write(Array("short\n\(long)".utf8), to: "long.txt"))
        #expect(outcome.code == 1 && outcome.errors.contains("prompt 2"), "\(outcome.errors)")
    }

    @Test("several answers differ, and neither company nor batch changes one")
    func answers() throws {
        func answers(_ more: String...) throws -> [String?] {
            let outcome = try Run(
                [
                    "generate", exampleModel, "--device", "cpu", "--prompt", "She said",
                    "--max-tokens", "12", "--temperature", "1", "--seed", "5", "--deterministic",
                    "--json",
                ] + more
            ).wait()
            return try lines(outcome).map { $0["text"] as? String }
        }
        let five = try answers("--count", "5")
        #expect(five.count == 5 && Set(five).count == 5)
        #expect(try answers("--count", "5", "--parallel", "2") == five)
        #expect(try answers("--count", "2") == Array(five[..<2]))
        let single = try generate(
            "--prompt", "She said", "--max-tokens", "12", "--temperature", "1", "--seed", "5",
            "--json")
        #expect(try single.json()["text"] as? String == five[0])
        #expect(try single.json()["answer"] == nil)
    }

    @Test func samplingParametersArrive() throws {
        func result(_ more: String...) throws -> [String: Any] {
            let outcome = try Run(
                [
                    "generate", exampleModel, "--device", "cpu", "--prompt", "She said",
                    "--max-tokens", "24", "--json",
                ] + more
            ).wait()
            #expect(outcome.code == 0, "\(outcome.errors)")
            return try outcome.json()
        }
        let greedy = try result()["text"] as? String
        // All but the likeliest are dropped.
        #expect(try result("--temperature", "1", "--min-p", "1")["text"] as? String == greedy)
        #expect(try result("--temperature", "1", "--top-k", "1")["text"] as? String == greedy)
        let penalties = [
            ["--repetition-penalty", "2"], ["--presence-penalty", "2"],
            ["--frequency-penalty", "2"],
        ]
        for penalty in penalties {
            #expect(try result(penalty[0], penalty[1])["text"] as? String != greedy, "\(penalty)")
        }
        let biased = try result("--logit-bias", "30=100", "31=-100", "--logprobs", "3")
        let tokens = try #require(biased["logprobs"] as? [[String: Any]])
        #expect(tokens.count == 24 && tokens.allSatisfy { $0["id"] as? Int == 30 })
        let sampling = try #require(biased["sampling"] as? [String: Any])
        #expect(sampling["logit_bias"] as? [String: Double] == ["30": 100, "31": -100])
        for token in tokens {
            // The model's own distribution: the bias is not in it.
            let logprob = try #require(token["logprob"] as? Double)
            let others = try #require(token["alternatives"] as? [[String: Any]])
            let likely = others.compactMap { $0["logprob"] as? Double }
            #expect(likely.count == 3 && likely == likely.sorted(by: >))
            #expect(logprob <= likely[0] && likely.map(exp).reduce(0, +) <= 1)
        }
        let unknown = try generate("--prompt", "a", "--logit-bias", "8192=1")
        #expect(unknown.code == 1 && unknown.errors.contains("8192"), "\(unknown.errors)")
    }

    @Test func memoryIsExplained() throws {
        let outcome = try generate("--explain-memory", "--dtype", "bfloat16")
        #expect(outcome.code == 0, "\(outcome.errors)")
        // Six layers, one head of 64 keys and values each, two bytes a value: 1,536 bytes a token.
        #expect(outcome.output.contains("pages of 64 tokens, 0.1 MiB each"), "\(outcome.output)")
        let rows = outcome.output.split(separator: "\n").dropLast().suffix(5).map { line in
            line.split(separator: " ").compactMap {
                Int($0.replacingOccurrences(of: ",", with: ""))
            }
        }
        #expect(rows.map { $0.first } == [512, 1024, 2048, 4096, 8192])
        for row in rows { #expect(row[2] == row[0] / 64 && row[1] > 0) }
        #expect(rows[0][1] >= 2 * rows[1][1])
    }

    @Test func requestsBeyondTheMemory() throws {
        let scratch = try Scratch()
        let model = try scratch.copy(exampleModel, to: "model")
        let path = "\(model)/config.json"
        let config = try String(contentsOfFile: path, encoding: .utf8)
        let long = config.replacingOccurrences(
            of: "\"max_position_embeddings\": 8192",
            with: "\"max_position_embeddings\": 1000000000")
        #expect(long != config)
        try long.write(toFile: path, atomically: true, encoding: .utf8)
        let outcome = try Run([
            "generate", model, "--prompt", "a", "--max-tokens", "\(Int.max)", "--device", "cpu",
        ]).wait()
        #expect(outcome.code == 1 && outcome.output.isEmpty)
        #expect(outcome.errors.contains("--max-tokens"), "\(outcome.errors)")
        // It says what would fit.
        let fitting = outcome.errors.firstMatch(of: /enough for (\d+) tokens/)?.output.1
        let tokens = try #require(fitting.flatMap { Int($0) })
        #expect((8192..<1_000_000_000).contains(tokens))
    }

    @Test func whatTheCPUDoesNotHave() throws {
        for (option, value, hint) in [
            ("--backend", "kernels", "needs a GPU"), ("--kv-dtype", "float8", "decoding kernels"),
        ] {
            let outcome = try generate("--prompt", "a", option, value)
            #expect(outcome.code == 1 && outcome.errors.contains(hint), "\(outcome.errors)")
        }
    }

    @Test("interrupts end a batch", arguments: [SIGINT, SIGTERM])
    func interrupts(signal: Int32) throws {
        let run = try Run([
            "generate", exampleModel, "--device", "cpu", "--prompt", "She said", "--temperature",
            "1", "--count", "64", "--max-tokens", "8000", "--json",
        ])
        #expect(run.waitForError("generate 0/64"))
        run.send(signal)
        let outcome = run.wait()
        #expect(outcome.code == 130, "\(outcome.errors)")
        #expect(outcome.errors.contains("interrupted"))
    }

    /// A mixture of experts, which the kernels do not know, with a tokenizer whose first ids it has.
    @Test func otherFamiliesGenerate() throws {
        let scratch = try Scratch()
        let model = try scratch.copy(goldenModel("qwen3moe-normalised-v5"), to: "model")
        try FileManager.default.copyItem(
            atPath: "\(exampleModel)/tokenizer.json", toPath: "\(model)/tokenizer.json")
        func generate(_ prompt: String) throws -> Outcome {
            try minima(
                "generate", model, "--prompt", prompt, "--max-tokens", "6", "--device", "cpu",
                "--json")
        }
        let outcome = try generate(",,")
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(try outcome.json()["prompt_tokens"] as? Int == 2)
        #expect(try #require(outcome.json()["tokens"] as? Int) > 0)
        let foreign = try generate("The river")
        #expect(foreign.code == 1 && foreign.errors.contains("vocabulary"), "\(foreign.errors)")
    }

    @Test func resultsOfEarlierVersionsAreReported() throws {
        let scratch = try Scratch()
        let old = """
            {"finish_reason": "length", "kind": "generation", "model": "small", "prompt": "Once",
             "prompt_tokens": 1, "seed": 0, "temperature": 0, "text": " upon a time", "tokens": 3,
             "tokens_per_second": 50}
            """
        let outcome = try minima(
            "report", scratch.write(Array(old.utf8), to: "old.json"), "--out",
            "\(scratch.path)/report.html")
        #expect(outcome.code == 0, "\(outcome.errors)")
        let html = try String(contentsOfFile: "\(scratch.path)/report.html", encoding: .utf8)
        #expect(html.contains("upon a time"))
    }
}
