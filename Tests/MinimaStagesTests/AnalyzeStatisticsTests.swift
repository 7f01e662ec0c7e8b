import FoundationEssentials
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels
@testable import MinimaStages

@Suite("Patch statistics")
struct AnalyzeStatisticsTests {
    private func matrix(_ json: JSON?) throws -> Tensor {
        let rows = try #require(json?.array)
        let values = try rows.map { try #require($0.array).compactMap(\.double) }
        return try Tensor(values.flatMap(\.self), shape: [rows.count, values[0].count])
    }

    /// Relative distance of two numbers, one of them rounded to five digits.
    private func isClose(_ found: Double?, _ expected: Double) -> Bool {
        // Half a unit of the fifth digit, and the damping of the factors: 1e-10 of the mean diagonal
        // times a condition of at most 1e4.
        guard let found else { return false }
        return abs(found - expected) <= 6e-5 * abs(expected) + 1e-6
    }

    @Test func areTheDefinitions() throws {
        let path = "\(packageFolder())/Tests/Goldens/analyze/statistics.json"
        let data = try #require(FileManager.default.contents(atPath: path))
        let root = try JSON(parsing: String(decoding: data, as: UTF8.self))
        for (number, item) in try #require(root["cases"]?.array).enumerated() {
            let weight = try matrix(item["weight"])
            let (m, n) = (weight.shape[0], weight.shape[1])
            let blocks = try #require(item["blocks"]?.int)
            let size = m / blocks
            let whole = try matrix(item["output"])
            let output = try OutputMetric(
                joining: (0..<blocks).map { block in
                    let range = block * size..<(block + 1) * size
                    return try OutputMetric(full: whole.narrow(0, range).narrow(1, range))
                })
            let axis = try #require(PatchGrid.Axis(rawValue: item["axis"]?.string ?? ""))
            let shape = LinearShape(
                name: "model.layers.0.q_proj", outputs: m, inputs: n,
                patches: PatchGrid(axis, count: try #require(item["count"]?.int)))
            let found = try PatchStatistics.measure(
                Site(shape, layer: 0), weight: weight, input: matrix(item["input"]),
                output: output)
            let expected = try #require(item["patches"]?.array)
            #expect(found.count == expected.count)
            for (patch, golden) in zip(found, expected) {
                for (name, value) in try #require(golden["statistics"]?.object) {
                    #expect(
                        isClose(patch.statistics[name.text], try #require(value.double)),
                        "case \(number), patch \(patch.index), \(name.text)")
                }
                for (name, values) in try #require(golden["spectra"]?.object) {
                    let spectrum = try #require(patch.spectra[name.text])
                    for (value, log) in zip(spectrum, try #require(values.array)) {
                        #expect(
                            isClose(value, try #require(log.double)),
                            "case \(number), patch \(patch.index), \(name.text)")
                    }
                    #expect(spectrum.count == PatchStatistics.spectrumLength)
                }
            }
        }
    }

    /// A long side is sampled; of a weight whose rows repeat, the sample has the same spectrum.
    @Test func samplesKeepTheEnergy() throws {
        let side = PatchStatistics.longestSide
        let generator = try RandomGenerator(seed: 3)
        let rows = try Tensor.randn([side, 1, 600], dtype: .float64, generator: generator)
        let weight = try rows.expand([side, 2, 600]).reshape([2 * side, 600])
        let shape = LinearShape(
            name: "a.up_proj", outputs: 2 * side, inputs: 600,
            patches: PatchGrid(.outputs, count: 1))
        let input = try Tensor.identity(600, dtype: .float64)
        let patch = try #require(
            try PatchStatistics.measure(
                Site(shape, layer: 0), weight: weight, input: input, output: nil
            ).first)
        let singular = try rows.reshape([side, 600]).svd().s.values(as: Double.self)
        // The first of 32 values lies between the 4th and the 5th of 256. Every row is there twice,
        // so the whole has √2 times the sample's singular values.
        let squares = try Tensor([2 * singular[3] * singular[4]]).sqrt().item()
        let first = try #require(patch.spectra["weight"]?.first)
        #expect(abs(try Tensor([first]).exp().item() / squares - 1) < 1e-4)
    }

    @Test func significantDigits() {
        #expect(significant(0.000123456789) == 0.00012346)
        #expect(significant(-98765.4321) == -98765)
        #expect(significant(0) == 0)
        #expect(significant(1e300) == 1e300)
    }

    @Test func spearmanIsTheDefinition() {
        #expect(Ranking.spearman([1, 2, 3, 4], [10, 20, 30, 40]) == 1)
        #expect(Ranking.spearman([1, 2, 3, 4], [4, 3, 2, 1]) == -1)
        // 1 − 6·Σd²/(n(n² − 1)), d² = 0, 1, 1, 0.
        #expect(abs((Ranking.spearman([1, 2, 3, 4], [1, 3, 2, 4]) ?? 0) - 0.8) < 1e-12)
        #expect(Ranking.spearman([1, 1, 1], [1, 2, 3]) == nil)
        #expect(Ranking.spearman([1, 2], [1, 2]) == nil)
        #expect(Ranking.quantile([3, 1, 2], 0.5) == 2)
        #expect(Ranking.quantile([0, 10], 0.05) == 0.5)
    }
}
