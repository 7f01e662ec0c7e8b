/// The HTML page: sections of what there is, in the order in which a reader asks.
struct Page {
    private let report: Report

    init(_ report: Report) {
        self.report = report
    }

    /// The whole document.
    var markup: Markup {
        let comparisons = Comparison.all(of: report)
        let contests = Contest.all(of: report)
        let allocations = Allocation.all(of: report)
        let sections =
            headlineSection(comparisons, contests, report)
            + answersSection(allocations, contests, report)
            + comparisonSection(comparisons, report) + healingSection(report)
            + comparedSpeedSection(report) + speedSection(report)
            + ablationSection(contests, report)
            + sensitivitySection(allocations, report) + partsSection(report)
            + allocationSection(allocations, report) + layerSections(allocations, report)
            + predictorSection(report) + sampleSection(report) + provenanceSections(report)
        return """
            <!DOCTYPE html>
            <html lang="en">
            <head>
            <meta charset="utf-8">
            <meta name="viewport" content="width=device-width, initial-scale=1">
            <meta name="color-scheme" content="light dark">
            <meta http-equiv="Content-Security-Policy" \
            content="default-src 'none'; style-src 'unsafe-inline'">
            <title>\(VisibleText(report.title).line)</title>
            <style>
            \(Self.style)
            </style>
            </head>
            <body>
            <main>
            <header>
            <h1>\(isolated(report.title))</h1>
            <p class="note">\(introduction(isEmpty: sections.isEmpty))</p>
            </header>
            \(sections)
            </main>
            </body>
            </html>

            """
    }

    private func introduction(isEmpty: Bool) -> Markup {
        if isEmpty {
            return """
                Nothing was inspected, analyzed, compressed, healed, evaluated, generated or timed.
                """
        }
        let versions = Set(report.compressions.map(\.version)).sorted()
        let version: Markup =
            versions.isEmpty ? "" : " Compressed by Minima \(versions.joined(separator: ", "))."
        return """
            Everything here was measured on the texts and devices listed below, or says that it was \
            predicted; “–” stands for what is not known.\(version)
            """
    }
}

extension Page {
    /// Foreign text in a line, kept from reordering what surrounds it.
    func isolated(_ text: String) -> Markup {
        "<bdi>\(VisibleText(text).line)</bdi>"
    }

    /// A model's name after the colour it has in the charts.
    func named(_ series: Lineage.Series) -> Markup {
        "<span class=\"swatch \(colorClass(series))\" aria-hidden=\"true\"></span>\(isolated(series.label))"
    }

    /// The class that sets a series' colour; six colours recur.
    func colorClass(_ series: Lineage.Series) -> String {
        series.color == 0 ? "s0" : "s\((series.color - 1) % 6 + 1)"
    }

    /// Heads a column of ratios.
    static let timesHeader: Markup = """
        <th scope="col"><abbr title="relative to the dense weights">×</abbr></th>
        """

    /// Heads a column of bits per weight.
    static let bitsHeader: Markup = """
        <th scope="col"><abbr title="stored bits per weight of the linear layers">Bits</abbr></th>
        """

    /// A table that scrolls sideways where the screen is narrower.
    func table(
        caption: Markup, label: String, columns: [Markup], rows: [Markup], style: String = ""
    ) -> Markup {
        """
        <div class="scroll" role="region" aria-label="\(label)" tabindex="0">
        <table class="\(style)">
        <caption><span>\(caption)</span></caption>
        <thead><tr>\(columns)</tr></thead>
        <tbody>
        \(rows)</tbody>
        </table>
        </div>

        """
    }

    /// A section under a heading; `id` is a literal of this target.
    func section(_ id: String, _ heading: String, _ content: Markup) -> Markup {
        """
        <section aria-labelledby="\(id)">
        <h2 id="\(id)">\(heading)</h2>
        \(content)</section>

        """
    }
}
