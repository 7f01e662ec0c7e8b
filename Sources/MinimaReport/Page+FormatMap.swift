import MinimaCore

extension Page {
    /// Which format each weight took: rows are layers, columns linear layers, at the right the share
    /// of bytes that each layer keeps.
    func formatMap(_ allocation: Allocation, _ colors: FormatColors, rows: MapRows) -> Markup {
        var roles: [JSON.Name] = []
        for role in allocation.cells.filter({ $0.layer != nil }).flatMap(\.members)
        where !roles.contains(JSON.Name(role)) {
            roles.append(JSON.Name(role))
        }
        let width = Swift.min(Swift.max(340 / Swift.max(roles.count, 1), 24), 52)
        let places = Dictionary(uniqueKeysWithValues: roles.enumerated().map { ($1, $0) })
        let end = MapRows.left + width * roles.count
        let names = roles.enumerated().map { index, role -> Markup in
            let short = SensitivityMap.Role(name: role.text, patches: []).short
            return """
                <text x="\(MapRows.left + width * index + 1)" y="13">\
                \(VisibleText.fit(VisibleText(short).line, width: Swift.max(1, width / 6)))\
                <title>\(VisibleText(role.text).line)</title></text>

                """
        }
        let layers = Dictionary(
            uniqueKeysWithValues: allocation.layers.map { ($0.layer, $0.cells) })
        let lines = rows.layers.enumerated().map { index, layer -> Markup in
            let cells = layers[layer] ?? []
            let squares = Allocation.merged(cells).map { cell -> Markup in
                let columns = cell.members.compactMap { places[JSON.Name($0)] }
                guard let first = columns.min(), let last = columns.max() else { return "" }
                return square(
                    cell, colors, x: MapRows.left + width * first,
                    width: width * (last - first + 1), height: rows.height)
            }
            let kept = Figure.quotient(
                cells.reduce(0) { $0 + $1.bytes }, cells.reduce(0) { $0 + $1.denseBytes })
            return """
                <g transform="translate(0 \(rows.y(index)))">\(squares)\
                \(share(kept, x: end + 10, height: rows.height))</g>

                """
        }
        let description =
            "Formats of \(allocation.series.label): "
            + Allocation.formats(allocation.cells).map { "\($0.count) \($0.label)" }
            .joined(separator: ", ")
        let total = end + 112
        return """
            <div class="map"><h4>\(isolated(allocation.series.label)): formats</h4>
            <div class="scroll" role="region" aria-label="Formats by layer" tabindex="0">
            <svg class="\(rows.height < 12 ? "tight" : "")" width="\(total)" height="\(rows.total)" viewBox="0 0 \(total) \(rows.total)" \
            role="img" aria-label="\(VisibleText(description).line)">
            \(names)<text x="\(end + 10)" y="13">bytes kept</text>
            \(rowLabels(rows))\(lines)</svg>
            </div></div>

            """
    }

    private func square(
        _ cell: Allocation.Cell, _ colors: FormatColors, x: Int, width: Int, height: Int
    ) -> Markup {
        let kept = Figure.share(Figure.quotient(cell.bytes, cell.denseBytes))
        let damage =
            cell.predicted.map { ", predicted KL \(Figure.significant($0, 3))" } ?? ""
        let title = VisibleText("\(cell.name): \(cell.label), \(kept) of its bytes\(damage)").line
        // A pixel between cells.
        let room = Double(width - 1)
        var left = Double(x)
        let pieces = cell.pieces.map { piece -> Markup in
            let start = left
            left += room * piece.share
            return """
                <rect class="\(colors.colorClass(piece.label))" x="\(Figure.tenths(start))" \
                width="\(Figure.tenths(room * piece.share))" height="\(height - 1)"/>
                """
        }
        let text = VisibleText.fit(
            VisibleText(cell.label).line, width: Swift.max(1, width * 2 / 11))
        let label: Markup =
            """
            <text class="on" x="\(Figure.tenths(Double(x) + room / 2))" \
            y="\(Figure.tenths(Double(height) / 2 + 2.5))" text-anchor="middle">\(text)</text>
            """
        return "<g><title>\(title)</title>\(pieces)\(cell.pieces.count > 1 ? "" : label)</g>"
    }

    private func share(_ kept: Double?, x: Int, height: Int) -> Markup {
        guard let kept else { return "" }
        let width = Figure.tenths(56 * Swift.min(Swift.max(kept, 0), 1))
        let text: Markup = """
            <text x="\(x + 60)" y="\(height / 2 + 3)">\(Figure.share(kept))</text>
            """
        return """
            <rect class="ghost" x="\(x)" y="1" width="56" height="\(height - 3)"/>\
            <rect class="ink" x="\(x)" y="1" width="\(width)" height="\(height - 3)"/>\(text)
            """
    }

    /// What the formats' colours mean.
    func formatLegend(_ colors: FormatColors) -> Markup {
        var items = colors.labels.map { label -> Markup in
            """
            <li><span class="swatch \(colors.colorClass(label))" aria-hidden="true"></span>\
            \(isolated(label))</li>
            """
        }
        if colors.hasOthers {
            items.append(
                "<li><span class=\"swatch s7\" aria-hidden=\"true\"></span>other formats</li>")
        }
        return "<ul class=\"legend\">\(items)</ul>\n"
    }
}
