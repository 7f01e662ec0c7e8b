import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct ContestTests {
    private func verdicts(_ report: Report) -> [String] {
        Contest.all(of: report).compactMap(\.verdict)
    }

    @Test func divergedRowsCannotWin() {
        var ablation = Sample.ablation
        for index in ablation.rows.indices where ablation.rows[index].name.contains("mixed") {
            ablation.rows[index].divergence["data/wiki-valid.txt"] = .nan
        }
        let verdict = verdicts(Report(title: "t", ablations: [ablation])).first ?? ""
        #expect(
            verdict == "At 65.0 % of the linear parameters, + sensitivity wins: KL 0.410 (mean of "
                + "2 texts); the best tensor-network plan (tucker alone): 0.430; the baseline "
                + "(uniform ranks): 0.610.")
    }

    @Test func onlyTextsOfAllRowsCount() {
        var ablation = Sample.ablation
        ablation.rows[2].divergence["data/books-valid.txt"] = nil
        ablation.rows[2].divergence["another.txt"] = 0
        let contest = Contest.all(of: Report(title: "t", ablations: [ablation]))[0]
        #expect(contest.texts == ["data/wiki-valid.txt"])
        #expect(contest.verdict?.contains("wins: KL 0.330;") == true)
        for index in ablation.rows.indices { ablation.rows[index].divergence = [:] }
        #expect(verdicts(Report(title: "t", ablations: [ablation])) == [])
    }

    @Test func modelsOfOneSizeAreCompared() {
        let (first, second) = (Sample.compression, twin())
        let report = Report(
            title: nil, inspections: [],
            evaluations: [
                Sample.evaluation(
                    "out/a", against: Sample.dense, perplexity: 30, kl: 0.4, parameters: 1),
                Sample.evaluation(
                    "out/b", against: Sample.dense, perplexity: 28, kl: 0.25, parameters: 2),
            ], compressions: [(first, "out/a"), (second, "out/b")], generations: [],
            analyses: [], plans: [], ablations: [])
        let contests = Contest.all(of: report)
        // Equal in parameters, not in bytes.
        #expect(contests.map(\.equal) == ["parameters"])
        #expect(
            contests.first?.verdict
                == "At 63.7 % of the linear parameters, b wins: KL 0.250; the best without tensor "
                + "networks (a): 0.400.")
        let page = checkedPage(report)
        #expect(page.attributes.contains { $0.name == "id" && $0.value == "ablation" })
        #expect(!page.text.contains("sensitivity model worth"))
    }

    /// The sample's compression by tensor trains, in half the bytes.
    private func twin() -> CompressionResult {
        var result = Sample.compression
        result.totals.linearBytesAfter /= 2
        for index in result.modules.indices { result.modules[index].spec.format = "tt" }
        return result
    }

    @Test func modelsOfOtherSizesAreNot() {
        var other = twin()
        other.totals.linearParametersAfter /= 2
        let report = Report(
            title: nil, inspections: [],
            evaluations: [
                Sample.evaluation(
                    "out/a", against: Sample.dense, perplexity: 30, kl: 0.4, parameters: 1),
                Sample.evaluation(
                    "out/b", against: Sample.dense, perplexity: 28, kl: 0.25, parameters: 2),
            ], compressions: [(Sample.compression, "out/a"), (other, "out/b")], generations: [],
            analyses: [], plans: [], ablations: [])
        #expect(Contest.all(of: report).isEmpty)
    }

    @Test func tensorNetworksMayWin() {
        var ablation = Sample.ablation
        ablation.rows.removeAll { $0.equal == "parameters" || $0.name.contains("quantised") }
        for text in ablation.rows[2].divergence.keys { ablation.rows[2].divergence[text] = 0.0001 }
        let report = Report(title: "t", ablations: [ablation])
        let answers = Answers(Contest.all(of: report), report.lineage)
        #expect(
            answers.networks == [
                "ref, at 10.4 bits per linear weight: yes, tt alone has KL 0.000100, int8 alone "
                    + "0.000500, 5.00 times apart."
            ])
        #expect(answers.sensitivity == [])
        #expect(checkedPage(report).text.contains("These results do not say."))
    }
}
