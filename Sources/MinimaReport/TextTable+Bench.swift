import MinimaCore

extension BenchResult {
    /// What was measured, as plain text of at most 80 columns with a line feed after every line.
    ///
    /// - Parameter kernels: Whether the kernels of every run follow.
    public func table(kernels: Bool = true) -> String {
        let blocks =
            TextTable.bench(self)
            + (kernels ? runs.compactMap { TextTable.kernels(self, $0) } : [])
        return TextTable.joined(blocks)
    }
}

extension TextTable {
    /// A block per benchmark and group: decoding, then prompts and memory.
    static func bench(_ result: BenchResult) -> [[String]] {
        let heading = wrapped("\(result.place), \(result.ceilings)")
        return [heading]
            + BenchGroup.all(of: result).flatMap { group -> [[String]] in
                [decoding(group), speculation(group, of: result), prompts(group)]
                    .filter { !$0.isEmpty }
            }
    }

    private static func decoding(_ group: BenchGroup) -> [String] {
        let showsTotal = group.requests != 1
        var headers = ["tokens/s", "×", "ms/token", "spread", "reads", "roofline"]
        if showsTotal { headers.insert("in total", at: 1) }
        let rows = group.rows.map { row -> (String, [String]) in
            let total = Figure.significant(row.figures.totalTokensPerSecond, 4)
            let cells = [
                row.isReference ? "" : Figure.ratio(row.ratio),
                Figure.milliseconds(row.run.step.median), Figure.spread(row.run.step),
                Figure.bytes(Figure.integer(row.run.traffic.total)),
                Figure.share(row.figures.rooflineShare),
            ]
            return (
                row.name,
                [Figure.significant(row.figures.tokensPerSecond, 4)]
                    + (showsTotal ? [total] : []) + cells
            )
        }
        return wrapped("Decoding, \(group.heading)") + grid(headers, rows)
    }

    /// Parts of steps that verify proposals, against the bytes that they must move.
    private static func speculation(_ group: BenchGroup, of result: BenchResult) -> [String] {
        let rows = group.rows.compactMap { row -> (String, [String])? in
            guard let own = row.run.speculation else { return nil }
            return (
                row.name,
                [
                    Figure.significant(own.acceptanceLength, 3),
                    Figure.ratio(row.ratio), Figure.microseconds(own.round.seconds),
                    Figure.share(result.share(own.round)),
                    Figure.microseconds(own.verification.seconds),
                    Figure.share(result.share(own.verification)), Figure.gibibytes(own.addedBytes),
                ]
            )
        }
        guard !rows.isEmpty else { return [] }
        return wrapped("Speculation, \(group.heading)")
            + grid(
                ["tokens", "×", "round µs", "of card", "verify µs", "of card", "added"], rows)
            + chosen(group)
    }

    /// How many steps proposed how much, where that was chosen.
    private static func chosen(_ group: BenchGroup) -> [String] {
        let shares = group.rows.compactMap { row in
            row.run.speculation?.shares.map { (name: row.name, shares: $0) }
        }
        let counts = Set(shares.flatMap(\.shares.keys)).sorted()
        guard !counts.isEmpty else { return [] }
        return ["", "Steps by the number of proposals chosen"]
            + grid(
                counts.map { Figure.count($0) },
                shares.map { row in (row.name, counts.map { Figure.share(row.shares[$0]) }) })
    }

    private static func prompts(_ group: BenchGroup) -> [String] {
        let rows = group.rows.filter { row in
            row.run.prefill != nil || row.run.firstToken != nil || row.run.peakBytes != nil
        }.map { row in
            (
                row.name,
                [
                    Figure.seconds(row.run.prefill?.seconds.median),
                    Figure.significant(row.figures.prefillFlopsPerSecond.map { $0 / 1e12 }, 3),
                    Figure.share(row.figures.prefillShare),
                    Figure.seconds(row.run.firstToken?.median),
                    Figure.gibibytes(row.run.peakBytes),
                    Figure.gibibytes(row.run.predictedMemory?.total),
                ]
            )
        }
        guard !rows.isEmpty else { return [] }
        return wrapped("Prompts and memory, \(group.heading)")
            + grid(["prompt", "TFLOP/s", "of card", "first", "peak", "predicted"], rows)
    }

    /// Kernels of a run's step; `nil` where none was measured.
    static func kernels(_ result: BenchResult, _ run: BenchResult.Run) -> [String]? {
        guard !run.kernels.isEmpty else { return nil }
        let figures = result.figures(run)
        var rows = run.kernels.map { kernel -> (String, [String]) in
            let own = result.figures(kernel, in: run)
            return (
                kernel.name,
                [
                    Figure.count(kernel.launches), Figure.bytes(kernel.bytes),
                    Figure.microseconds(kernel.seconds),
                    Figure.significant(own.bytesPerSecond.map { $0 / 1e9 }, 4),
                    Figure.share(own.bandwidthShare), Figure.share(own.stepShare),
                ]
            )
        }
        for (name, seconds) in [
            ("all kernels", figures.kernelSeconds),
            ("not in kernels", figures.unexplainedSeconds),
            ("outside the graph", figures.hostSeconds), ("step", run.stepSeconds),
        ] where seconds != nil {
            let share = seconds.flatMap { quotient($0, run.stepSeconds) }
            rows.append(
                (name, ["", "", Figure.microseconds(seconds), "", "", Figure.share(share)]))
        }
        let heading =
            "Kernels of a step, \(run.label), \(Figure.count(run.context)) tokens, "
            + "\(Figure.count(run.requests)) at once"
        return wrapped(heading)
            + grid(["launches", "bytes", "µs", "GB/s", "of card", "of step"], rows)
    }

    /// A quotient that may be negative.
    private static func quotient(_ part: Double, _ whole: Double) -> Double? {
        Figure.quotient(part.magnitude, whole).map { part < 0 ? -$0 : $0 }
    }

    /// Rows under headers, figures to the right; a name too long for its column has a line of its
    /// own, and the last columns are left out where all are wider than a line.
    static func grid(_ headers: [String], _ rows: [(String, [String])]) -> [String] {
        var widths: [Int] = []
        var figures = 0
        for index in headers.indices {
            let cells = rows.map { VisibleText.columns($0.1[index]) }
            let column = Swift.max(VisibleText.columns(headers[index]), cells.max() ?? 0)
            guard figures + column + 2 <= width else { break }
            figures += column + 2
            widths.append(column)
        }
        let names = rows.map { VisibleText($0.0).line }
        let longest = names.map { VisibleText.columns($0) }.max() ?? 0
        let nameWidth = Swift.max(0, Swift.min(longest, width - figures))
        func line(_ cells: [String]) -> String {
            zip(widths, cells).reduce("") { $0 + "  " + spaces($1.1, $1.0) + $1.1 }
        }
        let indent = String(repeating: " ", count: nameWidth)
        var lines = [indent + line(headers)]
        for (name, row) in zip(names, rows) {
            if VisibleText.columns(name) <= nameWidth {
                lines.append(padded(name, nameWidth) + line(row.1))
            } else {
                lines += [VisibleText.fit(name, width: width), indent + line(row.1)]
            }
        }
        return lines
    }

    /// Blocks with an empty line between them, no line ending in spaces.
    static func joined(_ blocks: [[String]]) -> String {
        blocks.joined(separator: [""]).map { line in
            String(line.reversed().drop { $0 == " " }.reversed()) + "\n"
        }.joined()
    }
}
