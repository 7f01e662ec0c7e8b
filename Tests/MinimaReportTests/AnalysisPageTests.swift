import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct AnalysisPageTests {
    @Test func everyQuestionHasItsAnswer() {
        let page = checkedPage(Sample.complete())
        let headings = page.attributes.filter { $0.name == "id" }.map(\.value)
        #expect(
            headings == [
                "result", "answers", "comparison", "ablation", "sensitivity", "allocation",
                "layers", "predictor", "provenance",
            ])
        for text in [
            "ref: At 10.4 bits per linear weight, int8 alone wins: KL 0.000500 (mean of 2 texts); "
                + "the best tensor-network plan (tt alone): 0.210; the baseline (uniform ranks): "
                + "0.610.",
            "ref: At 65.0 % of the linear parameters, + mixed families wins: KL 0.330",
            "ref, at 65.0 % of the linear parameters: KL 0.610 with uniform ranks, 0.410 with sensitivity (−32.8 %).",
            "ref, at 10.4 bits per linear weight: no, tt alone has KL 0.210, int8 alone 0.000500, "
                + "420 times apart; both together (+ quantised cores): 0.0210.",
            "ref, at 65.0 % of the linear parameters: yes, KL 0.330 with + mixed families, 0.430 with "
                + "tucker alone, the best single family (−23.3 %).",
            "ref, at 10.4 bits per linear weight: no, KL 0.0210 with + quantised cores, 0.000500 "
                + "with int8 alone, the best single family (+4100 %).",
            "Most often int4: 20 of 63", "predicted 0.310", "trained on 96 probes", "0.953",
            "0.912", "16.0 → 11.2", "6 blocks of tt, int4", "3.221 GB", "auto",
            "fit 50.0 s, calibrate 40.0 s, load 2.00 s, write 2.00 s, hash 1.50 s",
            "wiki-calib.txt (96 windows, weight 1), books-calib.txt (32 windows, weight 0.5)",
            "in the inputs of 20 sites", "Sum over 44 modules: predicted",
        ] {
            #expect(page.text.contains(text), "\(text)")
        }
    }

    @Test func everyPatchHasACellThatSaysWhatItIs() {
        let page = checkedPage(Report(title: "t", analyses: [Sample.analysis()]))
        let levels = page.attributes.filter { $0.name == "class" && isLevel($0.value) }
        // 10 layers of 4 times 2 and 3 times 8 patches, the ramp's legend and its two examples.
        #expect(levels.count == 10 * 32 + Ramp.levels + 2)
        #expect(page.text.contains("layer 9, mlp.down_proj, patch 7: "))
        #expect(page.text.contains("; activation 1.25, condition "))
        #expect(page.text.contains("kurtosis 3."))
    }

    private func isLevel(_ name: String) -> Bool {
        name.hasPrefix("v") && Int(name.dropFirst()) != nil
    }

    @Test func aModelOf64LayersFitsInAMegabyte() {
        let shape = SampleShape.large
        let report = Report(
            title: "t", compressions: [Sample.planned(shape)], analyses: [Sample.analysis(shape)])
        #expect(report.html().utf8.count < 1_000_000)
        let page = checkedPage(report)
        let levels = page.attributes.filter { $0.name == "class" && isLevel($0.value) }
        #expect(levels.count == 64 * 56 + Ramp.levels + 2)
    }

    @Test func expertsShareACell() throws {
        var analysis = Sample.analysis()
        let first = try #require(analysis.sites[0].patches.first)
        analysis.sites = (0..<2).map { layer in
            var site = analysis.sites[0]
            site.layer = layer
            site.patches = (0..<100).map { expert in
                var patch = first
                patch.module = "model.layers.\(layer).mlp.experts.\(expert).up_proj"
                patch.sensitivity = Double(expert) / 99
                return patch
            }
            return site
        }
        let map = SensitivityMap(analysis)
        #expect(map.roles.map(\.name) == ["mlp.experts.*.up_proj"])
        #expect(map.roles.map(\.short) == ["up"])
        #expect(map.columns == 1 && map.layers == [0, 1])
        let cell = try #require(map.cell(layer: 1, role: map.roles[0], patch: 0))
        #expect(cell.count == 100)
        #expect(abs((cell.sensitivity ?? 0) - 0.5) < 1e-12)
    }

    @Test func unknownSensitivitiesAreOutlines() {
        var analysis = Sample.analysis()
        analysis.sites[0].patches[0].sensitivity = .nan
        let page = checkedPage(Report(title: "t", analyses: [analysis]))
        #expect(page.attributes.count { $0.name == "class" && $0.value == "vx" } == 1)
        #expect(page.text.contains("layer 0, self_attn.q_proj, patch 0: –"))
    }

    @Test func whatNoScreenShowsIsATable() {
        var analysis = Sample.analysis()
        let patch = analysis.sites[0].patches[0]
        analysis.sites[0].patches = (0..<30_000).map { index in
            var patch = patch
            patch.index = index
            return patch
        }
        let page = checkedPage(Report(title: "t", analyses: [analysis]))
        #expect(page.text.contains("are too many to draw"))
        #expect(page.text.contains("The 10 most fragile patches"))
        #expect(!page.attributes.contains { isLevel($0.value) })
    }

    @Test func emptyResultsMakeAPage() {
        var analysis = Sample.analysis()
        analysis.sites = []
        analysis.probes = []
        analysis.predictor = nil
        var compression = Sample.planned()
        compression.modules = []
        var ablation = Sample.ablation
        ablation.rows = []
        let report = Report(
            title: "t", compressions: [compression], analyses: [analysis], plans: [Sample.plan],
            ablations: [ablation])
        let headings = checkedPage(report).attributes.filter { $0.name == "id" }.map(\.value)
        #expect(headings == ["result", "comparison", "provenance"])
    }

    @Test func severalModelsKeepApart() {
        let other = SampleShape(model: "models/other", layers: 3)
        var analysis = Sample.analysis(other)
        analysis.fingerprints = ["model.safetensors": "aaaa"]
        var compression = Sample.planned(other)
        compression.parentHashes = analysis.fingerprints
        let report = Report(
            title: "t", compressions: [Sample.planned(), compression],
            analyses: [Sample.analysis(), analysis])
        let allocations = Allocation.all(of: report)
        #expect(allocations.map(\.analysis) == [0, 1])
        #expect(allocations.map { $0.layers.count } == [10, 3])
        let page = checkedPage(report)
        #expect(page.attributes.count { $0.value == "Sensitivity map" } == 2)
    }
}
