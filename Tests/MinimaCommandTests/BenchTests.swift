import Foundation
import MinimaTestSupport
import Testing

@Suite("Benchmarks from the command line")
struct BenchTests {
    private static let shape = ["bench", "--shape", "qwen3-8b"]

    @Test(
        "wrong usage exits with 2 and says what was found and what is right",
        arguments: [
            (["bench"], ["--shape", "--sizes"]),
            (["bench", "x", "--shape", "qwen3-8b"], ["--shape", "--sizes"]),
            (["bench", "--shape", "qwen3-8b", "--sizes", "x"], ["--shape", "--sizes"]),
            (["bench", "--shape", "qwen3-9b"], ["qwen3-9b", "qwen3-14b, qwen3-32b, qwen3-4b"]),
            (["bench", "x", "--weights", "dense:int4"], ["--weights", "--shape", "as they are"]),
            (["bench", "x", "--plan", "p"], ["--plan", "--shape"]),
            (shape + ["--device", "cpu"], ["--device", "cuda:N", "cpu"]),
            (shape + ["--device", "tpu"], ["--device", "tpu"]),
            (shape + ["--context", "0"], ["--context", "found 0", "between 1"]),
            (shape + ["--context", "16777217"], ["--context", "found 16777217", "16777216"]),
            (shape + ["--requests", "4", "0"], ["--requests", "found 0", "between 1 and 256"]),
            (shape + ["--requests", "257"], ["--requests", "found 257", "between 1 and 256"]),
            (shape + ["--requests"], ["--requests"]),
            (shape + ["--steps", "0"], ["--steps", "found 0"]),
            (shape + ["--steps", "many"], ["--steps", "many"]),
            (shape + ["--repeats", "1001"], ["--repeats", "found 1001", "1000"]),
            (shape + ["--chunk", "15"], ["--chunk", "found 15", "between 16"]),
            (shape + ["--seed", "one"], ["--seed", "one"]),
            (shape + ["--kv-dtype", "int4"], ["--kv-dtype", "int4", "bfloat16", "float8"]),
            (["bench", "x", "--costs", "c"], ["--costs", "--shape"]),
            (shape + ["--costs", "c", "--plan", "p"], ["--costs", "--weights"]),
            (
                shape + ["--costs", "c", "--weights", "dense+head8"],
                ["--costs", "output projection", "+head"]
            ),
            (shape + ["--costs", "c", "--draft", "ngram"], ["--costs", "--draft"]),
            (shape + ["--speculate", "3"], ["--speculate", "--draft"]),
            (shape + ["--acceptance", "2"], ["--acceptance", "--draft"]),
            (shape + ["--draft-tree", "3"], ["--draft-tree", "--draft"]),
            (shape + ["--draft", "random", "--draft-tree", "1"], ["--draft-tree", "found 1"]),
            (shape + ["--draft", "random:8"], ["'random:8'"]),
            (shape + ["--draft", "random:qwen3-9b"], ["'random:qwen3-9b'"]),
            (shape + ["--draft", "random:int8:qwen3-0.6b"], ["'random:int8:qwen3-0.6b'"]),
            (
                shape + ["--draft", "random:qwen3-0.6b:int7"],
                ["--draft random:qwen3-0.6b:int7:", "2, 3, 4, 5, 6, 8 bits"]
            ),
            (shape + ["--draft", "random:int7u"], ["--draft random:int7u:", "8 bits"]),
            (shape + ["--draft", "ngram", "--speculate", "0"], ["--speculate", "found 0"]),
            (shape + ["--draft", "ngram", "--speculate", "2", "16"], ["--speculate", "found 16"]),
            (shape + ["--draft", "ngram", "--speculate", "all"], ["--speculate", "all"]),
            (
                shape + ["--draft", "random", "--acceptance", "6.5"],
                ["--acceptance", "6.0", "found 6.5"]
            ),
            // As many as an engine chooses from.
            (
                shape + ["--draft", "random", "--speculate", "auto", "--acceptance", "8.5"],
                ["--acceptance", "8.0", "found 8.5"]
            ),
            (
                shape + ["--draft", "random", "--speculate", "auto", "3", "--acceptance", "4.5"],
                ["--acceptance", "4.0", "found 4.5"]
            ),
            (
                shape + ["--draft", "random", "--speculate", "2", "3", "--acceptance", "2", "4.5"],
                ["--acceptance", "4.0", "found 4.5"]
            ),
        ])
    func usage(arguments: [String], hints: [String]) throws {
        try expectUsage(arguments, hints)
    }

    @Test(
        "ways of storing weights that do not exist",
        arguments: [
            ("", ["--weights"]),
            (
                "dense:",
                [
                    "'dense:'",
                    "FORMAT[/split][:SHARE[@PART]][:intBITS[u]|:fp8][+headBITS[u]|+headfp8]",
                ]
            ),
            ("dense:four", ["'dense:four'", "FORMAT[/split][:SHARE[@PART]][:intBITS[u]|:fp8]"]),
            ("dense:4", ["dense", "found a share of 4"]),
            ("dense:0.3", ["dense", "found a share of 0.3", "leave the share out"]),
            ("dense:int4:0.3", ["'dense:int4:0.3'"]), ("dense:int4uu", ["'dense:int4uu'"]),
            ("dense:int4+", ["'dense:int4+'"]), ("dense:fp4", ["'dense:fp4'"]),
            ("dense:fp8u", ["'dense:fp8u'"]), ("dense+headint8", ["'dense+headint8'"]),
            ("dense+tail8", ["'dense+tail8'"]),
            ("dense+head", ["'dense+head'"]),
            ("dense+head8+head8", ["dense+head8", "lowrank"]),
            ("+head8", ["'+head8'"]),
            ("dense:int4+head7", ["dense+head7:", "2, 3, 4, 5, 6, 8 bits", "7 were asked for"]),
            ("dense:int", ["'dense:int'"]),
            ("interpolative:0.3@", ["'interpolative:0.3@'"]),
            ("dense:int7u", ["dense:int7u:", "2, 3, 4, 5, 6, 8 bits", "7 were asked for"]),
            ("tt:0.3:int4:int4", ["'tt:0.3:int4:int4'"]),
            ("interpolative", ["interpolative", "found none", "interpolative:0.35"]),
            ("interpolative:int4", ["interpolative", "found none", "interpolative:0.35"]),
            ("interpolative:1", ["interpolative", "found 1.0", "between 0 and 1"]),
            ("lowrank:-0.2", ["lowrank", "found -0.2", "between 0 and 1"]),
            ("lowrank:nan", ["lowrank", "found nan", "between 0 and 1"]),
            ("svd:0.3", ["svd", "lowrank", "interpolative"]),
            ("lowrank/split:0.3", ["lowrank/split", "tucker, tt, tr"]),
            ("cp/split:0.3", ["cp/split", "tucker, tt, tr"]),
            ("tt/whole:0.3", ["tt/whole", "lowrank"]),
            ("quantized:0.3", ["quantized", "dense", "lowrank"]),
            ("sum:0.3", ["sum", "dense", "lowrank"]),
        ])
    func weights(choice: String, hints: [String]) throws {
        try expectUsage(Self.shape + ["--weights", choice], hints)
        // One wrong among several is found.
        try expectUsage(Self.shape + ["--weights", "dense", choice], hints)
    }

    private func expectUsage(_ arguments: [String], _ hints: [String]) throws {
        let outcome = try Run(arguments).wait()
        #expect(outcome.code == 2, "\(outcome.errors)")
        #expect(outcome.output.isEmpty)
        #expect(outcome.errors.contains("Usage: minima bench"))
        for hint in hints { #expect(outcome.errors.contains(hint), "\(outcome.errors)") }
    }

    /// Fails on a machine with a GPU too: it cannot have a hundred.
    private func expectFailure(_ arguments: [String], _ hints: String...) throws {
        let outcome = try Run(arguments).wait()
        #expect(outcome.code == 1, "\(outcome.errors)")
        #expect(outcome.output.isEmpty)
        #expect(outcome.errors.contains("minima: error: "))
        for hint in hints { #expect(outcome.errors.contains(hint), "\(outcome.errors)") }
    }

    @Test(
        "what is stored in a way that exists is taken, as far as there is a GPU",
        arguments: [
            "dense", "dense:int2", "dense:int8", "dense:int4u", "interpolative:0.383",
            "tt:0.383:int8", "tt/split:0.383", "tr/split:0.383", "tucker/split:0.383:int8",
            "lowrank:.5:int3", "blockterm:0.4", "interpolative:0.383@mlp:int4", "dense+head8",
            "dense:int4u+head6", "interpolative:0.383@mlp+head4u", "dense:fp8",
            "interpolative:0.383@mlp:fp8+headfp8",
        ])
    func withoutAGPU(choice: String) throws {
        let scratch = try Scratch()
        try expectFailure(
            Self.shape + [
                "--weights", choice, "--device", "cuda:99", "--out", "\(scratch.path)/b.json",
            ], "cuda:99")
        #expect(scratch.entries.isEmpty)
    }

    @Test("files are read before a GPU is looked for")
    func files() throws {
        let scratch = try Scratch()
        let gpu = ["--device", "cuda:99"]
        try expectFailure(["bench", "/no/model"] + gpu, "/no/model", "no such directory")
        try expectFailure(["bench", "--sizes", "/no/model"] + gpu, "/no/model/config.json")
        try expectFailure(Self.shape + ["--plan", "/no/plan.json"] + gpu, "/no/plan.json")
        try expectFailure(Self.shape + ["--peer", "/no/peer.json"] + gpu, "/no/peer.json")
        let text = try scratch.write(Array("nothing".utf8), to: "text.json")
        let other = try scratch.write(Array("{\"kind\": \"inspection\"}".utf8), to: "other.json")
        // Several plans, beside other weights.
        for plans in [["/no/plan.json", text], [text, "/no/plan.json"]] {
            let stored = ["--weights", "dense", "lowrank:0.3", "--plan"] + plans
            try expectFailure(Self.shape + stored + gpu, plans[0])
        }
        // Also what a plan is for: this one for the example's sizes.
        let plan = try scratch.write(
            Array(
                """
                {"kind": "plan", "schema": 1, "version": "0.1.0", "model": "x", "target": "ratio 0.35",
                 "formats": [], "fingerprints": {}, "linear_parameters_before": 2580480,
                 "linear_parameters_after": 2554912, "linear_bytes_before": 5160960,
                 "linear_bytes_after": 5109888, "modules": [
                  {"name": "model.layers.0.self_attn.q_proj", "outputs": 192, "inputs": 192,
                   "parameters": 11296, "bytes": 22656,
                   "spec": {"format": "interpolative", "ranks": [32]}}]}
                """.utf8), to: "plan.json")
        let both = ["--weights", "dense", "--plan", plan]
        try expectFailure(Self.shape + both + gpu, "q_proj", "[192, 192]", "plan this model")
        try expectFailure(["bench", "--sizes", exampleModel] + both + gpu, "cuda:99")
        for option in ["--plan", "--peer"] {
            try expectFailure(Self.shape + [option, text] + gpu, text)
            try expectFailure(Self.shape + [option, other] + gpu, other)
        }
        let second = ["--peer", exampleText, "--peer", other]
        try expectFailure(Self.shape + second + gpu, exampleText)
        // A model that exists gets as far as the GPU.
        try expectFailure(["bench", exampleModel] + gpu, "cuda:99")
        try expectFailure(["bench", "--sizes", exampleModel] + gpu, "cuda:99")
        // So does a draft: a smaller model, its shape with random weights, a head's.
        try expectFailure(Self.shape + ["--draft", "/no/draft"] + gpu, "/no/draft")
        for draft in [exampleModel, "random:qwen3-0.6b", "random:qwen3-1.7b:int4u", "random:fp8"] {
            try expectFailure(Self.shape + ["--draft", draft] + gpu, "cuda:99")
            let auto = ["--speculate", "3", "auto", "--acceptance", "1", "2.8"]
            try expectFailure(Self.shape + ["--draft", draft] + auto + gpu, "cuda:99")
            let most = ["--speculate", "auto", "--acceptance", "7.5"]
            try expectFailure(Self.shape + ["--draft", draft] + most + gpu, "cuda:99")
        }
        // Heads propose trees.
        let tree = ["--draft-tree", "3"] + gpu
        try expectFailure(Self.shape + ["--draft", "random:int8"] + tree, "cuda:99")
        for draft in ["ngram", "random:qwen3-0.6b", exampleModel] {
            try expectFailure(Self.shape + ["--draft", draft] + tree, "--draft-tree")
        }
    }

    @Test func help() throws {
        let outcome = try minima("bench", "--help")
        #expect(outcome.code == 0 && outcome.errors.isEmpty)
        for text in [
            "USAGE: minima bench", "--shape",
            "qwen3-0.6b", "qwen3-1.7b", "qwen3-4b", "qwen3-8b", "qwen3-14b", "qwen3-32b", "--sizes",
            "--weights", "FORMAT[/split][:SHARE[@PART]][:intBITS[u]|:fp8][+headBITS[u]|+headfp8]",
            "Default: dense.",
            "--plan",
            "--context", "(default: 8192)", "--requests", "--steps", "--repeats", "--chunk",
            "--kv-dtype", "--kernel-cache", "--peer", "--out", "--seed", "--device",
            "(default: cuda:0)", "--json", "random", "or 7 as it does", "Default: 5.",
        ] {
            #expect(outcome.output.contains(text), "\(text)")
        }
        #expect(try minima("--help").output.contains("bench"))
    }

    @Test("perplexity through the decoding kernels needs a GPU")
    func decodedPerplexity() throws {
        let eval = ["eval", exampleModel, "--text", exampleText, "--context", "32", "--decode"]
        try expectFailure(eval + ["--device", "cuda:99"], "cuda:99")
        for (more, hints) in [
            (["--device", "cpu"], ["--decode", "GPU", "--device cpu"]),
            (["--against", exampleModel], ["--decode", "--against"]),
            (["--dtype", "float32"], ["--decode", "bfloat16", "--dtype"]),
            (["--kv-dtype", "float16"], ["--kv-dtype", "float16", "float8"]),
        ] {
            let outcome = try Run(eval + more).wait()
            #expect(outcome.code == 2 && outcome.output.isEmpty, "\(outcome.errors)")
            for hint in hints { #expect(outcome.errors.contains(hint), "\(outcome.errors)") }
        }
        // No device named: an error where there is no GPU, a perplexity where there is one.
        let outcome = try Run(eval + ["--windows", "1"]).wait()
        if outcome.code == 0 {
            #expect(outcome.output.contains("perplexity"))
        } else {
            #expect(outcome.code == 1 && outcome.output.isEmpty)
            #expect(outcome.errors.contains("minima: error: "), "\(outcome.errors)")
            #expect(outcome.errors.contains("cuda"), "\(outcome.errors)")
        }
    }
}
