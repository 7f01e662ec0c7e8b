import MinimaCore

extension DecodeCosts {
    /// Microseconds, their spread, bytes and bytes per second by way of storing the layers and by layer, as
    /// plain text of at most 80 columns with a line feed after every line: a table for each number of
    /// tokens.
    public func table() -> String {
        let heading =
            "Linear layers on \(card), which reads \(Figure.gigabytes(readBandwidth.median)): all launches "
            + "of each"
        return TextTable.joined(
            [TextTable.wrapped(heading)]
                + Set(rows.map(\.tokens)).sorted().map { tokens in
                    TextTable.costs(rows.filter { $0.tokens == tokens }, tokens: tokens)
                })
    }
}

extension TextTable {
    /// One way of storing the layers: consecutive rows of one label, each of another site.
    private struct Way {
        var rows: [DecodeCosts.Row]

        /// Its label; where none was recorded its formats, each once.
        var name: String {
            if let label = rows.first?.label { return label }
            var names: [String] = []
            for row in rows where !names.contains(row.spec.title) { names.append(row.spec.title) }
            return names.joined(separator: ", ")
        }

        /// Whether `row` is of this way, too. Sizes stand for sites that were not recorded.
        func takes(_ row: DecodeCosts.Row) -> Bool {
            rows.allSatisfy { own in
                own.label == row.label
                    && (own.site != row.site
                        || own.site == nil
                            && [own.outputs, own.inputs] != [row.outputs, row.inputs])
            }
        }

        /// The layers one after the other: sums of their medians and of their ends, so that the spread is
        /// one of layers that are all slow, or all fast, at once.
        var nanoseconds: BenchResult.Spread {
            func sum(_ part: (BenchResult.Spread) -> Double) -> Double {
                rows.reduce(0) { $0 + part($1.nanoseconds) }
            }
            return .init(
                median: sum(\.median), lowest: sum(\.lowest), highest: sum(\.highest),
                repetitions: rows.map(\.nanoseconds.repetitions).min() ?? 0)
        }
    }

    /// Ways one after the other, the layers of each under it.
    fileprivate static func costs(_ rows: [DecodeCosts.Row], tokens: Int) -> [String] {
        var ways: [Way] = []
        for row in rows {
            if ways.last?.takes(row) == true {
                ways[ways.count - 1].rows.append(row)
            } else {
                ways.append(Way(rows: [row]))
            }
        }
        func cells(_ time: BenchResult.Spread, _ bytes: Double) -> [String] {
            let seconds = time.median / 1e9
            let rate = Figure.quotient(bytes, seconds).map { $0 / 1e9 }
            return [
                Figure.microseconds(seconds), Figure.spread(time),
                Figure.bytes(Figure.integer(bytes)), Figure.significant(rate, 4),
            ]
        }
        let lines = ways.flatMap { way -> [(String, [String])] in
            let bytes = way.rows.reduce(0) { $0 + Double($1.bytes) }
            return [(way.name, cells(way.nanoseconds, bytes))]
                + way.rows.map { row in
                    let size = "\(Figure.count(row.outputs)) × \(Figure.count(row.inputs))"
                    return (
                        "  \(row.site.map { "\($0), " } ?? "")\(size)",
                        cells(row.nanoseconds, Double(row.bytes))
                    )
                }
        }
        return wrapped("\(Figure.count(tokens)) at once")
            + grid(["µs", "spread", "reads", "GB/s"], lines)
    }
}
