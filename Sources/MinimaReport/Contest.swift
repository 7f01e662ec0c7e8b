import MinimaCore

/// Ways to compress one model to the same size, and which of them did the least damage.
struct Contest {
    /// One way.
    struct Entrant {
        /// The step, the family or the model.
        var name: String
        /// What its plan was asked for.
        var target: String
        /// Modules by format.
        var formats: [String: Int]
        /// Numbers stored, of the dense linear layers' parameters.
        var kept: Double?
        /// Bits stored per weight of the linear layers.
        var bits: Double?
        /// Predicted KL(dense ‖ model) per token, nats.
        var predicted: Double?
        /// Perplexity by text.
        var perplexity: [String: Double]
        /// KL(dense ‖ model) per token by text, nats.
        var divergence: [String: Double]
        /// Seconds of planning and compressing.
        var seconds: Double?
        /// Tensor networks, their rivals, or both.
        var kind: FormatKind { FormatKind(labels: formats.keys) }
        /// Whether it shows one family alone rather than a step of the whole method.
        var isSingle: Bool { name.hasPrefix("only ") }
        /// Its name in a sentence: `tt alone`, `uniform ranks`.
        var title: String { isSingle ? "\(name.dropFirst(5)) alone" : name }
    }

    /// The dense model.
    var model: ModelPath
    /// What the entrants have in common: `parameters`, `bytes`, or what the ablation says.
    var equal: String
    /// Perplexity of the dense model by text.
    var densePerplexity: [String: Double]
    /// Whether the entrants are an ablation's rows rather than separate models.
    var isAblation: Bool
    /// The entrants in their order.
    var entrants: [Entrant]

    /// Texts on which every entrant was measured, sorted.
    var texts: [String] {
        let all = Set(entrants.flatMap { $0.divergence.keys })
        return all.filter { text in entrants.allSatisfy { $0.divergence[text] != nil } }.sorted()
    }

    /// Mean KL over ``texts``; `nil` when it is not finite.
    func score(_ entrant: Entrant) -> Double? {
        Figure.mean(texts.map { entrant.divergence[$0] })
    }

    /// The entrant with the least KL among those that `isIncluded` admits.
    func best(where isIncluded: (Entrant) -> Bool = { _ in true }) -> (Entrant, score: Double)? {
        winner(where: isIncluded).map { (entrants[$0.index], $0.score) }
    }

    /// The same as a place in ``entrants``.
    func winner(where isIncluded: (Entrant) -> Bool = { _ in true }) -> (index: Int, score: Double)?
    {
        let texts = texts
        return entrants.indices.compactMap { index -> (index: Int, score: Double)? in
            guard isIncluded(entrants[index]) else { return nil }
            return Figure.mean(texts.map { entrants[index].divergence[$0] }).map { (index, $0) }
        }.min { $0.score < $1.score }
    }

    /// The step that the others are compared with: uniform ranks.
    var baseline: Int? {
        isAblation ? entrants.firstIndex { $0.name.hasPrefix("uniform") } : nil
    }

    /// All contests of a report: the ablations' groups, then models of one size.
    static func all(of report: Report) -> [Contest] {
        report.ablations.flatMap(groups) + models(report)
    }

    /// Rows of one size: what is equal, and the target that says how much of it there is.
    private static func groups(_ ablation: AblationResult) -> [Contest] {
        struct Size: Hashable {
            var equal: JSON.Name
            var target: JSON.Name

            init(_ row: AblationResult.Row) {
                equal = JSON.Name(row.equal)
                target = JSON.Name(row.target)
            }
        }
        var sizes: [Size] = []
        for row in ablation.rows where !sizes.contains(Size(row)) { sizes.append(Size(row)) }
        return sizes.map { size in
            let rows = ablation.rows.filter { Size($0) == size }
            return Contest(
                model: ModelPath(ablation.model), equal: size.equal.text,
                densePerplexity: ablation.densePerplexity, isAblation: true,
                entrants: rows.map { row in
                    Entrant(
                        name: row.name, target: row.target, formats: row.formats,
                        kept: Figure.quotient(row.parameters, ablation.linearParameters),
                        bits: Figure.quotient(row.bytes, ablation.linearParameters).map { 8 * $0 },
                        predicted: row.predicted, perplexity: row.perplexity,
                        divergence: row.divergence, seconds: row.seconds)
                })
        }
    }

    /// Sizes this far apart, relative, count as equal.
    private static let tolerance = 0.02

    private static func models(_ report: Report) -> [Contest] {
        let entrants = report.compressions.indices.map { index in
            (ModelPath(report.compressions[index].parent), entrant(index, report))
        }
        var parents: [ModelPath] = []
        for (parent, _) in entrants where !parents.contains(parent) { parents.append(parent) }
        return parents.flatMap { parent -> [Contest] in
            let children = entrants.filter { $0.0 == parent }.map(\.1)
            let sizes: [(String, KeyPath<Entrant, Double?>)] = [
                ("parameters", \.kept), ("bytes", \.bits),
            ]
            return sizes.flatMap { equal, size in
                clusters(children, by: size).map { members in
                    Contest(
                        model: parent, equal: equal, densePerplexity: [:], isAblation: false,
                        entrants: members)
                }
            }.filter { !$0.texts.isEmpty }
        }
    }

    /// Runs of two and more of about the same size.
    private static func clusters(_ entrants: [Entrant], by size: KeyPath<Entrant, Double?>)
        -> [[Entrant]]
    {
        let sized = entrants.compactMap { entrant in
            entrant[keyPath: size].map { (entrant, size: $0) }
        }.sorted { $0.size < $1.size }
        var clusters: [[(Entrant, size: Double)]] = []
        for entrant in sized {
            if let first = clusters.last?.first, entrant.size <= first.size * (1 + tolerance) {
                clusters[clusters.count - 1].append(entrant)
            } else {
                clusters.append([entrant])
            }
        }
        return clusters.filter { $0.count > 1 }.map { $0.map(\.0) }
    }

    private static func entrant(_ index: Int, _ report: Report) -> Entrant {
        let result = report.compressions[index]
        let output = report.lineage.outputs[index]
        var formats: [String: Int] = [:]
        for module in result.modules { formats[module.spec.title, default: 0] += 1 }
        var entrant = Entrant(
            name: report.lineage.label(output), target: result.plan.target, formats: formats,
            kept: Figure.quotient(
                result.totals.linearParametersAfter, result.totals.linearParametersBefore),
            bits: Figure.quotient(
                result.totals.linearBytesAfter, result.totals.linearParametersBefore
            ).map { 8 * $0 },
            predicted: result.plan.damage, perplexity: [:], divergence: [:], seconds: nil)
        for evaluation in report.evaluations where ModelPath(evaluation.model) == output {
            let name = evaluation.text.map { ModelPath($0).suffix(1).text }.joined(separator: ", ")
            let text = "\(name), windows of \(evaluation.context)"
            guard entrant.divergence[text] == nil, let kl = evaluation.kl else { continue }
            entrant.divergence[text] = kl
            entrant.perplexity[text] = evaluation.perplexity
        }
        return entrant
    }
}
