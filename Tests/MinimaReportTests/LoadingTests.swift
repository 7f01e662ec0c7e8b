import FoundationEssentials
import Glibc
import MinimaCore
import MinimaReport
import MinimaTestSupport
import Testing

@Suite struct LoadingTests {
    /// Runs `body` in a directory that exists only meanwhile.
    private func withDirectory(_ body: (String) throws -> Void) throws {
        let scratch = try Scratch()
        try body(scratch.path)
    }

    private func write(_ text: String, to path: String) throws {
        try Data(text.utf8).write(to: URL(fileURLWithPath: path))
    }

    @Test func everyKindFindsItsPlace() throws {
        try withDirectory { directory in
            let inspection = Sample.inspection(
                Sample.dense, format: "dense", upProjection: 12_288, parameters: 4_203_776)
            let generation = Sample.generation(Sample.dense, text: "x")
            let texts = [
                try generation.json(), try Sample.evaluations[0].json(),
                try Sample.compression.json(), try inspection.json(),
                try Sample.evaluations[1].json(), try Sample.ablation.json(),
                try Sample.analysis().json(), try Sample.planned().plan.json(),
                try Sample.healing().json(), try Sample.bench.json(),
                try Sample.costs.json(), try Sample.speed.json(),
            ]
            let files = texts.indices.map { "\(directory)/\($0).json" }
            for (file, text) in zip(files, texts) { try write(text, to: file) }
            let report = try Report.load(files: files)
            #expect(report.evaluations == Sample.evaluations)
            #expect(report.compressions == [Sample.compression])
            #expect(report.inspections == [inspection])
            #expect(report.generations == [generation])
            #expect(report.analyses == [Sample.analysis()])
            #expect(report.plans == [Sample.planned().plan])
            #expect(report.ablations == [Sample.ablation])
            #expect(report.healings == [Sample.healing()])
            #expect(report.benches == [Sample.bench])
            #expect(report.costs == [Sample.costs])
            #expect(report.speeds == [Sample.speed])
            #expect(report.html().contains("Decoding times: <bdi>NVIDIA H200</bdi>"))
            #expect(report.title == "tiny: dense, compressed and healed")
        }
    }

    @Test func aCompressedModelStandsForItsAccount() throws {
        try withDirectory { directory in
            try FileManager.default.createDirectory(
                atPath: "\(directory)/tiny-35", withIntermediateDirectories: true)
            try write(try Sample.compression.json(), to: "\(directory)/tiny-35/minima.json")
            for path in ["\(directory)/tiny-35", "\(directory)/tiny-35/minima.json"] {
                let report = try Report.load(files: [path])
                #expect(report.compressions == [Sample.compression])
                #expect(report.table().contains("\ntiny-35 "))
            }
        }
    }

    @Test func aHealedModelStandsForItsAccount() throws {
        try withDirectory { directory in
            try FileManager.default.createDirectory(
                atPath: "\(directory)/tiny-healed", withIntermediateDirectories: true)
            try write(try Sample.healing().json(), to: "\(directory)/tiny-healed/minima.json")
            let report = try Report.load(files: ["\(directory)/tiny-healed"])
            #expect(report.healings == [Sample.healing()])
            #expect(report.compressions == [Sample.compression])
            #expect(report.table().contains("\ntiny-healed "))
        }
    }

    @Test(arguments: [
        ("{", "not valid JSON at line 1"),
        ("{\"kind\": \"evaluation\", \"model\": \"\\ud800\"}", "a lone surrogate"),
        ("{\"kind\": \"evaluation\"}", "is missing"),
        ("{\"kind\": \"novel\"}", "\"novel\" are unknown; the kinds are inspection, evaluation"),
        ("[]", "\"kind\" is missing"), ("", "the text ends"),
    ])
    func aBadFileIsNamed(text: String, says: String) throws {
        try withDirectory { directory in
            let path = "\(directory)/bad.json"
            try write(text, to: path)
            let error = #expect(throws: ReportError.self) { try Report.load(files: [path]) }
            let message = error?.description ?? ""
            #expect(message.hasPrefix("\(path): "), "\(message)")
            #expect(message.contains(says), "\(message)")
        }
    }

    @Test func filesThatAreNoResultsAreNamed() throws {
        try withDirectory { directory in
            let notText = "\(directory)/bytes.json"
            try Data([0x7B, 0xFF, 0x7D]).write(to: URL(fileURLWithPath: notText))
            let weights = "\(directory)/model.safetensors"
            try Data().write(to: URL(fileURLWithPath: weights))
            // Sparse: takes no room on the disk.
            #expect(truncate(weights, (1 << 30) + 1) == 0)
            for (path, says) in [
                ("\(directory)/absent.json", "there is no such file"),
                (directory, "has no minima.json"), (notText, "not UTF-8"),
                (weights, "it has 1073741825 bytes, at most 1073741824 are read"),
            ] {
                let error = #expect(throws: ReportError.self) { try Report.load(files: [path]) }
                #expect(error?.description.hasPrefix("\(path): ") == true)
                #expect(error?.description.contains(says) == true, "\(error?.description ?? "")")
            }
        }
    }
}
