import MinimaCore

extension DecodeCosts {
    /// Microseconds by format and layer, as plain text of at most 80 columns with a line feed after every
    /// line: a table for each number of tokens.
    public func table() -> String {
        TextTable.joined(
            [TextTable.wrapped("Linear layers on \(card), µs of all launches of each")]
                + Set(rows.map(\.tokens)).sorted().map { tokens in
                    TextTable.costs(rows.filter { $0.tokens == tokens }, tokens: tokens)
                })
    }
}

extension TextTable {
    /// One way of storing the layers.
    private struct Way {
        var rows: [DecodeCosts.Row] = []

        /// Its formats, each once.
        var name: String {
            var names: [String] = []
            for row in rows where !names.contains(row.spec.title) { names.append(row.spec.title) }
            return names.joined(separator: ", ")
        }

        func row(_ size: [Int]) -> DecodeCosts.Row? {
            rows.first { [$0.outputs, $0.inputs] == size }
        }
    }

    /// Rows of ways one after the other, each of which has a size once.
    fileprivate static func costs(_ rows: [DecodeCosts.Row], tokens: Int) -> [String] {
        var ways: [Way] = []
        var sizes: [[Int]] = []
        for row in rows {
            let size = [row.outputs, row.inputs]
            if !sizes.contains(size) { sizes.append(size) }
            if ways.last?.row(size) == nil, !ways.isEmpty {
                ways[ways.count - 1].rows.append(row)
            } else {
                ways.append(Way(rows: [row]))
            }
        }
        // Beside the names there is room for some.
        let shown = sizes.prefix(4)
        let lines = ways.map { way -> (String, [String]) in
            let seconds = way.rows.reduce(0) { $0 + $1.nanoseconds.median } / 1e9
            let bytes = way.rows.reduce(0) { $0 + Double($1.bytes) }
            return (
                way.name,
                shown.map { size in
                    Figure.microseconds(way.row(size).map { $0.nanoseconds.median / 1e9 })
                } + [Figure.microseconds(seconds), Figure.bytes(Figure.integer(bytes))]
            )
        }
        return wrapped("\(Figure.count(tokens)) at once")
            + grid(
                shown.map { "\(Figure.count($0[0])) × \(Figure.count($0[1]))" } + ["all", "reads"],
                lines)
    }
}
