import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// Every registered format keeps every promise of `LinearWeight`.
@Suite struct RegistryTests {
    static let names = FormatRegistry.all.map { $0.name }

    private func with(_ name: String, _ body: (any CheckerBox) throws -> Void) throws {
        func box<Format: LinearWeight>(_ type: Format.Type) -> any CheckerBox {
            FormatChecker<Format>()
        }
        try body(box(FormatRegistry.format(name)))
    }

    @Test func namesAreUniqueAndFound() throws {
        #expect(Set(Self.names).count == Self.names.count)
        #expect(Self.names == ["dense", "lowrank", "tucker", "tt", "tr"])
        #expect(throws: FormatError.unknownFormat("cp", known: Self.names)) {
            try FormatRegistry.format("cp")
        }
    }

    @Test(arguments: names) func fullRankIsExact(name: String) throws {
        try with(name) { try $0.fullRankIsExact() }
    }

    @Test(arguments: names) func countsAreExact(name: String) throws {
        try with(name) { try $0.countsAreExact() }
    }

    @Test(arguments: names) func budgetsAreKept(name: String) throws {
        try with(name) { try $0.budgetsAreKept() }
    }

    @Test(arguments: names) func errorFallsWithTheBudget(name: String) throws {
        try with(name) { try $0.errorFallsWithTheBudget() }
    }

    @Test(arguments: names) func forwardIsTheMatrix(name: String) throws {
        try with(name) { try $0.forwardIsTheMatrix() }
    }

    @Test(arguments: names) func halfPrecisionWorks(name: String) throws {
        try with(name) { try $0.halfPrecisionWorks() }
    }

    @Test(arguments: names) func roundTrips(name: String) throws {
        try with(name) { try $0.roundTrips() }
    }

    @Test(arguments: names) func twoRunsAreIdentical(name: String) throws {
        try with(name) { try $0.twoRunsAreIdentical() }
    }

    @Test(arguments: names) func gradientsFlow(name: String) throws {
        try with(name) { try $0.gradientsFlow() }
    }

    @Test(arguments: names) func brokenNumbersAreRefused(name: String) throws {
        try with(name) { try $0.brokenNumbersAreRefused() }
    }

    @Test(arguments: names) func nothingStaysNothing(name: String) throws {
        try with(name) { try $0.nothingStaysNothing() }
    }

    @Test(arguments: names) func metricLowersTheWeightedError(name: String) throws {
        try with(name) { try $0.metricLowersTheWeightedError() }
    }

    @Test(arguments: names) func hostileSpecsAreRefused(name: String) throws {
        try with(name) { try $0.hostileSpecsAreRefused() }
    }
}

/// `FormatChecker` without its type parameter.
protocol CheckerBox {
    func fullRankIsExact() throws
    func countsAreExact() throws
    func budgetsAreKept() throws
    func errorFallsWithTheBudget() throws
    func forwardIsTheMatrix() throws
    func halfPrecisionWorks() throws
    func roundTrips() throws
    func twoRunsAreIdentical() throws
    func gradientsFlow() throws
    func brokenNumbersAreRefused() throws
    func nothingStaysNothing() throws
    func metricLowersTheWeightedError() throws
    func hostileSpecsAreRefused() throws
}

extension FormatChecker: CheckerBox {}
