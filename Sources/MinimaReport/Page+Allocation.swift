import MinimaCore

extension Page {
    /// Where the bytes of the linear weights went: per role, and per layer where no analysis has a
    /// map of its own.
    func allocationSection(_ allocations: [Allocation], _ report: Report) -> [Markup] {
        guard !allocations.isEmpty else { return [] }
        let colors = FormatColors(allocations)
        let drawn = Set(
            report.analyses.indices.filter { SensitivityMap(report.analyses[$0]).isDrawable })
        let blocks = allocations.map { allocation -> Markup in
            let layers = allocation.layers.map(\.layer)
            let isDrawn = allocation.analysis.map { drawn.contains($0) } ?? false
            let map: Markup =
                isDrawn || layers.isEmpty || layers.count > SensitivityMap.mostCells / 10
                ? ""
                : "<div class=\"maps\">\(formatMap(allocation, colors, rows: MapRows(layers)))</div>\n"
            let predicted =
                allocation.predicted.map { "; predicted KL \(Figure.significant($0, 3))" } ?? ""
            return """
                <h3>\(isolated(allocation.series.label)) <span class="note">\
                \(isolated("\(allocation.target)\(predicted)"))</span></h3>
                \(roleBars(allocation, colors))\(map)
                """
        }
        return [
            section(
                "allocation", "Where the bytes went", "\(formatLegend(colors))\(blocks)")
        ]
    }

    private func roleBars(_ allocation: Allocation, _ colors: FormatColors) -> Markup {
        let roles = allocation.roles
        let dense = roles.map { role in role.cells.reduce(0) { $0 + $1.denseBytes } }
        let largest = Swift.max(dense.max() ?? 0, allocation.restBytes)
        var rows = zip(roles, dense).map { role, denseBytes -> Markup in
            let kept = role.cells.reduce(0) { $0 + $1.bytes }
            let formats = Allocation.formats(role.cells).map {
                "\(Figure.count($0.count)) \($0.label)"
            }
            return bar(
                role.name, kept: kept, dense: denseBytes, largest: largest,
                pieces: Allocation.shares(role.cells), note: formats.joined(separator: ", "), colors
            )
        }
        if allocation.restBytes >= 1 {
            rows.append(
                bar(
                    "not in the plan", kept: allocation.restBytes, dense: allocation.restBytes,
                    largest: largest,
                    pieces: [
                        .init(
                            label: "dense", count: 0, bytes: allocation.restBytes,
                            isEstimated: false)
                    ],
                    note: "dense", colors))
        }
        let columns: [Markup] = [
            "<th scope=\"col\">Role</th>",
            "<th scope=\"col\" class=\"wide\"><span class=\"hidden\">Bar</span></th>",
            "<th scope=\"col\">Bytes kept</th>", Self.timesHeader,
            "<th scope=\"col\">Modules</th>",
        ]
        return table(
            caption: "Bytes of the linear weights, all layers together; the outline is dense",
            label: "Bytes by role", columns: columns, rows: rows, style: "bars bytes")
    }

    private func bar(
        _ name: String, kept: Double, dense: Double, largest: Double,
        pieces: [Allocation.Share], note: String, _ colors: FormatColors
    ) -> Markup {
        func percent(_ bytes: Double) -> Double {
            100 * Swift.min(Swift.max(Figure.quotient(bytes, largest) ?? 0, 0), 1)
        }
        var left = 0.0
        let rects = pieces.map { piece -> Markup in
            let width = Swift.min(percent(piece.bytes), 100 - left)
            defer { left += width }
            return """
                <rect class="\(colors.colorClass(piece.label))" x="\(Figure.coordinate(left))%" \
                width="\(Figure.coordinate(width))%" height="12"><title>\
                \(VisibleText("\(piece.label): \(piece.isEstimated ? "about " : "")\(Figure.bytes(Figure.integer(piece.bytes)))").line)\
                </title></rect>
                """
        }
        return """
            <tr class="first"><th scope="row">\(isolated(name))</th>\
            <td class="wide"><svg width="100%" height="12" aria-hidden="true">\
            <rect class="ghost" width="\(Figure.coordinate(percent(dense)))%" height="12"/>\
            \(rects)</svg></td>\
            <td>\(Figure.bytes(Figure.integer(kept)))</td>\
            <td>\(Figure.ratio(Figure.quotient(kept, dense)))</td>\
            <td class="note">\(isolated(note))</td></tr>

            """
    }
}
