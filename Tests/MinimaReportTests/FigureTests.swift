import Testing

@testable import MinimaReport

@Suite struct FigureTests {
    @Test(arguments: [
        (20.5121, 5, "20.512"), (37.2, 5, "37.200"), (0.59333, 4, "0.5933"), (0, 4, "0"),
        (9.99996, 5, "10.000"), (99_999.6, 5, "100000"), (0.000123456, 4, "0.0001235"),
        (0.0000123456, 4, "1.235e−05"), (12_345_678, 5, "1.2346e+07"), (-1.5, 2, "−1.5"),
        (.infinity, 5, "–"), (.nan, 5, "–"), (1e-300, 3, "1e-300"), (1e300, 3, "1e+300"),
    ])
    func significantDigits(value: Double, digits: Int, text: String) {
        #expect(Figure.significant(value, digits) == text)
    }

    @Test func absentValuesAreADash() {
        #expect(Figure.count(nil) == "–")
        #expect(Figure.short(nil) == "–")
        #expect(Figure.bytes(nil) == "–")
        #expect(Figure.significant(nil, 3) == "–")
        #expect(Figure.ratio(nil) == "–")
        #expect(Figure.change(.nan) == "–")
        #expect(Figure.share(.infinity) == "–")
        #expect(Figure.seconds(-1) == "–")
    }

    @Test(arguments: [
        (0, "0"), (999, "999"), (1_000, "1,000"), (-1_234_567, "−1,234,567"),
        (Int.max, "9,223,372,036,854,775,807"), (Int.min, "−9,223,372,036,854,775,808"),
    ])
    func countsAreGrouped(value: Int, text: String) {
        #expect(Figure.count(value) == text)
    }

    @Test(arguments: [
        (0, "0 B"), (999, "999 B"), (1_000, "1.000 KB"), (8_407_552, "8.408 MB"),
        (999_960_000, "1.000 GB"), (65_524_246_528, "65.52 GB"),
    ])
    func bytesHaveDecimalUnits(value: Int, text: String) {
        #expect(Figure.bytes(value) == text)
    }

    @Test func changesCarryTheirSign() {
        #expect(Figure.change(0.652) == "−34.8 %")
        #expect(Figure.change(1.81) == "+81.0 %")
        #expect(Figure.change(1.0001) == "±0 %")
        #expect(Figure.change(100) == "+9900 %")
        #expect(Figure.share(0.35) == "35.0 %")
    }

    @Test func durationsKeepTwoUnits() {
        #expect(Figure.seconds(0.25) == "0.250 s")
        #expect(Figure.seconds(12.34) == "12.3 s")
        #expect(Figure.seconds(125.4) == "2 min 05 s")
        #expect(Figure.seconds(11_220) == "3 h 07 min")
    }

    @Test func quotientsNeedAPositiveWhole() {
        #expect(Figure.quotient(1, 2) == 0.5)
        #expect(Figure.quotient(1, 0) == nil)
        #expect(Figure.quotient(1, -2) == nil)
        #expect(Figure.quotient(Double.nan, 2) == nil)
        #expect(Figure.quotient(Optional<Int>.none, 2) == nil)
    }

    @Test(arguments: [0.25, 0.3, 0.9, 1, 4.4, 7, 1e-5, 123])
    func axesEndJustAboveTheHighestValue(highest: Double) {
        let axis = Axis(upTo: highest)
        #expect(axis.end >= highest * (1 - 1e-9) && axis.end <= highest * 2.5)
        #expect((2...6).contains(axis.ticks.count))
        #expect(Set(axis.ticks.map(Figure.round)).count == axis.ticks.count)
    }

    @Test func axesOfNothingStillHaveAnEnd() {
        #expect(Axis(upTo: 0).end == 1)
        #expect(Axis(upTo: .greatestFiniteMagnitude).end.isFinite)
    }
}
