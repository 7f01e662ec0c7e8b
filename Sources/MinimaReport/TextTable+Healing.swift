import MinimaCore

extension TextTable {
    /// What each healing gained, with how many tokens and in what time.
    static func healings(_ report: Report) -> [String] {
        zip(report.healings, report.lineage.healed).flatMap { result, models in
            let (before, after) = (result.before, result.after)
            let kl = Figure.change(Figure.quotient(after.kl, before.kl))
            let perplexity = Figure.change(Figure.quotient(after.perplexity, before.perplexity))
            let tokens = Figure.short(Figure.integer(result.healingTokens))
            return wrapped(
                """
                \(report.lineage.label(models.output)): KL \(kl), perplexity \(perplexity) by \
                healing, \(tokens) tokens in \(Figure.seconds(result.seconds))
                """)
        }
    }
}
