import MinimaCore

extension Page {
    /// The same model compressed to the same size in several ways.
    func ablationSection(_ contests: [Contest], _ report: Report) -> [Markup] {
        let blocks = contests.filter { $0.entrants.count > 1 || $0.isAblation }.map { contest in
            block(contest, report)
        }
        guard !blocks.isEmpty else { return [] }
        let note: Markup = """
            <p class="note">Bars are logarithmic: each line is ten times the one before. KL: mean \
            KL(dense ‖ model) per token, in nats, the mean of the texts where there are several. \
            Bits: stored bits per weight of the linear layers.</p>

            """
        return [section("ablation", "Equal sizes, compared", "\(blocks)\(note)")]
    }

    private func block(_ contest: Contest, _ report: Report) -> Markup {
        let model = isolated(report.lineage.label(contest.model))
        let verdict: Markup = contest.verdict.map { "<p>\(isolated($0))</p>\n" } ?? ""
        let order = contest.order
        let scores = contest.entrants.map { contest.score($0) }
        let text = contest.perplexityText
        let perplexities = contest.entrants.map { entrant in text.flatMap { entrant.perplexity[$0] }
        }
        let dense = text.flatMap { contest.densePerplexity[$0] }
        var charts = bars("KL", contest, order, scores, reference: nil)
        if let text {
            charts += bars(
                "Perplexity on \(ModelPath(text).suffix(1).text)", contest, order, perplexities,
                reference: dense)
        }
        return """
            <h3>\(model) \(isolated(contest.heading))</h3>
            \(verdict)<div class="columns">
            \(charts)</div>
            \(figures(contest, order))
            """
    }

    /// One bar per entrant on a logarithmic axis.
    private func bars(
        _ title: String, _ contest: Contest, _ order: [Int], _ values: [Double?],
        reference: Double?
    ) -> Markup {
        guard let axis = LogAxis((values + [reference]).compactMap { $0 }) else { return "" }
        let lines = axis.ticks.map { tick -> Markup in
            let place = Figure.coordinate(100 * axis.share(exponent: tick))
            return "<line class=\"grid\" x1=\"\(place)%\" x2=\"\(place)%\" y1=\"0\" y2=\"14\"/>"
        }
        let winner = contest.winner()?.index
        var rows = order.map { index -> Markup in
            let entrant = contest.entrants[index]
            let style =
                index == winner ? "s1" : index == contest.baseline ? "s0" : "s7"
            return bar(
                entrant.name, style, values[index], axis, lines,
                isFirstSingle: entrant.isSingle
                    && index
                        == order.first {
                            contest.entrants[$0].isSingle
                        }
            )
        }
        if reference != nil { rows.insert(bar("dense", "s0", reference, axis, lines), at: 0) }
        let columns: [Markup] = [
            "<th scope=\"col\"><span class=\"hidden\">Way</span></th>",
            """
            <th scope="col" class="wide">\(Figure.power(axis.exponents.lowerBound)) to \
            \(Figure.power(axis.exponents.upperBound))</th>
            """,
            "<th scope=\"col\"><span class=\"hidden\">Value</span></th>",
        ]
        return table(
            caption: isolated(title), label: "Bars", columns: columns, rows: rows,
            style: "bars chart")
    }

    private func bar(
        _ name: String, _ style: String, _ value: Double?, _ axis: LogAxis, _ lines: [Markup],
        isFirstSingle: Bool = false
    ) -> Markup {
        let share = value.flatMap { LogAxis.isDrawable($0) ? axis.share($0) : nil } ?? 0
        return """
            <tr\(isFirstSingle ? " class=\"first\"" as Markup : "")><th scope="row">\(isolated(name))</th>\
            <td class="wide"><svg class="\(style)" width="100%" height="14" aria-hidden="true">\
            \(lines)<rect y="2" width="\(Figure.coordinate(100 * share))%" height="10" rx="1"/>\
            </svg></td><td>\(Figure.significant(value, 4))</td></tr>

            """
    }

    /// Every number of a comparison.
    private func figures(_ contest: Contest, _ order: [Int]) -> Markup {
        let texts = Set(contest.entrants.flatMap { Array($0.divergence.keys) + $0.perplexity.keys })
            .union(contest.densePerplexity.keys).sorted()
        let columns =
            [
                "<th scope=\"col\">Way</th>", "<th scope=\"col\">Asked for</th>",
                "<th scope=\"col\" class=\"words\">Formats</th>",
                "<th scope=\"col\">Parameters kept</th>", Self.bitsHeader,
                "<th scope=\"col\">Predicted KL</th>",
            ]
            + texts.flatMap { text -> [Markup] in
                let name = ModelPath(text).suffix(1).text
                return [
                    "<th scope=\"col\">KL, \(isolated(name))</th>",
                    "<th scope=\"col\">Perplexity, \(isolated(name))</th>",
                ]
            } + ["<th scope=\"col\">Time</th>"]
        let winner = contest.winner()?.index
        let rows = order.map { index -> Markup in
            let entrant = contest.entrants[index]
            let mark: Markup =
                index == winner
                ? " <span class=\"mark\">winner</span>"
                : index == contest.baseline ? " <span class=\"note\">baseline</span>" : ""
            let formats = entrant.formats.sorted {
                $0.value != $1.value ? $0.value > $1.value : $0.key < $1.key
            }.map { "\(Figure.count($0.value)) \($0.key)" }
            let measured = texts.map { text -> Markup in
                """
                <td>\(Figure.significant(entrant.divergence[text], 4))</td>\
                <td>\(Figure.significant(entrant.perplexity[text], 5))</td>
                """
            }
            return """
                <tr><th scope="row">\(isolated(entrant.name))\(mark)</th>\
                <td>\(isolated(entrant.target))</td>\
                <td class="words">\(isolated(formats.joined(separator: ", ")))</td>\
                <td>\(Figure.share(entrant.kept))</td>\
                <td>\(Figure.significant(entrant.bits, 3))</td>\
                <td>\(Figure.significant(entrant.predicted, 3))</td>\(measured)\
                <td>\(Figure.seconds(entrant.seconds))</td></tr>

                """
        }
        return table(
            caption: "Lower is better", label: "Ways compared", columns: columns, rows: rows,
            style: "figures")
    }
}

extension Contest {
    /// Steps first, then single families.
    var order: [Int] {
        entrants.indices.filter { !entrants[$0].isSingle }
            + entrants.indices.filter { entrants[$0].isSingle }
    }

    /// The first text with a perplexity of every entrant.
    var perplexityText: String? {
        Set(entrants.flatMap { $0.perplexity.keys }).sorted().first { text in
            entrants.allSatisfy { $0.perplexity[text] != nil }
        }
    }
}
