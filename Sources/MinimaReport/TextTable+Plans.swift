extension TextTable {
    /// What each plan asked for and gave, two lines each.
    static func plans(_ allocations: [Allocation]) -> [String] {
        allocations.flatMap { allocation -> [String] in
            let formats = Allocation.formats(allocation.cells).map { "\($0.count) \($0.label)" }
            var line = "\(allocation.series.label): \(allocation.target)"
            if allocation.predicted != nil {
                line += "; predicted KL \(Figure.significant(allocation.predicted, 3))"
            }
            return [line, "  \(formats.joined(separator: ", "))"].map(fitted)
        }
    }

    /// A block per comparison: its rows, the winner marked, and the verdict.
    static func contests(_ contests: [Contest], _ lineage: Lineage) -> [[String]] {
        contests.compactMap { contest in
            guard contest.isAblation, !contest.entrants.isEmpty else { return nil }
            let winner = contest.winner()?.index
            let text = contest.perplexityText
            var columns = [
                column("kept", contest) { Figure.share($0.kept) },
                column("bits", contest) { Figure.significant($0.bits, 3) },
                column("predicted", contest) { Figure.significant($0.predicted, 3) },
                column("KL", contest) { Figure.significant(contest.score($0), 4) },
            ]
            if let text {
                columns.append(
                    column("perplexity", contest) {
                        Figure.significant($0.perplexity[text], 5)
                    })
            }
            let names = contest.entrants.indices.map { index in
                VisibleText(contest.entrants[index].name).line + (index == winner ? " *" : "")
            }
            let taken = columns.reduce(0) { $0 + $1.width + 2 }
            let longest = names.map { VisibleText.columns($0) }.max() ?? 0
            let nameWidth = Swift.max(1, Swift.min(longest, width - taken))
            let place = text.map { "; perplexity on \(ModelPath($0).suffix(1).text)" } ?? ""
            let heading = "\(lineage.label(contest.model)) \(contest.heading)\(place)"
            var lines = [fitted(heading)]
            lines.append(
                columns.reduce(String(repeating: " ", count: nameWidth)) {
                    $0 + "  " + aligned($1.header, $1.width)
                })
            for index in contest.order {
                lines.append(
                    columns.reduce(
                        padded(VisibleText.fit(names[index], width: nameWidth), nameWidth)
                    ) {
                        $0 + "  " + aligned($1.cells[index], $1.width)
                    })
            }
            return lines + (contest.verdict.map { wrapped($0) } ?? [])
        }
    }

    /// Words of a column, right-aligned.
    private struct WordColumn {
        var header: String
        var cells: [String]

        var width: Int {
            (cells.map { VisibleText.columns($0) } + [header.count]).max() ?? 0
        }
    }

    private static func column(
        _ header: String, _ contest: Contest, _ cell: (Contest.Entrant) -> String
    ) -> WordColumn {
        WordColumn(header: header, cells: contest.entrants.map(cell))
    }

    private static func aligned(_ text: String, _ width: Int) -> String {
        spaces(text, width) + text
    }

    private static func fitted(_ line: String) -> String {
        VisibleText.fit(VisibleText(line).line, width: width)
    }

    /// Lines of whole words; a word longer than a line loses its middle.
    static func wrapped(_ text: String) -> [String] {
        var lines: [String] = []
        for word in VisibleText(text).line.unicodeScalars.split(separator: " ") {
            let word = VisibleText.fit(String(word), width: width)
            if let last = lines.last,
                VisibleText.columns(last) + 1 + VisibleText.columns(word) <= width
            {
                lines[lines.count - 1] = "\(last) \(word)"
            } else {
                lines.append(word)
            }
        }
        return lines
    }
}
