/// The questions that an ablation and a plan are made to answer, from the numbers that are there.
struct Answers {
    /// What the sensitivity model changed, a sentence per comparison.
    var sensitivity: [String] = []
    /// What the mixture gains over the best single family.
    var mixture: [String] = []
    /// Whether tensor networks beat their rivals at equal bytes.
    var networks: [String] = []

    init(_ contests: [Contest], _ lineage: Lineage) {
        for contest in contests {
            let model = lineage.label(contest.model)
            if let sentence = Self.sensitivity(contest, model) { sensitivity.append(sentence) }
            if let sentence = Self.mixture(contest, model) { mixture.append(sentence) }
            if contest.equal == "bytes", let sentence = Self.networks(contest, model) {
                networks.append(sentence)
            }
        }
    }

    private static func sensitivity(_ contest: Contest, _ model: String) -> String? {
        guard let baseline = contest.baseline,
            let step = contest.entrants.firstIndex(where: {
                $0.name.hasPrefix("+") && $0.name.contains("sensitivity")
            }),
            let before = contest.score(contest.entrants[baseline]),
            let after = contest.score(contest.entrants[step])
        else { return nil }
        let change = Figure.change(Figure.quotient(after, before))
        let place = contest.phrase(contest.entrants[step])
        return "\(model), \(place): KL \(Figure.significant(before, 3)) with "
            + "\(contest.entrants[baseline].name), \(Figure.significant(after, 3)) with "
            + "sensitivity (\(change))."
    }

    private static func mixture(_ contest: Contest, _ model: String) -> String? {
        guard contest.isAblation, let step = contest.best(where: { !$0.isSingle }),
            let single = contest.best(where: \.isSingle)
        else { return nil }
        let change = Figure.change(Figure.quotient(step.score, single.score))
        return
            "\(model), \(contest.phrase(step.0)): \(step.score < single.score ? "yes" : "no"), KL "
            + "\(Figure.significant(step.score, 3)) with \(step.0.title), "
            + "\(Figure.significant(single.score, 3)) with \(single.0.title), the best single "
            + "family (\(change))."
    }

    private static func networks(_ contest: Contest, _ model: String) -> String? {
        guard let network = contest.best(where: { $0.kind == .tensorNetwork }),
            let rival = contest.best(where: { $0.kind == .rival })
        else { return nil }
        let wins = network.score < rival.score
        let factor = Figure.quotient(
            Swift.max(network.score, rival.score), Swift.min(network.score, rival.score))
        var sentence =
            "\(model), \(contest.phrase(network.0)): \(wins ? "yes" : "no"), \(network.0.title) has KL "
            + "\(Figure.significant(network.score, 3)), \(rival.0.title) "
            + Figure.significant(rival.score, 3)
        if let factor { sentence += ", \(Figure.significant(factor, 3)) times apart" }
        if let mixture = contest.best(where: { $0.kind == .mixture }) {
            sentence +=
                "; both together (\(mixture.0.title)): "
                + Figure.significant(mixture.score, 3)
        }
        return sentence + "."
    }
}
