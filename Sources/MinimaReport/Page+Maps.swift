import MinimaCore

extension Page {
    /// Where the model is fragile, patch by patch, beside the formats that were chosen.
    func sensitivitySection(_ allocations: [Allocation], _ report: Report) -> [Markup] {
        let colors = FormatColors(allocations)
        let blocks = report.analyses.indices.compactMap { index -> Markup? in
            let analysis = report.analyses[index]
            let map = SensitivityMap(analysis)
            guard !map.roles.isEmpty else { return nil }
            let series = report.lineage.series(ModelPath(analysis.model))
            let heading: Markup =
                report.analyses.count > 1 ? "<h3>\(named(series))</h3>\n" : ""
            guard map.isDrawable else {
                return """
                    \(heading)<p class="note">\(Figure.count(map.columns)) patches in each of \
                    \(Figure.count(map.layers.count)) layers are too many to draw.</p>
                    \(fragile(map))
                    """
            }
            let formats = allocations.filter { $0.analysis == index }.map {
                formatMap($0, colors, rows: MapRows(map.layers))
            }
            return """
                \(heading)<div class="maps">
                <div class="map"><h4>Sensitivity</h4>
                <div class="scroll" role="region" aria-label="Sensitivity map" tabindex="0">
                \(drawing(map))\(rampLegend)</div></div>
                \(formats)</div>
                \(formats.isEmpty ? "" : formatLegend(colors))\(fragile(map))
                """
        }
        guard !blocks.isEmpty else { return [] }
        let note: Markup = """
            <p class="note">Rows are layers, columns the patches of each weight: heads or groups of \
            heads in attention, blocks of rows or columns elsewhere. 0 is indifferent to \
            compression, 1 the most fragile. The mark inside a cell grows with the standard \
            deviation of the prediction.</p>

            """
        return [section("sensitivity", "Sensitivity by layer and patch", "\(note)\(blocks)")]
    }

    private func drawing(_ map: SensitivityMap) -> Markup {
        let rows = MapRows(map.layers)
        let width = Swift.min(Swift.max(448 / Swift.max(map.columns, 1), 5), 16)
        let gap = 5
        var starts: [Int] = []
        var x = MapRows.left
        for role in map.roles {
            starts.append(x)
            x += width * role.patches.count + gap
        }
        let names = zip(map.roles, starts).map { role, start -> Markup in
            let room = (width * role.patches.count + gap) / 6
            return """
                <text x="\(start)" y="13">\(VisibleText.fit(VisibleText(role.short).line, width: Swift.max(1, room)))\
                <title>\(VisibleText(role.name).line)</title></text>

                """
        }
        let isLarge = map.columns * map.layers.count > 1_000
        let lines = map.layers.enumerated().map { index, layer -> Markup in
            var line: Markup = ""
            for (role, start) in zip(map.roles, starts) {
                for (column, patch) in role.patches.enumerated() {
                    guard let cell = map.cell(layer: layer, role: role, patch: patch) else {
                        continue
                    }
                    line += square(
                        cell, x: start + column * width, width: width, height: rows.height,
                        leastMark: isLarge ? 0.9 : 0.4,
                        title: title(cell, layer, role, isLarge: isLarge))
                }
            }
            return "<g transform=\"translate(0 \(rows.y(index)))\">\(line)</g>\n"
        }
        return """
            <svg width="\(x)" height="\(rows.total)" viewBox="0 0 \(x) \(rows.total)" role="img" \
            aria-label="\(VisibleText(words(map)).line)">
            \(names)\(rowLabels(rows))\(lines)</svg>

            """
    }

    private func square(
        _ cell: SensitivityMap.Cell, x: Int, width: Int, height: Int, leastMark: Double,
        title: String
    ) -> Markup {
        let level = cell.sensitivity.flatMap(Ramp.level)
        let style = level.map { "v\($0)" } ?? "vx"
        let share = Swift.min(Swift.max((cell.uncertainty ?? 0) * 2, 0), 1)
        let radius = share * Double(Swift.min(width, height)) * 0.42
        var mark: Markup = ""
        if radius >= leastMark {
            let side = (level ?? 0) * 2 < Ramp.levels ? "u" : "u w"
            mark = """
                <circle class="\(side)" cx="\(Figure.tenths(Double(x) + Double(width) / 2))" \
                cy="\(Figure.tenths(Double(height) / 2))" r="\(Figure.tenths(radius))"/>
                """
        }
        return """
            <rect class="\(style)" x="\(x)" width="\(width)" height="\(height)">\
            <title>\(title)</title></rect>\(mark)
            """
    }

    /// What a map of thousands of patches has room for: this statistic, and short names.
    private static let fewStatistics: Set = ["trace"]

    private func title(
        _ cell: SensitivityMap.Cell, _ layer: Int, _ role: SensitivityMap.Role, isLarge: Bool
    ) -> String {
        let uncertainty = cell.uncertainty.map { " ± \(Figure.significant($0, 2))" } ?? ""
        let count = cell.count > 1 ? ", mean of \(cell.count)" : ""
        let statistics = cell.patch.statistics.sorted { $0.key < $1.key }.filter {
            !isLarge || Self.fewStatistics.contains($0.key)
        }.prefix(12).map { "\($0.key) \(Figure.significant($0.value, 3))" }
        let tail = statistics.isEmpty ? "" : "; \(statistics.joined(separator: ", "))"
        return VisibleText(
            "layer \(layer), \(isLarge ? role.short : role.name), patch \(cell.patch.index)\(count): "
                + "\(Figure.significant(cell.sensitivity, 3))\(uncertainty)\(tail)"
        ).line
    }

    /// The layers' numbers, left of the rows.
    func rowLabels(_ rows: MapRows) -> [Markup] {
        rows.labelled.map { index, layer in
            """
            <text x="\(MapRows.left - 6)" y="\(rows.y(index) + rows.height / 2 + 3)" \
            text-anchor="end">\(layer)</text>

            """
        }
    }

    /// The map in words: the range of each role.
    private func words(_ map: SensitivityMap) -> String {
        let ranges = map.roles.map { role -> String in
            let values = map.cells(of: role).compactMap(\.sensitivity)
            return "\(role.name) from \(Figure.significant(values.min(), 2)) to "
                + Figure.significant(values.max(), 2)
        }
        return "Sensitivity of \(map.layers.count) layers: \(ranges.joined(separator: "; "))"
    }

    private var rampLegend: Markup {
        let steps = (0..<Ramp.levels).map { level -> Markup in
            "<rect class=\"v\(level)\" x=\"\(MapRows.left + 8 * level)\" width=\"8\" height=\"10\"/>"
        }
        let end = MapRows.left + 8 * Ramp.levels
        return """
            <svg width="440" height="28" viewBox="0 0 440 28" aria-hidden="true">
            \(steps)<text x="\(MapRows.left)" y="22">0</text>
            <text x="\((MapRows.left + end) / 2)" y="22" text-anchor="middle">sensitivity</text>
            <text x="\(end)" y="22" text-anchor="end">1</text>
            <rect class="v3" x="\(end + 30)" width="12" height="12"/>\
            <circle class="u" cx="\(end + 36)" cy="6" r="2"/>
            <rect class="v3" x="\(end + 48)" width="12" height="12"/>\
            <circle class="u" cx="\(end + 54)" cy="6" r="5"/>
            <text x="\(end + 66)" y="10">less, more uncertain</text>
            </svg>

            """
    }

    /// The most fragile patches as a table.
    private func fragile(_ map: SensitivityMap) -> Markup {
        let cells = map.roles.flatMap { role in
            map.layers.flatMap { layer in
                role.patches.compactMap { patch -> (SensitivityMap.Cell, Double)? in
                    guard let cell = map.cell(layer: layer, role: role, patch: patch),
                        let value = cell.sensitivity
                    else { return nil }
                    return (cell, value)
                }
            }
        }
        let worst = cells.enumerated().sorted {
            $0.element.1 != $1.element.1
                ? $0.element.1 > $1.element.1 : $0.offset < $1.offset
        }.prefix(10).map(\.element)
        guard !worst.isEmpty else { return "" }
        let rows = worst.map { cell, value -> Markup in
            """
            <tr><th scope="row">\(isolated(cell.patch.module))</th><td>\(cell.patch.index)</td>\
            <td>\(Figure.significant(value, 3))</td>\
            <td>\(Figure.significant(cell.uncertainty, 2))</td>\
            <td>\(isolated(cell.patch.recommendation?.title ?? Figure.absent))</td></tr>

            """
        }
        let columns = ["Module", "Patch", "Sensitivity", "±", "Recommended"].map { name -> Markup in
            "<th scope=\"col\">\(name)</th>"
        }
        return """
            <details>
            <summary>The \(worst.count) most fragile patches</summary>
            \(table(caption: "By predicted sensitivity", label: "Most fragile patches", columns: columns, rows: rows, style: "figures"))</details>

            """
    }
}
