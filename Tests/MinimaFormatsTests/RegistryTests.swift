import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

/// Every registered format keeps every promise of `LinearWeight`.
@Suite struct RegistryTests {
    static let names = FormatRegistry.all.map { $0.name }

    private func with(_ name: String, _ body: (any FormatChecks) throws -> Void) throws {
        func checks<Format: LinearWeight>(_ type: Format.Type) -> any FormatChecks {
            FormatChecker<Format>()
        }
        try body(checks(FormatRegistry.format(name)))
    }

    @Test func namesAreUniqueAndFound() throws {
        #expect(Set(Self.names).count == Self.names.count)
        for name in Self.names { #expect(try FormatRegistry.format(name).name == name) }
        #expect(throws: FormatError.unknownFormat("LowRank", known: Self.names)) {
            try FormatRegistry.format("LowRank")
        }
    }

    @Test(arguments: names) func layoutsAreKept(name: String) throws {
        try with(name) { try $0.layoutsAreKept() }
    }

    @Test(arguments: names) func forwardIsTheMatrix(name: String) throws {
        try with(name) { try $0.forwardIsTheMatrix() }
    }

    @Test(arguments: names) func decodePiecesAreTheMatrix(name: String) throws {
        try with(name) { try $0.decodePiecesAreTheMatrix() }
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

    @Test(arguments: names) func outputMetricLowersTheWeightedError(name: String) throws {
        try with(name) { try $0.outputMetricLowersTheWeightedError() }
    }

    @Test(arguments: names) func hostileSpecsAreRefused(name: String) throws {
        try with(name) { try $0.hostileSpecsAreRefused() }
    }
}

/// Every registered format that has a specification per budget keeps the promises of
/// `BudgetedFormat`.
@Suite struct BudgetTests {
    static let names = FormatRegistry.all.filter { $0 is any BudgetedFormat.Type }
        .map { $0.name }

    private func with(_ name: String, _ body: (any BudgetChecks) throws -> Void) throws {
        func checks<Format: BudgetedFormat>(_ type: Format.Type) -> any BudgetChecks {
            BudgetChecker<Format>()
        }
        let format = try #require(FormatRegistry.format(name) as? any BudgetedFormat.Type)
        try body(checks(format))
    }

    @Test(arguments: names) func fullRankIsExact(name: String) throws {
        try with(name) { try $0.fullRankIsExact() }
    }

    @Test(arguments: names) func budgetsAreKept(name: String) throws {
        try with(name) { try $0.budgetsAreKept() }
    }

    @Test(arguments: names) func errorFallsWithTheBudget(name: String) throws {
        try with(name) { try $0.errorFallsWithTheBudget() }
    }

    @Test(arguments: names) func everyShapeIsMultiplied(name: String) throws {
        try with(name) { try $0.everyShapeIsMultiplied() }
    }

    @Test(arguments: names) func nothingOfAnyShapeStaysNothing(name: String) throws {
        try with(name) { try $0.nothingOfAnyShapeStaysNothing() }
    }
}

/// `FormatChecker` without its type parameter.
protocol FormatChecks {
    func layoutsAreKept() throws
    func forwardIsTheMatrix() throws
    func decodePiecesAreTheMatrix() throws
    func halfPrecisionWorks() throws
    func roundTrips() throws
    func twoRunsAreIdentical() throws
    func gradientsFlow() throws
    func brokenNumbersAreRefused() throws
    func nothingStaysNothing() throws
    func metricLowersTheWeightedError() throws
    func outputMetricLowersTheWeightedError() throws
    func hostileSpecsAreRefused() throws
}

extension FormatChecker: FormatChecks {}

/// `BudgetChecker` without its type parameter.
protocol BudgetChecks {
    func fullRankIsExact() throws
    func budgetsAreKept() throws
    func errorFallsWithTheBudget() throws
    func everyShapeIsMultiplied() throws
    func nothingOfAnyShapeStaysNothing() throws
}

extension BudgetChecker: BudgetChecks {}
