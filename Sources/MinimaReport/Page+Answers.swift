import MinimaCore

extension Page {
    /// Which format won where, what sensitivity was worth, whether tensor networks won.
    func answersSection(
        _ allocations: [Allocation], _ contests: [Contest], _ report: Report
    ) -> [Markup] {
        let answers = Answers(contests, report.lineage)
        let isCompared = contests.contains(where: \.isAblation)
        guard !allocations.isEmpty || isCompared else { return [] }
        var content: Markup = ""
        if !allocations.isEmpty {
            content += "<h3>Which format won where?</h3>\n\(allocations.map(winners))"
        }
        content += question(
            "Is the mixture better than any single family?", answers.mixture,
            isAsked: isCompared)
        content += question(
            "What was the sensitivity model worth?", answers.sensitivity, isAsked: isCompared)
        content += question(
            "Do tensor networks beat their rivals at equal bytes?", answers.networks,
            isAsked: isCompared)
        return [section("answers", "Answers", content)]
    }

    private func question(_ question: String, _ sentences: [String], isAsked: Bool) -> Markup {
        guard isAsked || !sentences.isEmpty else { return "" }
        let answer: [Markup] =
            sentences.isEmpty
            ? ["<p class=\"note\">These results do not say.</p>\n"]
            : sentences.map { "<p>\(isolated($0))</p>\n" }
        return "<h3>\(question)</h3>\n\(answer)"
    }

    /// Weights, or pieces of them, and bytes by role and format.
    private func winners(_ allocation: Allocation) -> Markup {
        let formats = Allocation.shares(allocation.cells)
        let shown = formats.prefix(8).map(\.label)
        let rows = allocation.roles.map { role -> Markup in
            let shares = Allocation.shares(role.cells)
            let counts = Dictionary(
                uniqueKeysWithValues: shares.map { (JSON.Name($0.label), $0) })
            let cells = shown.map { label -> Markup in
                guard let share = counts[JSON.Name(label)] else { return "<td></td>" }
                return """
                    <td>\(Figure.count(share.count)) <span class="note">\
                    \(share.isEstimated ? "≈ " : "")\
                    \(Figure.bytes(Figure.integer(share.bytes)))</span></td>
                    """
            }
            let rest = shares.filter { !shown.contains($0.label) }.reduce(0) { $0 + $1.count }
            let others: Markup = formats.count > shown.count ? "<td>\(Figure.count(rest))</td>" : ""
            return "<tr><th scope=\"row\">\(isolated(role.name))</th>\(cells)\(others)</tr>\n"
        }
        var columns: [Markup] = ["<th scope=\"col\">Role</th>"]
        columns += shown.map { "<th scope=\"col\">\(isolated($0))</th>" }
        if formats.count > shown.count { columns.append("<th scope=\"col\">other</th>") }
        return table(
            caption:
                "\(named(allocation.series)): <span class=\"note\">\(isolated(words(allocation)))</span>",
            label: "Formats by role", columns: columns, rows: rows, style: "figures")
    }

    /// What is counted, the format chosen most often, and what stays dense.
    private func words(_ allocation: Allocation) -> String {
        let shares = Allocation.shares(allocation.cells)
        let unit = allocation.cells.contains { $0.pieces.count > 1 } ? "pieces" : "weights"
        let all = shares.reduce(0) { $0 + $1.count }
        let chosen = shares.filter { $0.label != "dense" }
        var sentence = "\(unit) and bytes by format"
        if shares.contains(where: \.isEstimated) {
            sentence += ", a weight’s bytes divided by the area of its pieces (≈)"
        }
        if let most = chosen.max(by: { $0.count < $1.count }) {
            sentence +=
                ". Most often \(most.label): \(Figure.count(most.count)) of "
                + "\(Figure.count(all))"
        }
        let dense = shares.filter { $0.label == "dense" }.reduce(allocation.restBytes) {
            $0 + $1.bytes
        }
        return sentence + "; \(Figure.bytes(Figure.integer(dense))) stay dense."
    }
}
