import MinimaCore
import Testing

@testable import MinimaReport

@Suite struct LineageTests {
    private func labels(_ report: Report) -> [String] {
        report.lineage.models.map {
            report.lineage.label($0) + (report.lineage.isDense($0) ? " (dense)" : "")
        }
    }

    @Test func aCompressionFindsItsModelBySize() {
        let report = Report(
            title: "t", evaluations: [Sample.evaluations[1]], compressions: [Sample.compression])
        #expect(labels(report) == ["tiny (dense)", "tiny-lowrank"])
        #expect(report.lineage.outputs == [ModelPath(Sample.small)])
    }

    @Test func aModelOfAnotherDenseModelIsNotTaken() {
        let other = Sample.evaluation(
            "out/other", against: "models/other", perplexity: 40, parameters: 2_932_001)
        let report = Report(
            title: "t", evaluations: Sample.evaluations + [other],
            compressions: [Sample.compression])
        #expect(report.lineage.outputs == [ModelPath(Sample.small)])
    }

    @Test func modelsOfOneSizeAreToldApartByFormatOnly() {
        let twin = Sample.evaluation(
            "out/twin", against: Sample.dense, perplexity: 40, parameters: 2_932_001)
        let ambiguous = Report(
            title: "t", evaluations: Sample.evaluations + [twin],
            compressions: [Sample.compression])
        #expect(ambiguous.lineage.outputs == [ModelPath("tiny, lowrank, ratio 0.35")])

        let lowRank = Sample.inspection(
            Sample.small, format: "lowrank", upProjection: 8_000, parameters: 2_932_001)
        let train = Sample.inspection(
            "out/twin", format: "tt", upProjection: 8_000, parameters: 2_932_001)
        let told = Report(
            title: "t", inspections: [lowRank, train], evaluations: Sample.evaluations + [twin],
            compressions: [Sample.compression])
        #expect(told.lineage.outputs == [ModelPath(Sample.small)])
    }

    @Test func descendantsCompareWithTheDenseModelTheyCameFrom() {
        let healed = Sample.evaluation(
            "out/healed", against: Sample.small, perplexity: 30, parameters: 2_932_001)
        let report = Report(title: "t", evaluations: [healed] + Sample.evaluations)
        #expect(labels(report) == ["tiny (dense)", "tiny-lowrank", "healed"])
        #expect(report.table().contains("30.000 1.46×"))
    }

    @Test func circlesAndSelfReferencesEnd() {
        let report = Report(
            title: "t",
            evaluations: [
                Sample.evaluation("a", against: "b", perplexity: 2, parameters: 1),
                Sample.evaluation("b", against: "a", perplexity: 2, parameters: 1),
                Sample.evaluation("c", against: "c", perplexity: 2, kl: 0, parameters: 1),
            ])
        #expect(Set(labels(report)) == ["a", "b", "c"])
        #expect(!report.table().contains("×"))
    }
}
