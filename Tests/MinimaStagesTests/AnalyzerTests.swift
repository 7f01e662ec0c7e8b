import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Analysis")
struct AnalyzerTests {
    let source: Checkpoint

    init() throws { source = try goldenModel("qwen3-gqa4-tied-v5") }

    /// - Parameter probes: Fewer than 20 train no predictor, which most of the time would go to.
    private func request(_ directory: String? = nil, probes: Int = 8) throws -> Analyzer.Request {
        let vocabulary = try source.config.int("vocab_size")
        let windows = (0..<6).map { someTokens(32, vocabulary: vocabulary, seed: $0 + 1) }
        var request = Analyzer.Request(
            sources: [CalibrationSource(name: "tokens", windows: Array(windows[..<4]))],
            calibration: CalibrationSettings(gradientWindows: 2, seed: 1),
            probeWindows: Array(windows[4...]), version: "test")
        request.probes = probes
        request.survey.formats = ["lowrank", "interpolative", "tucker"]
        request.directory = directory
        return request
    }

    /// An analysis without what no two runs share, and without the key of statistics that only a run
    /// with a directory keeps.
    private func timeless(_ analysis: Analysis) -> Analysis {
        var analysis = analysis
        analysis.seconds = [:]
        analysis.statisticsKey = ""
        return analysis
    }

    @Test func isComplete() throws {
        var stages: [String] = []
        let (analysis, predictor) = try Analyzer(source, request(probes: 24)).run {
            if stages.last != $0.stage { stages.append($0.stage) }
        }
        #expect(analysis.sites.map(\.name) == (try source.sites().map(\.name)))
        #expect(analysis.probes.count == 24)
        #expect(analysis.probes.allSatisfy { $0.divergence >= 0 && $0.predicted != nil })
        #expect(predictor != nil && analysis.predictor?.heldOutProbes == 24)
        #expect(analysis.parameters == source.tensors.reduce(0) { $0 + $1.elementCount })
        #expect(analysis.cacheBytesPerToken > 0 && analysis.calibration.gradientWindows == 2)
        #expect(Set(analysis.seconds.keys) == ["hash", "calibrate", "survey", "probe", "train"])
        #expect(Set(["survey", "probe", "train"]).isSubset(of: stages))
        for option in analysis.sites.flatMap(\.cuts).flatMap(\.pieces).flatMap(\.options) {
            #expect(option.error == 0 ? option.damage == 0 : option.damage > 0)
        }
        for patch in analysis.sites.flatMap(\.patches) {
            #expect((0...1).contains(patch.sensitivity) && patch.recommendation != nil)
        }
        #expect(try Analysis(json: analysis.json()) == analysis)
    }

    /// Of a model in blocks of float8 the bytes are those that `compress` keeps of what no plan names.
    @Test(arguments: ["float8_e4m3fn", nil] as [String?])
    func countsBlocksOfFloat8AsTheyAreRead(dtype: String?) throws {
        let scratch = try Scratch()
        let dense = try goldenModel("qwen3-gqa3-untied-bf16-v4")
        let parent = try inBlocksOfFloat8(dense, dtype: dtype, at: "\(scratch.path)/parent")
        var request = try request(probes: 0)
        request.sources = try someSources(parent, windows: 4, length: 32)
        request.probeWindows = []
        let found = try Analyzer(parent, request).run().analysis
        #expect(found.dtype == .bfloat16 && found.bytes == dense.byteCount)
    }

    /// A run that is stopped at any report of progress and started again ends as one that was not.
    @Test func resumes() throws {
        struct Stop: Error {}
        let expected = try timeless(Analyzer(source, request()).run().analysis)
        let scratch = try Scratch()
        for stage in ["survey", "probe"] {
            #expect(throws: Stop.self) {
                try Analyzer(source, request(scratch.path)).run {
                    if $0.stage == stage { throw Stop() }
                }
            }
        }
        let resumed = try Analyzer(source, request(scratch.path)).run().analysis
        #expect(timeless(resumed) == expected)
        var stages: Set<String> = []
        let again = try Analyzer(source, request(scratch.path)).run { stages.insert($0.stage) }
        #expect(timeless(again.analysis) == expected)
        #expect(resumed.statisticsKey.utf8.count == 64)
        #expect(again.analysis.statisticsKey == resumed.statisticsKey)
        #expect(!stages.contains("survey") && !stages.contains("probe"), "\(stages)")
    }

    /// What was kept for other settings is not taken.
    @Test func keepsApartWhatDiffers() throws {
        let scratch = try Scratch()
        _ = try Analyzer(source, request(scratch.path)).run()
        var other = try request(scratch.path)
        other.survey.formats = ["lowrank"]
        let found = try Analyzer(source, other).run().analysis
        let formats = found.sites.flatMap(\.cuts).flatMap(\.pieces).flatMap(\.options)
        #expect(Set(formats.map(\.spec.format)) == ["dense", "lowrank"])
    }

    /// Patches asked for take the place of the family's in statistics, cuts and what is kept.
    @Test func patchesAreOverridden() throws {
        let scratch = try Scratch()
        let before = try Analyzer(source, request(scratch.path)).run().analysis
        var other = try request(scratch.path)
        other.patches = [
            "gate_proj": PatchGrid(.outputs, count: 2), "o_proj": .init(.inputs, count: 4),
        ]
        let after = try Analyzer(source, other).run().analysis
        func counts(_ analysis: Analysis, _ role: String) -> Set<Int> {
            let all = analysis.sites.flatMap(\.patches).filter { $0.module.hasSuffix(role) }
            return Set(Dictionary(grouping: all, by: \.module).values.map(\.count))
        }
        #expect(counts(after, "gate_proj") == [2] && counts(after, "o_proj") == [4])
        #expect(counts(before, "gate_proj") != [2] && counts(before, "o_proj") != [4])
        #expect(counts(after, "up_proj") == counts(before, "up_proj"))
        for (grids, message) in [
            (["gate_proj": PatchGrid(.outputs, count: 5)], "divisor"),
            (["x": .init(.inputs, count: 1)], "q_proj"),
        ] {
            other.patches = grids
            let error = #expect(throws: PatchError.self) { try Analyzer(source, other) }
            #expect(error?.description.contains(message) == true)
        }
    }

    @Test func takesAPredictor() throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/predictor.safetensors"
        let networks = try (0..<2).map { try SensitivityNetwork(seed: $0) }
        try SensitivityPredictor(members: networks).write(to: path)
        var second = try request()
        second.predictor = path
        second.probes = 0
        let (analysis, predictor) = try Analyzer(source, second).run()
        #expect(predictor == nil && analysis.probes.isEmpty)
        #expect(analysis.predictor?.used == "predictor" && analysis.predictor?.file == path)
        #expect(analysis.predictor?.spearman == nil)
    }
}
