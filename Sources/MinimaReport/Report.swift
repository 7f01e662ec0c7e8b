import MinimaCore

/// What was measured about dense models and what was made of them, ready to be shown.
///
/// Every part may be empty; what was not measured appears as `–`. Which models are dense follows
/// from the results: those that an evaluation names in `against` or a compression in `parent`.
public struct Report: Sendable {
    /// The page's title.
    public var title: String
    /// Findings of `minima inspect`.
    public let inspections: [InspectionResult]
    /// Measurements of `minima eval`.
    public let evaluations: [EvaluationResult]
    /// Accounts of `minima compress`, those among them that healed models carry; each once.
    public let compressions: [CompressionResult]
    /// Texts of `minima generate`.
    public let generations: [GenerationResult]
    /// What `minima analyze` learned.
    public let analyses: [Analysis]
    /// Plans of `minima plan`.
    public let plans: [CompressionPlan]
    /// Comparisons of `minima ablate`.
    public let ablations: [AblationResult]
    /// Accounts of `minima heal`.
    public let healings: [HealingResult]
    /// Measurements of `minima bench`.
    public let benches: [BenchResult]
    /// Decoding times of single layers that `minima bench` measured.
    public let costs: [DecodeCosts]
    /// Comparisons of `minima speed`.
    public let speeds: [SpeedResult]
    /// Who was made of whom.
    let lineage: Lineage

    /// A report on these results.
    public init(
        title: String, inspections: [InspectionResult] = [],
        evaluations: [EvaluationResult] = [], compressions: [CompressionResult] = [],
        generations: [GenerationResult] = [], analyses: [Analysis] = [],
        plans: [CompressionPlan] = [], ablations: [AblationResult] = [],
        healings: [HealingResult] = [], benches: [BenchResult] = [], costs: [DecodeCosts] = [],
        speeds: [SpeedResult] = []
    ) {
        self.init(
            title: title, inspections: inspections, evaluations: evaluations,
            compressions: compressions.map { ($0, nil) }, generations: generations,
            analyses: analyses, plans: plans, ablations: ablations,
            healings: healings.map { ($0, nil) }, benches: benches, costs: costs, speeds: speeds)
    }

    /// A report on these results, where the directories that compressions and healings wrote may be
    /// known.
    init(
        title: String?, inspections: [InspectionResult], evaluations: [EvaluationResult],
        compressions: [(result: CompressionResult, directory: String?)],
        generations: [GenerationResult], analyses: [Analysis], plans: [CompressionPlan],
        ablations: [AblationResult],
        healings: [(result: HealingResult, directory: String?)] = [],
        benches: [BenchResult] = [], costs: [DecodeCosts] = [],
        speeds: [SpeedResult] = []
    ) {
        let compressions = Lineage.compressions(compressions, healings)
        self.inspections = inspections
        self.evaluations = evaluations
        self.compressions = compressions.map(\.result)
        self.generations = generations
        self.analyses = analyses
        self.plans = plans
        self.ablations = ablations
        self.healings = healings.map(\.result)
        self.benches = benches
        self.costs = costs
        self.speeds = speeds
        lineage = Lineage(
            inspections: inspections, evaluations: evaluations, compressions: compressions,
            healings: healings, generations: generations, analyses: analyses,
            others: plans.map(\.model) + ablations.map(\.model))
        self.title = title ?? lineage.title
    }

    /// The whole report as one HTML file that needs no network and runs no script.
    public func html() -> String {
        Page(self).markup.html
    }

    /// Before and after, as plain text of at most 80 columns with a line feed after every line.
    public func table() -> String {
        TextTable(self).text
    }
}
