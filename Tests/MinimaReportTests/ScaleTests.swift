import Glibc
import Testing

@testable import MinimaReport

@Suite struct ScaleTests {
    @Test func theRampKnowsItsEnds() {
        #expect(Ramp.level(0) == 0 && Ramp.level(1) == Ramp.levels - 1)
        #expect(Ramp.level(-3) == 0 && Ramp.level(7) == Ramp.levels - 1)
        #expect(Ramp.level(.nan) == nil && Ramp.level(.infinity) == nil)
    }

    /// Lightness alone must tell the levels apart: equal steps, as far as eight bits allow.
    @Test func theRampClimbsInEqualSteps() throws {
        let lightness = try (0..<Ramp.levels).map { level in
            try luminance(Ramp.color(Double(level) / Double(Ramp.levels - 1)))
        }
        let steps = zip(lightness, lightness.dropFirst()).map { $1 - $0 }
        let even = (0.94 - 0.29) / Double(Ramp.levels - 1)
        // Half a step of each of three channels of eight bits, at both ends of a step.
        for step in steps { #expect(abs(step - even) < 2 * 0.5 * 3 / 255) }
    }

    /// OKLab's lightness of `#rrggbb`.
    private func luminance(_ color: String) throws -> Double {
        let value = try #require(Int(color.dropFirst(), radix: 16))
        #expect(color.count == 7)
        let channels = [value >> 16, value >> 8 & 255, value & 255].map { channel -> Double in
            let share = Double(channel) / 255
            return share <= 0.04045 ? share / 12.92 : pow((share + 0.055) / 1.055, 2.4)
        }
        let (red, green, blue) = (channels[0], channels[1], channels[2])
        let long = 0.4122214708 * red + 0.5363325363 * green + 0.0514459929 * blue
        let middle = 0.2119034982 * red + 0.6806995451 * green + 0.1073969566 * blue
        let short = 0.0883024619 * red + 0.2817188376 * green + 0.6299787005 * blue
        return 0.2104542553 * cbrt(long) + 0.7936177850 * cbrt(middle)
            - 0.0040720468 * cbrt(short)
    }

    @Test(arguments: [
        ([0.02, 3.0], -2...1), ([1.0], 0...1), ([0.001, 0.001], -3 ... -2),
        ([1e-9, 1e9, .nan, -1, 0], -9...9),
    ])
    func logarithmicAxesEndAtPowersOfTen(values: [Double], ends: ClosedRange<Int>) {
        let axis = LogAxis(values)
        #expect(axis?.exponents == ends)
        #expect((axis?.ticks.count ?? 0) <= 6)
        #expect(axis?.share(exponent: ends.lowerBound) == 0)
        #expect(axis?.share(exponent: ends.upperBound) == 1)
    }

    @Test func nothingDrawableHasNoAxis() {
        #expect(LogAxis([0, -1, .nan, .infinity, 1e300]) == nil)
        #expect(LogAxis([]) == nil)
    }

    @Test func valuesBeyondStayAtTheEnds() {
        let axis = LogAxis([0.01, 1])
        #expect(axis?.share(0.1) == 0.5)
        #expect(axis?.share(5) == 1 && axis?.share(1e-9) == 0 && axis?.share(-1) == 0)
    }

    @Test(arguments: [(0, "1"), (-2, "0.01"), (3, "1000"), (-4, "10⁻⁴"), (12, "10¹²")])
    func powersOfTen(exponent: Int, text: String) {
        #expect(Figure.power(exponent) == text)
    }

    @Test func meansAndSumsNeedEveryPart() {
        #expect(Figure.mean([1, 3]) == 2)
        #expect(Figure.mean([1, nil]) == nil && Figure.mean([]) == nil)
        #expect(Figure.mean([1, .nan]) == nil && Figure.sum([1, .infinity]) == nil)
        #expect(Figure.sum([1, 2]) == 3)
        #expect(Figure.sum([.greatestFiniteMagnitude, .greatestFiniteMagnitude]) == nil)
    }

    @Test func coordinatesOfManyCellsAreShort() {
        #expect(Figure.tenths(3) == "3" && Figure.tenths(-2.26) == "-2.3")
        #expect(Figure.tenths(.nan) == "0" && Figure.tenths(-0.01) == "0")
        #expect(Figure.integer(1e300) == .max && Figure.integer(-1e300) == .min)
        #expect(Figure.integer(.nan) == 0 && Figure.integer(2.5) == 3)
    }

    @Test func pointsWithoutAPlaceAreCounted() {
        let points = [(1.0, 1.0), (0, 1), (1, .nan), (-1, 1), (2, 0.5)]
        let scatter = Scatter(
            title: "t", xLabel: "x", yLabel: "y",
            groups: [
                .init(label: "a", colorClass: "s1", points: points.map { ($0.0, $0.1, "p") })
            ])
        #expect(scatter.hidden == 3)
        #expect(scatter.drawable.first?.points.count == 2)
        let many = Scatter(
            title: "t", xLabel: "x", yLabel: "y",
            groups: [
                .init(
                    label: "a", colorClass: "s1",
                    points: (0..<10_000).map { (Double($0 + 1), 1, "p") })
            ])
        #expect((many.drawable.first?.points.count ?? 0) <= Scatter.mostPoints)
    }
}
