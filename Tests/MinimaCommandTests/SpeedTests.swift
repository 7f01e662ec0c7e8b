import Foundation
import MinimaTestSupport
import Testing

@Suite("Speed as in the paper's section 5.2, from the command line")
struct SpeedTests {
    private static let models = ["speed", exampleModel, exampleModel, "--text", exampleText]
    private static let shape = ["speed", "--shape", "qwen3-32b"]

    @Test(
        "wrong usage exits with 2 and says what was found and what is right",
        arguments: [
            (["speed"], ["--shape", "--sizes"]),
            (["speed", "x"], ["two models", "found 1"]),
            (["speed", "x", "y"], ["--text"]),
            (["speed", "x", "--shape", "qwen3-8b"], ["--shape"]),
            (["speed", "--shape", "qwen3-9b"], ["qwen3-9b", "qwen3-32b"]),
            (models + ["--weights", "dense"], ["--weights", "--shape"]),
            (models + ["--acceptance", "2"], ["--acceptance", "random"]),
            (models + ["--draft", "random:int8"], ["--draft random", "--shape"]),
            (models + ["--speculate", "3"], ["--speculate", "--draft"]),
            (models + ["--draft", "ngram", "--speculate", "off"], ["--speculate off"]),
            (models + ["--requests", "1", "0"], ["--requests", "found 0"]),
            (models + ["--tokens", "1"], ["--tokens", "found 1"]),
            (models + ["--repeats", "0"], ["--repeats", "found 0"]),
            (models + ["--vram", "0"], ["--vram", "found 0"]),
            (shape + ["--device", "cpu"], ["GPU"]),
            (shape + ["--text", "x"], ["--text"]),
            (shape + ["--weights", "dense"], ["--weights", "two", "found 1"]),
            (shape + ["--weights", "dense", "svd:0.3"], ["svd"]),
            (shape + ["--draft", "random:int7"], ["random:int7"]),
            (shape + ["--speculate", "3", "--acceptance", "4.5"], ["--acceptance", "4.0"]),
        ])
    func usage(arguments: [String], hints: [String]) throws {
        let outcome = try Run(arguments).wait()
        #expect(outcome.code == 2, "\(outcome.errors)")
        #expect(outcome.output.isEmpty && outcome.errors.contains("Usage: minima speed"))
        for hint in hints { #expect(outcome.errors.contains(hint), "\(outcome.errors)") }
    }

    /// Through the engine, on the CPU: three configurations of two numbers of requests.
    @Test func onTheExampleModel() throws {
        let scratch = try Scratch()
        let out = "\(scratch.path)/speed.json"
        let outcome = try Run(
            Self.models + [
                "--draft", "ngram", "--speculate", "3", "--context", "48", "--tokens", "8",
                "--repeats", "2", "--requests", "1", "5", "--device", "cpu", "--threads", "1",
                "--json", "--out", out,
            ]
        ).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        let json = try outcome.json()
        #expect(json["kind"] as? String == "speed" && json["method"] as? String == "requests")
        #expect(json["dtype"] as? String == "float32" && json["context"] as? Int == 48)
        let rows = try #require(json["rows"] as? [[String: Any]])
        #expect(
            rows.map { $0["configuration"] as? String } == [
                "dense", "compressed", "speculation", "dense", "compressed", "speculation",
            ])
        #expect(rows.map { $0["requests"] as? Int } == [1, 1, 1, 5, 5, 5])
        for row in rows {
            let speed = try #require(row["tokens_per_second"] as? [String: Any])
            let median = try #require(speed["median"] as? Double)
            #expect(median > 0 && speed["repetitions"] as? Int == 2)
            let first = try #require(row["first_token"] as? [String: Any])
            #expect((first["median"] as? Double ?? 0) > 0)
            #expect((row["peak_bytes"] as? Int ?? 0) > 16 << 20)
            let isDraft = row["configuration"] as? String == "speculation"
            #expect((row["acceptance_length"] as? Double != nil) == isDraft)
            if isDraft { #expect(row["acceptance_length"] as? Double ?? 0 >= 1) }
        }
        // What was written is what was printed, and makes a report.
        let stored = try Data(contentsOf: URL(fileURLWithPath: out))
        #expect(
            try JSONSerialization.jsonObject(with: stored) as? NSDictionary == json as NSDictionary)
        let page = "\(scratch.path)/report.html"
        let report = try Run(["report", out, "--out", page]).wait()
        #expect(report.code == 0, "\(report.errors)")
        #expect(try String(contentsOfFile: page, encoding: .utf8).contains("section 5.2"))
    }

    @Test func promptsBeyondTheContext() throws {
        let outcome = try Run(Self.models + ["--context", "8190", "--device", "cpu"]).wait()
        #expect(outcome.code == 1)
        #expect(outcome.errors.contains("8190") && outcome.errors.contains("8192"))
    }

    /// A cap that holds neither model nor pages is refused before anything is loaded, with what it
    /// would take.
    @Test(arguments: ["generate", "serve", "speed"])
    func vramIsKept(command: String) throws {
        let arguments =
            switch command {
            case "generate": [command, exampleModel, "--prompt", "a", "--max-tokens", "5"]
            case "serve": [command, exampleModel, "--port", "0", "--context", "64"]
            default: Self.models + ["--context", "16", "--tokens", "4", "--requests", "1"]
            }
        let outcome = try Run(arguments + ["--device", "cpu", "--vram", "0.01"]).wait()
        #expect(outcome.code == 1, "\(outcome.errors)")
        // Weights of 16.6 MB and 10.7 that are allowed.
        #expect(outcome.errors.contains("--vram allows 10.74 MB"), "\(outcome.errors)")
        #expect(outcome.errors.contains("16.63 MB"), "\(outcome.errors)")
    }

    @Test func memoryIsExplainedWithinVram() throws {
        let outcome = try Run([
            "generate", exampleModel, "--explain-memory", "--device", "cpu", "--vram", "4",
            "--parallel", "1",
        ]).wait()
        #expect(outcome.code == 0, "\(outcome.errors)")
        #expect(outcome.output.contains("--vram    4.29 GB"), "\(outcome.output)")
    }

    /// A server says so without listening, for requests as long as it takes them.
    @Test func serversExplainTheirMemory() throws {
        let outcome = try Run([
            "serve", exampleModel, "--explain-memory", "--device", "cpu", "--max-requests", "7",
            "--context", "1500",
        ]).wait()
        #expect(outcome.code == 0 && outcome.errors.isEmpty, "\(outcome.errors)")
        #expect(outcome.output.contains("with --max-requests 7"), "\(outcome.output)")
        let lengths = outcome.output.split(separator: "\n").dropLast().suffix(3).map {
            $0.split(separator: " ").first
        }
        #expect(lengths == ["512", "1,024", "1,500"])
        // Without --context, requests are as long as there is memory for beside the others.
        let small = try Run([
            "serve", exampleModel, "--explain-memory", "--device", "cpu", "--max-requests", "4",
            "--vram", "0.09",
        ]).wait()
        #expect(small.code == 0, "\(small.errors)")
        let rows = small.output.split(separator: "\n").dropLast().drop {
            !$0.contains("pages each")
        }.dropFirst()
        #expect(!rows.isEmpty, "\(small.output)")
        for row in rows {
            let requests = row.split(separator: " ").dropFirst().first.flatMap { Int($0) }
            #expect(requests ?? 0 > 0, "\(small.output)")
        }
    }
}
