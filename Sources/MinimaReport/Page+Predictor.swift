import MinimaCore

extension Page {
    /// How well damage was predicted: probes, measured against predicted.
    func predictorSection(_ report: Report) -> [Markup] {
        let blocks = report.analyses.compactMap { analysis -> Markup? in
            guard !analysis.probes.isEmpty || analysis.predictor != nil else { return nil }
            let series = report.lineage.series(ModelPath(analysis.model))
            let heading: Markup = report.analyses.count > 1 ? "<h3>\(named(series))</h3>\n" : ""
            return "\(heading)\(summary(analysis))\(probeCharts(analysis))"
        }
        return blocks.isEmpty
            ? [] : [section("predictor", "How well damage is predicted", "\(blocks)")]
    }

    private func summary(_ analysis: Analysis) -> Markup {
        guard let predictor = analysis.predictor else {
            return "<p class=\"note\">No predictor was trained or given.</p>\n"
        }
        let origin =
            predictor.file.map { "the file \(ModelPath($0).suffix(1).text)" }
            ?? "\(Figure.count(predictor.trainingProbes)) probes of this model"
        return """
            <dl class="tiles">
            \(tile("Spearman, predictor", Figure.significant(predictor.spearman, 3), "trained on \(origin)"))\
            \(tile("Spearman, closed form", Figure.significant(predictor.closedFormSpearman, 3), "½·tr(ΔᵀHΔC)"))\
            \(tile("Probes held out", Figure.count(predictor.heldOutProbes), "never seen in training"))\
            \(tile("Used for the options", predictor.used, "whichever ranks better"))\
            </dl>

            """
    }

    private func probeCharts(_ analysis: Analysis) -> Markup {
        let probes = analysis.probes
        guard !probes.isEmpty else { return "" }
        let groups = grouped(probes) { $0.spec.title }
        func chart(_ title: String, _ label: String, _ value: (Probe) -> Double?) -> Scatter {
            Scatter(
                title: title, xLabel: label, yLabel: "measured KL",
                groups: groups.map { group in
                    Scatter.Group(
                        label: group.label, colorClass: group.colorClass,
                        points: group.values.compactMap { probe in
                            value(probe).map { ($0, probe.divergence, Self.title(probe)) }
                        })
                })
        }
        let closed = chart("Closed form", "closed form, nats per token") { $0.error }
        let learned = chart("Predictor, probes it has not seen", "predicted KL") { $0.predicted }
        let values = [closed, learned].flatMap { chart in
            chart.drawable.flatMap { $0.points.flatMap { [$0.x, $0.y] } }
        }
        let axis = LogAxis(values)
        return """
            \(legend(closed.drawable))<div class="panels wide">
            \(figure(closed, axis: axis))\(figure(learned, axis: axis))</div>
            <p class="note">Each point is a patch in a candidate format, everything else dense; on \
            the line, the measured KL(dense ‖ model) per token is what was predicted.</p>

            """
    }

    private static func title(_ probe: Probe) -> String {
        let predicted = probe.predicted.map { ", predicted \(Figure.significant($0, 3))" } ?? ""
        return "\(probe.site), patch \(probe.patch), \(probe.spec.title): measured "
            + "\(Figure.significant(probe.divergence, 3)), closed form "
            + "\(Figure.significant(probe.error, 3))\(predicted)"
    }

    /// Predicted damage of each module against what its compression did, by role.
    func damageCharts(_ allocations: [Allocation]) -> Markup {
        let known = allocations.indices.flatMap { index in
            allocations[index].cells.filter { $0.predicted != nil && $0.damage != nil }.map {
                (index, cell: $0)
            }
        }
        // One colour per role in all charts.
        let groups = grouped(known) {
            SensitivityMap.Role(name: $0.cell.role, patches: []).short
        }
        let charts = allocations.indices.compactMap { index -> Markup? in
            let cells = known.filter { $0.0 == index }.map(\.cell)
            guard !cells.isEmpty else { return nil }
            let scatter = Scatter(
                title: allocations[index].series.label, xLabel: "predicted KL",
                yLabel: "½·tr(ΔᵀHΔC)",
                groups: groups.map { group in
                    Scatter.Group(
                        label: group.label, colorClass: group.colorClass,
                        points: group.values.compactMap { owner, cell in
                            guard owner == index, let predicted = cell.predicted,
                                let damage = cell.damage
                            else {
                                return nil
                            }
                            let title =
                                "\(cell.name), \(cell.label): predicted "
                                + "\(Figure.significant(predicted, 3)), two-sided error "
                                + Figure.significant(damage, 3)
                            return (predicted, damage, title)
                        })
                })
            let sums =
                "Sum over \(cells.count) modules: predicted "
                + "\(Figure.significant(Figure.sum(cells.map(\.predicted)), 3)), two-sided error "
                + Figure.significant(Figure.sum(cells.map(\.damage)), 3)
            return """
                <div>\(legend(scatter.drawable))\(figure(scatter, axis: nil))\
                <p class="note">\(sums)</p></div>

                """
        }
        guard !charts.isEmpty else { return "" }
        return """
            <h3>Predicted damage and two-sided error</h3>
            <p class="note">Nats per token and module: what the plan predicted, and \
            ½·tr(ΔᵀHΔC) of the weight that was written; on the line they agree.</p>
            <div class="panels wide">
            \(charts)</div>

            """
    }
}
