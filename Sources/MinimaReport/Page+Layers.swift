import MinimaCore

extension Page {
    /// Errors layer by layer as small line charts, and the formats behind them as a table.
    func layerSections(_ allocations: [Allocation], _ report: Report) -> [Markup] {
        let accounts = report.compressions.indices.filter {
            !report.compressions[$0].modules.isEmpty
        }
        guard !accounts.isEmpty else { return [] }
        let charts = LayerChart.all(
            accounts.map {
                (report.lineage.series(ofCompression: $0), report.compressions[$0].modules)
            })
        let highest = charts.map(\.highest).max() ?? 0
        let panels = charts.map { panel($0, scale: Axis(upTo: highest)) }
        let legend = accounts.map { index -> Markup in
            "<li>\(named(report.lineage.series(ofCompression: index)))</li>"
        }
        let tables = accounts.map { formats($0, report) }
        let chart: Markup =
            panels.isEmpty
            ? ""
            : """
            <ul class="legend">\(legend)</ul>
            <p class="note">‖x·Δᵀ‖ / ‖x·Wᵀ‖ over the calibration text, against the layer’s index; \
            one scale for all. Where a layer has several such modules (experts), their mean.</p>
            <div class="panels">
            \(panels)</div>

            """
        return [
            section(
                "layers", "Relative output error by layer",
                "\(chart)\(damageCharts(allocations))\(tables)")
        ]
    }

    private func panel(_ chart: LayerChart, scale: Axis) -> Markup {
        let (left, right, top, bottom) = (34.0, 252.0, 8.0, 116.0)
        let first = Double(chart.layers.lowerBound)
        let span = Double(chart.layers.upperBound) - first
        func x(_ layer: Int) -> Double {
            span > 0 ? left + (right - left) * (Double(layer) - first) / span : (left + right) / 2
        }
        func y(_ value: Double) -> Double { bottom - (bottom - top) * value / scale.end }
        let grid = scale.ticks.map { tick -> Markup in
            """
            <line class="grid" x1="\(Figure.coordinate(left))" x2="\(Figure.coordinate(right))" \
            y1="\(Figure.coordinate(y(tick)))" y2="\(Figure.coordinate(y(tick)))"/>\
            <text x="\(Figure.coordinate(left - 5))" y="\(Figure.coordinate(y(tick) + 3.5))" \
            text-anchor="end">\(Figure.round(tick))</text>

            """
        }
        let ends =
            span > 0
            ? [(chart.layers.lowerBound, "start"), (chart.layers.upperBound, "end")]
            : [(chart.layers.lowerBound, "middle")]
        let labels = ends.map { layer, anchor -> Markup in
            """
            <text x="\(Figure.coordinate(x(layer)))" y="\(Figure.coordinate(bottom + 15))" \
            text-anchor="\(anchor)">layer \(layer)</text>

            """
        }
        let lines = chart.lines.map { line -> Markup in
            let points = line.points.map { (x($0.layer), y($0.error)) }
            let path = points.enumerated().map { index, point in
                "\(index == 0 ? "M" : "L")\(Figure.coordinate(point.0)) \(Figure.coordinate(point.1))"
            }
            let dots = zip(line.points, points).map { value, point -> Markup in
                """
                <circle cx="\(Figure.coordinate(point.0))" cy="\(Figure.coordinate(point.1))" \
                r="\(line.points.count > 40 ? "1.4" : "2.2")"><title>\
                \(VisibleText(line.series.label).line), layer \(value.layer): \
                \(Figure.significant(value.error, 4))</title></circle>

                """
            }
            return """
                <g class="\(colorClass(line.series))"><path d="\(path.joined())"/>
                \(dots)</g>

                """
        }
        return """
            <figure>
            <figcaption>\(isolated(chart.submodule))</figcaption>
            <svg viewBox="0 0 260 136" role="img" aria-label="\(VisibleText(summary(chart)).line)">
            \(grid)\(labels)\(lines)</svg>
            </figure>

            """
    }

    /// The chart in words.
    private func summary(_ chart: LayerChart) -> String {
        let ranges = chart.lines.map { line in
            let errors = line.points.map(\.error)
            return "\(line.series.label) from \(Figure.significant(errors.min(), 3)) to "
                + Figure.significant(errors.max(), 3)
        }
        return "Relative output error of \(chart.submodule), layers \(chart.layers.lowerBound) to "
            + "\(chart.layers.upperBound): \(ranges.joined(separator: "; "))"
    }

    private func formats(_ index: Int, _ report: Report) -> Markup {
        let modules = report.compressions[index].modules
        let columns: [Markup] = [
            "<th scope=\"col\">Module</th>", "<th scope=\"col\">Shape</th>",
            "<th scope=\"col\">Format</th>", "<th scope=\"col\">Modes</th>",
            "<th scope=\"col\">Ranks</th>", "<th scope=\"col\">Parameters</th>",
            Self.timesHeader, "<th scope=\"col\">Bytes</th>",
            "<th scope=\"col\">Weight error</th>", "<th scope=\"col\">Output error</th>",
            "<th scope=\"col\">Predicted KL</th>", "<th scope=\"col\">Two-sided error</th>",
        ]
        let rows = modules.map { module -> Markup in
            let spec = module.spec
            let isSplit = !spec.outputModes.isEmpty || !spec.inputModes.isEmpty
            let modes =
                isSplit ? "\(list(spec.outputModes)) → \(list(spec.inputModes))" : Figure.absent
            let dense = Double(module.outputs) * Double(module.inputs)
            return """
                <tr><th scope="row">\(isolated(module.name))</th>\
                <td>\(Figure.count(module.outputs)) × \(Figure.count(module.inputs))</td>\
                <td>\(isolated(spec.title))</td><td>\(modes)</td>\
                <td>\(spec.ranks.isEmpty ? Figure.absent : spec.ranks.map(String.init).joined(separator: ", "))</td>\
                <td>\(Figure.count(module.parameters))</td>\
                <td>\(Figure.ratio(Figure.quotient(Double(module.parameters), dense)))</td>\
                <td>\(Figure.bytes(module.bytes))</td>\
                <td>\(Figure.significant(module.weightError, 4))</td>\
                <td>\(Figure.significant(module.outputError, 4))</td>\
                <td>\(Figure.significant(module.predictedDamage, 3))</td>\
                <td>\(Figure.significant(module.damage, 3))</td></tr>

                """
        }
        let caption: Markup = """
            Errors are relative: ‖Ŵ − W‖ / ‖W‖ of the weight, and of the layer’s output on the \
            calibration text. Two-sided: ½·tr(ΔᵀHΔC), nats per token
            """
        return """
            <details>
            <summary>Formats and ranks of \(modules.count) modules: \
            \(named(report.lineage.series(ofCompression: index)))</summary>
            \(table(caption: caption, label: "Formats and ranks", columns: columns, rows: rows, style: "figures"))</details>

            """
    }

    private func list(_ modes: [Int]) -> String {
        modes.isEmpty ? Figure.absent : modes.map(String.init).joined(separator: "·")
    }
}
