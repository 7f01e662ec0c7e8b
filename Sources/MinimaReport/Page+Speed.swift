import MinimaCore

extension Page {
    /// Dense, compressed, and with a draft at several numbers of requests, beside the paper.
    func comparedSpeedSection(_ report: Report) -> [Markup] {
        guard !report.speeds.isEmpty else { return [] }
        let blocks = report.speeds.map { result -> Markup in
            """
            <h3>\(isolated(result.place))</h3>
            <p class="note">\(isolated(result.conditions))</p>
            \(result.requests.map { speedBars(result, requests: $0) })\(speedTable(result))\
            <dl class="record">
            \(entry("Minima", result.version))\
            \(entry("Command", result.command))</dl>

            """
        }
        let note: Markup = """
            <p class="note">Outlined: what the dense run times the paper's own multiple would be \
            (section 5.2: Qwen3-32B at −35 %, 8K tokens: 40, 50 and 75 tokens/s at one request, 34, \
            44 and 53 at fifty). Spread: the farthest repetition from the median.</p>

            """
        return [
            section("compared-speed", "Speed as in the paper’s section 5.2", "\(blocks)\(note)")
        ]
    }

    /// A bar per configuration within the outline of what the paper's ratio would give.
    private func speedBars(_ result: SpeedResult, requests: Int) -> Markup {
        let rows = result.rows.filter { $0.requests == requests }
        let expected = rows.map { result.expected($0) }
        let speeds = rows.map { Optional($0.tokensPerSecond.median) }
        let largest = (expected + speeds).compactMap { $0 }.filter(\.isFinite).max() ?? 0
        guard largest > 0 else { return "" }
        func width(_ value: Double?) -> String {
            Figure.coordinate(100 * (Figure.quotient(value, largest) ?? 0))
        }
        let bars = rows.indices.map { index -> Markup in
            let row = rows[index]
            let outline: Markup =
                expected[index] == nil
                ? ""
                : """
                <rect class="outline" x="0.5" y="1.5" width="\(width(expected[index]))%" height="11" \
                rx="1"/>
                """
            return """
                <tr class="first"><th scope="row">\(row.configuration.title)</th>\
                <td class="wide"><svg class="\(style(row.configuration))" width="100%" height="14" \
                aria-hidden="true">\(outline)<rect y="2" width="\(width(speeds[index]))%" height="10" \
                rx="1"/></svg></td><td>\(Figure.significant(speeds[index], 4))</td>\
                <td>\(Figure.ratio(result.ratio(row)))</td>\
                <td class="note">\(Figure.ratio(SpeedResult.paperRatio(row.configuration, requests: requests)))</td></tr>

                """
        }
        let columns: [Markup] = [
            "<th scope=\"col\"><span class=\"hidden\">Configuration</span></th>",
            "<th scope=\"col\" class=\"wide\"><span class=\"hidden\">Bar</span></th>",
            "<th scope=\"col\">Tokens/s</th>", "<th scope=\"col\">× dense</th>",
            "<th scope=\"col\">Paper</th>",
        ]
        return table(
            caption: "\(result.heading(requests)): tokens/s of each request", label: "Speed",
            columns: columns, rows: bars, style: "bars")
    }

    private func style(_ configuration: SpeedResult.Configuration) -> String {
        switch configuration {
        case .dense: "s0"
        case .compressed: "s1"
        case .speculation: "s2"
        }
    }

    private func speedTable(_ result: SpeedResult) -> Markup {
        let columns: [Markup] = [
            "<th scope=\"col\">Configuration</th>", "<th scope=\"col\">Requests</th>",
            "<th scope=\"col\">Tokens/s each</th>", "<th scope=\"col\">Spread</th>",
            "<th scope=\"col\">In total</th>", "<th scope=\"col\">First token</th>",
            "<th scope=\"col\">Peak memory</th>", "<th scope=\"col\">Weights</th>",
            "<th scope=\"col\">Tokens per step</th>", "<th scope=\"col\">Model</th>",
        ]
        let rows = result.rows.map { row -> Markup in
            """
            <tr><th scope="row">\(row.configuration.title)</th>\
            <td>\(Figure.count(row.requests))</td>\
            <td>\(Figure.significant(row.tokensPerSecond.median, 4))</td>\
            <td>\(Figure.spread(row.tokensPerSecond))</td>\
            <td>\(Figure.significant(row.totalTokensPerSecond, 4))</td>\
            <td>\(Figure.seconds(row.firstToken?.median))</td>\
            <td>\(Figure.bytes(row.peakBytes))</td><td>\(Figure.bytes(row.weightBytes))</td>\
            <td>\(isolated(row.steps))</td>\
            <td class="words">\(isolated(row.label))</td></tr>

            """
        }
        guard !rows.isEmpty else { return "<p class=\"note\">Nothing was timed.</p>\n" }
        return table(
            caption: "Each configuration was loaded in the same process, one after the other",
            label: "Speeds", columns: columns, rows: rows, style: "figures")
    }
}

extension SpeedResult {
    /// `qwen3-32b on NVIDIA H200`.
    var place: String { "\(model) on \(device)" }

    /// What was measured.
    var conditions: String {
        let how =
            switch method {
            case .requests:
                "requests that come at once through the engine, \(Figure.count(tokens)) new tokens of each"
            case .steps:
                "random weights, \(Figure.count(tokens)) decode steps behind a prompt"
            }
        return "\(how), \(Figure.count(context)) tokens of prompt; \(dtype), keys and values "
            + "\(cacheType)"
    }

    /// `50 requests at a time`.
    func heading(_ requests: Int) -> String {
        requests == 1 ? "1 request" : "\(Figure.count(requests)) requests at a time"
    }

    /// What the dense run times the paper's ratio would be; `nil` for the dense run itself.
    func expected(_ row: Row) -> Double? {
        guard let ratio = Self.paperRatio(row.configuration, requests: row.requests),
            let dense = rows.first(where: {
                $0.configuration == .dense && $0.requests == row.requests
            })
        else { return nil }
        return ratio * dense.tokensPerSecond.median
    }

    /// What was measured, as plain text of at most 80 columns with a line feed after every line.
    public func table() -> String {
        let heading = TextTable.wrapped("\(place): \(conditions)")
        let blocks = requests.map { count -> [String] in
            let rows = rows.filter { $0.requests == count }.map { row in
                (
                    row.configuration == .speculation
                        ? "compressed, draft" : row.configuration.title,
                    [
                        Figure.significant(row.tokensPerSecond.median, 4),
                        Figure.spread(row.tokensPerSecond),
                        row.configuration == .dense ? "" : Figure.ratio(ratio(row)),
                        row.configuration == .dense
                            ? ""
                            : Figure.ratio(
                                Self.paperRatio(row.configuration, requests: count)),
                        Figure.significant(row.totalTokensPerSecond, 4),
                        Figure.seconds(row.firstToken?.median), Figure.bytes(row.peakBytes),
                    ]
                )
            }
            return TextTable.wrapped(self.heading(count))
                + TextTable.grid(
                    ["tokens/s", "spread", "×", "paper", "in total", "first", "peak"], rows)
        }
        let drafts = rows.filter { $0.configuration == .speculation }.map { row in
            "Tokens per step with the draft, \(self.heading(row.requests)): \(row.steps)"
        }
        let notes = drafts.isEmpty ? [] : [drafts.flatMap { TextTable.wrapped($0) }]
        return TextTable.joined([heading] + blocks + notes)
    }
}

extension SpeedResult.Row {
    /// `2.31 (up to 5 proposed)`, `2.80 simulated (5 proposed)`; `–` without a draft.
    var steps: String {
        guard configuration == .speculation else { return Figure.absent }
        let length = Figure.significant(acceptanceLength, 3)
        return length + (simulatedLength == nil ? "" : " simulated")
            + (proposals.map { " (\($0) proposed)" } ?? "")
    }
}
