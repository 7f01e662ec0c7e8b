import MinimaCore
import Testing

@testable import MinimaLoad

@Suite("Load: distributions")
struct DistributionTests {
    private func draws(_ text: String, _ count: Int = 20_000) throws -> [Double] {
        let distribution = try LengthDistribution(text)
        #expect(try LengthDistribution(distribution.description) == distribution)
        var random = SplitMix(3)
        return (0..<count).map { _ in Double(distribution.draw(&random)) }
    }

    /// Means and medians within five standard errors.
    @Test func lengths() throws {
        #expect(try Set(draws("fixed:17", 10)) == [17] && Set(draws("9", 10)) == [9])
        let uniform = try draws("uniform:5:14")
        #expect(Set(uniform) == Set((5...14).map(Double.init)))
        // Deviation 2.87.
        let error = 5 / Double(20_000).squareRoot()
        #expect(abs(mean(uniform) - 9.5) < 2.87 * error)
        let normal = try draws("normal:500:50")
        #expect(abs(mean(normal) - 500) < 50 * error)
        let lognormal = try draws("lognormal:200:0.5").sorted()
        // The median's logarithm has a standard error of 1.2533 σ / √n.
        let deviation = abs(lognormal[10_000] / 200 - 1)
        #expect(deviation < 1.2533 * 0.5 * error + 0.5 / 200)
        #expect(try draws("normal:1:100", 1000).allSatisfy { $0 >= 1 })
        #expect(try draws("lognormal:1000000:10", 1000).allSatisfy { $0 <= 1_048_576 })
        for text in [
            "", "fixed", "fixed:0", "fixed:x", "uniform:5", "uniform:5:4", "uniform:1:2:3",
            "normal:5:-1", "normal:5:nan", "lognormal:5:11", "gamma:1:2", "-3", "fixed:1048577",
            "normal:5:inf",
        ] {
            #expect(throws: LoadError.self, "\(text)") { try LengthDistribution(text) }
        }
    }

    @Test func gaps() {
        var random = SplitMix(4)
        let gaps = (0..<20_000).map { _ in random.exponential() }
        #expect(gaps.allSatisfy { $0 >= 0 && $0.isFinite })
        let error = 5 / Double(20_000).squareRoot()
        #expect(abs(mean(gaps) - 1) < error)
        let longer = Double(gaps.count { $0 > 1 }) / 20_000
        #expect(abs(longer - 0.3679) < 0.4823 * error)
    }

    /// Percentiles to three significant digits, extremes and mean exact.
    @Test func histogram() throws {
        var random = SplitMix(5)
        var histogram = LatencyHistogram(unit: 0.001)
        #expect(histogram.summary == nil)
        let values = (0..<5000).map { _ in 100 * random.exponential() * random.exponential() }
        for value in values { histogram.add(value) }
        let summary = try #require(histogram.summary)
        let sorted = values.sorted()
        #expect(summary.count == 5000 && summary.least == sorted[0] && summary.most == sorted[4999])
        #expect(abs(summary.mean - mean(values)) < 1e-9 * summary.mean)
        for point in summary.percentiles {
            // Which of two neighbours a rank between them means is a matter of taste.
            let rank = point.percent / 100 * 5000
            let low = sorted[max(Int(rank) - 1, 0)]
            let high = sorted[min(Int(rank.rounded(.up)), 4999)]
            #expect(point.value >= low * 0.999 - 0.001 && point.value <= high * 1.001 + 0.001)
        }
        // What no clock gives is no trap.
        for value in [-1, 0, .infinity, .nan, 1e300] { histogram.add(value) }
        #expect(histogram.summary?.count == 5005)
    }

    @Test func objectives() throws {
        let limits = try Objectives("ttft:500,tpot:50")
        #expect(limits.holds(ttft: 500, tpot: 50, e2el: 1e9))
        #expect(limits.holds(ttft: 500, tpot: nil, e2el: 1e9))
        #expect(!limits.holds(ttft: 501, tpot: 50, e2el: 1))
        #expect(!limits.holds(ttft: nil, tpot: nil, e2el: 1))
        #expect(!limits.holds(ttft: 5, tpot: 51, e2el: 1))
        for text in ["", "ttft", "ttft:0", "ttft:x", "itl:5", "ttft:1,ttft:2", "e2el:inf"] {
            #expect(throws: LoadError.self, "\(text)") { try Objectives(text) }
        }
    }

    private func mean(_ values: [Double]) -> Double { values.reduce(0, +) / Double(values.count) }
}
