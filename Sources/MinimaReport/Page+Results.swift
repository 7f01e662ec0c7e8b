import MinimaCore

extension Page {
    /// What each compressed model saved and what that cost.
    func headlineSection(
        _ comparisons: [Comparison], _ contests: [Contest], _ report: Report
    ) -> [Markup] {
        let models = report.lineage.models.filter { report.lineage.dense[$0] != nil }
        let cards = models.compactMap { model -> Markup? in
            let rows = comparisons.flatMap { comparison in
                comparison.rows.filter { $0.model == model }.map { (comparison, $0) }
            }
            guard let first = rows.first?.1 else { return nil }
            let plan = report.lineage.outputs.lastIndex(of: model).map {
                report.compressions[$0].plan
            }
            return headline(model, first, rows, predicted: plan?.damage, report.lineage)
        }
        let heading = "What was saved and what it cost"
        let verdicts = contests.compactMap { contest -> Markup? in
            guard let verdict = contest.verdict else { return nil }
            let model = isolated(report.lineage.label(contest.model))
            return "<p class=\"verdict\">\(model): \(isolated(verdict))</p>\n"
        }
        return cards.isEmpty && verdicts.isEmpty
            ? [] : [section("result", heading, "\(verdicts)\(cards)")]
    }

    private func headline(
        _ model: ModelPath, _ row: Comparison.Row, _ rows: [(Comparison, Comparison.Row)],
        predicted: Double?, _ lineage: Lineage
    ) -> Markup {
        var saved = tile(
            "Parameters", Figure.change(row.parameterRatio),
            "\(Figure.short(row.denseSize?.parameters)) → \(Figure.short(row.size?.parameters))")
        saved += tile(
            "Weights as stored", Figure.change(row.byteRatio),
            "\(Figure.bytes(row.denseSize?.bytes)) → \(Figure.bytes(row.size?.bytes))")
        if row.bitsPerWeight != nil {
            let before = lineage.dense[model].flatMap { lineage.bitsPerWeight[$0] }
            saved += tile(
                "Bits per linear weight", Figure.significant(row.bitsPerWeight, 3),
                "\(Figure.significant(before, 3)) → \(Figure.significant(row.bitsPerWeight, 3))")
        }
        var costs: Markup = ""
        for (comparison, row) in rows {
            guard let name = comparison.name, let measurement = row.measurement else { continue }
            let isRepeated = rows.count { $0.0.name == name } > 1
            let windows = comparison.context.map { ", windows of \($0)" } ?? ""
            let place =
                isRepeated ? "\(name)\(windows), \(measurement.device) \(measurement.dtype)" : name
            // Of the dense model, of the compressed one where this was made by healing it, of this.
            var steps = [row.dense?.perplexity, measurement.perplexity]
            if let source = row.source { steps.insert(source.perplexity, at: 1) }
            let figures = steps.map { Figure.significant($0, 5) }
            costs += tile(
                "Perplexity on \(place)",
                row.perplexityRatio == nil
                    ? Figure.significant(measurement.perplexity, 5)
                    : Figure.change(row.perplexityRatio),
                figures.joined(separator: " → "))
            if measurement.kl != nil {
                let before = row.source?.kl.map { "\(Figure.significant($0, 4)) before healing" }
                let expected = predicted.map { "predicted \(Figure.significant($0, 3))" }
                costs += tile(
                    "KL on \(place)", Figure.significant(measurement.kl, 4),
                    before ?? expected ?? "nats per token")
            }
        }
        let cost: Markup =
            rows.contains { $0.1.measurement != nil }
            ? "<dl>\(costs)</dl>" : "<p class=\"note\">Its effect on text was not measured.</p>"
        let dense = lineage.dense[model].map { lineage.label($0) } ?? Figure.absent
        let source: Markup =
            lineage.healed.last { $0.output == model }.map {
                ", healed from \(isolated(lineage.label($0.source)))"
            } ?? ""
        return """
            <article class="card \(colorClass(lineage.series(model)))">
            <h3>\(isolated(lineage.label(model)))</h3>
            <p class="note">against \(isolated(dense))\(source)</p>
            <div class="ledger">
            <div><h4>Saved</h4><dl>\(saved)</dl></div>
            <div><h4>Cost</h4>\(cost)</div>
            </div>
            </article>

            """
    }

    /// A figure under its name.
    func tile(_ name: String, _ figure: String, _ detail: String) -> Markup {
        """
        <div><dt>\(isolated(name))</dt><dd class="big">\(isolated(figure))</dd>\
        <dd>\(isolated(detail))</dd></div>

        """
    }

    /// Sizes, perplexities and KL of all models, one table per text.
    func comparisonSection(_ comparisons: [Comparison], _ report: Report) -> [Markup] {
        guard !comparisons.isEmpty else { return [] }
        let tables = comparisons.map { comparison in
            comparisonTable(comparison, report.lineage)
        }
        return [
            section(
                "comparison", "Before and after",
                """
                \(tables)
                <p class="note">× is relative to the dense model. Perplexity: exp of the mean \
                negative log-likelihood per predicted token, lower is better; it compares only over \
                the same tokens. KL: mean KL(dense ‖ model) per predicted token, 0 when both \
                predict alike. Bits: stored per weight of the linear layers. 1 MB = 10⁶ bytes.</p>

                """)
        ]
    }

    private func comparisonTable(_ comparison: Comparison, _ lineage: Lineage) -> Markup {
        let isEvaluated = comparison.name != nil
        var columns: [Markup] = [
            "<th scope=\"col\">Model</th>",
            "<th scope=\"col\">Parameters</th>", Self.timesHeader,
            "<th scope=\"col\">Weights</th>", Self.timesHeader,
        ]
        let hasBits = comparison.rows.contains { $0.bitsPerWeight != nil }
        if hasBits { columns.append(Self.bitsHeader) }
        if isEvaluated {
            columns += [
                "<th scope=\"col\">Perplexity</th>", Self.timesHeader,
                "<th scope=\"col\">KL, nats</th>", "<th scope=\"col\">Tokens</th>",
            ]
        }
        let rows = comparison.rows.map { row -> Markup in
            var series = lineage.series(row.model)
            series.label = row.label
            let mark: Markup = row.mark.map { " <span class=\"note\">\($0)</span>" } ?? ""
            var cells: Markup = """
                <th scope="row">\(named(series))\(mark)</th>\
                <td>\(Figure.count(row.size?.parameters))</td><td>\(ratio(row.parameterRatio))</td>\
                <td>\(Figure.bytes(row.size?.bytes))</td><td>\(ratio(row.byteRatio))</td>
                """
            if hasBits { cells += "<td>\(Figure.significant(row.bitsPerWeight, 3))</td>" }
            if isEvaluated {
                cells += """
                    <td>\(Figure.significant(row.measurement?.perplexity, 5))</td>\
                    <td>\(ratio(row.perplexityRatio))</td>\
                    <td>\(Figure.significant(row.measurement?.kl, 4))</td>\
                    <td>\(Figure.count(row.measurement?.tokens))</td>
                    """
            }
            return "<tr>\(cells)</tr>\n"
        }
        return table(
            caption: isolated(comparison.heading), label: "Before and after", columns: columns,
            rows: rows, style: "figures")
    }

    private func ratio(_ value: Double?) -> String {
        value == nil ? "" : Figure.ratio(value)
    }
}
