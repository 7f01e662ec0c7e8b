/// Before and after for a terminal, at most 80 columns wide.
struct TextTable {
    /// The table, with a line feed after every line.
    let text: String

    static let width = 80

    init(_ report: Report) {
        let comparisons = Comparison.all(of: report)
        let contests = Self.contests(Contest.all(of: report), report.lineage)
        let plans = Self.plans(Allocation.all(of: report))
        let healings = Self.healings(report)
        let benches = report.benches.flatMap { Self.bench($0) }
        guard !comparisons.isEmpty || !contests.isEmpty || !plans.isEmpty || !benches.isEmpty else {
            text = "No model was inspected, analyzed, compressed, healed, evaluated or timed.\n"
            return
        }
        var lines: [String] = []
        for comparison in comparisons {
            lines += Self.lines(comparison) + [""]
        }
        if !healings.isEmpty { lines += healings + [""] }
        for contest in contests { lines += contest + [""] }
        if !plans.isEmpty { lines += plans + [""] }
        for bench in benches { lines += bench + [""] }
        let rows = comparisons.flatMap(\.rows)
        if rows.contains(where: { $0.denseSize != nil }) {
            lines.append("×: relative to the dense model.")
        }
        if !contests.isEmpty || rows.contains(where: { $0.measurement?.kl != nil }) {
            lines.append("KL: mean KL(dense ‖ model) per predicted token, in nats.")
        }
        if !contests.isEmpty || rows.contains(where: { $0.bitsPerWeight != nil }) {
            lines.append("bits: stored per weight of the linear layers.")
        }
        if !contests.isEmpty { lines.append("*: the least KL, mean of all texts.") }
        if lines.last?.isEmpty == true { lines.removeLast() }
        text =
            lines.map { line in
                // Padding of the last column.
                String(line.reversed().drop { $0 == " " }.reversed()) + "\n"
            }.joined()
    }

    /// A value and what it is of the dense model's.
    private struct Cell {
        var value: String
        var ratio = ""
    }

    private static func lines(_ comparison: Comparison) -> [String] {
        let isEvaluated = comparison.name != nil
        let hasBits = comparison.rows.contains { $0.bitsPerWeight != nil }
        let headers =
            ["parameters", "bytes"] + (hasBits ? ["bits"] : [])
            + (isEvaluated ? ["perplexity", "KL"] : [])
        let cells = comparison.rows.map { row -> [Cell] in
            var sizes = [
                Cell(
                    value: Figure.short(row.size?.parameters), ratio: ratio(row.parameterRatio)),
                Cell(value: Figure.bytes(row.size?.bytes), ratio: ratio(row.byteRatio)),
            ]
            if hasBits { sizes.append(Cell(value: Figure.significant(row.bitsPerWeight, 3))) }
            guard isEvaluated else { return sizes }
            return sizes + [
                Cell(
                    value: Figure.significant(row.measurement?.perplexity, 5),
                    ratio: ratio(row.perplexityRatio)),
                Cell(value: Figure.significant(row.measurement?.kl, 4)),
            ]
        }
        let columns = headers.indices.map { index in
            Column(header: headers[index], cells: cells.map { $0[index] })
        }
        let figures = columns.reduce(0) { $0 + $1.width + 2 }
        let labels = comparison.rows.map { row in
            VisibleText(row.mark.map { "\(row.label) (\($0))" } ?? row.label).line
        }
        let longest = labels.map { VisibleText.columns($0) }.max() ?? 0
        let labelWidth = Swift.max(0, Swift.min(longest, width - figures))
        let indent = String(repeating: " ", count: labelWidth)

        var lines = [VisibleText.fit(VisibleText(comparison.heading).line, width: width)]
        lines.append(columns.reduce(indent) { $0 + "  " + padded($1.header, $1.width) })
        for (label, cells) in zip(labels, cells) {
            let line = zip(columns, cells).reduce("") { $0 + "  " + $1.0.text($1.1) }
            if VisibleText.columns(label) <= labelWidth {
                lines.append(padded(label, labelWidth) + line)
            } else {
                lines += [VisibleText.fit(label, width: width), indent + line]
            }
        }
        return lines
    }

    /// A column of values, each followed by its ratio.
    private struct Column {
        var header: String
        var valueWidth: Int
        var ratioWidth: Int

        init(header: String, cells: [Cell]) {
            self.header = header
            valueWidth = cells.map { VisibleText.columns($0.value) }.max() ?? 0
            ratioWidth = cells.map { VisibleText.columns($0.ratio) }.max() ?? 0
        }

        var width: Int {
            let cells = ratioWidth == 0 ? valueWidth : valueWidth + 1 + ratioWidth
            return Swift.max(cells, header.count)
        }

        func text(_ cell: Cell) -> String {
            let value = TextTable.spaces(cell.value, valueWidth) + cell.value
            guard ratioWidth > 0 else { return TextTable.padded(value, width) }
            let ratio = TextTable.spaces(cell.ratio, ratioWidth) + cell.ratio
            return TextTable.padded("\(value) \(ratio)", width)
        }
    }

    private static func ratio(_ value: Double?) -> String {
        value == nil ? "" : Figure.ratio(value)
    }

    static func padded(_ text: String, _ width: Int) -> String {
        text + spaces(text, width)
    }

    static func spaces(_ text: String, _ width: Int) -> String {
        String(repeating: " ", count: Swift.max(0, width - VisibleText.columns(text)))
    }
}
