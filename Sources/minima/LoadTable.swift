import MinimaCore

/// What `minima load` measured, for a terminal of 80 columns.
struct LoadTable {
    let text: String

    private static let columns: [(title: String, percent: Double)] = [
        ("p50", 50), ("p90", 90), ("p99", 99), ("p99.9", 99.9), ("max", 100),
    ]

    init(_ result: LoadResult) {
        var lines = [
            "\(result.address), \(result.model), \(result.interface)",
            "\(result.arrivals); prompts \(result.promptLengths) tokens, answers "
                + "\(result.answerLengths); seed \(result.seed)",
            "",
        ]
        let failed = result.failed == 0 ? "" : ", \(grouped(result.failed)) failed"
        lines.append(
            "\(grouped(result.completed)) answers\(failed) in \(duration(result.seconds)): "
                + "\(short(result.requestThroughput)) answers/s, "
                + "\(short(result.outputThroughput)) tokens/s out, "
                + "\(short(result.totalThroughput)) with prompts")
        lines.append(
            "\(grouped(result.promptTokens)) tokens of prompts, \(grouped(result.answerTokens)) of "
                + "answers" + Self.counted(result))
        if let goodput = result.goodput {
            let limits = result.objectives.sorted { $0.key < $1.key }.map {
                "\($0.key) ≤ \(short($0.value)) ms"
            }
            lines.append("goodput \(short(goodput)) answers/s (\(limits.joined(separator: ", ")))")
        }
        lines.append("")
        lines.append(Self.row("ms", ["mean"] + Self.columns.map(\.title)))
        let rows: [(String, LoadResult.Distribution?)] = [
            ("TTFT", result.ttft), ("TPOT", result.tpot), ("ITL", result.itl),
            ("E2EL", result.e2el), ("sent late", result.sendDelay),
        ]
        for (name, values) in rows {
            guard let values else { continue }
            lines.append(Self.row(name, Self.cells(values)))
        }
        if let rate = result.answerRate {
            let worst = [50.0, 10, 1].map { rate.value(at: $0).map(short) ?? "–" }
            lines.append("")
            lines.append(Self.row("tokens/s", ["mean", "p50", "p10", "p1", "min"]))
            lines.append(
                Self.row("an answer", [short(rate.mean)] + worst + [short(rate.least)]))
        }
        if !result.errors.isEmpty || result.retries > 0 || result.empty > 0 { lines.append("") }
        for (kind, count) in result.errors.sorted(by: { $0.key < $1.key }) {
            lines.append("failed, \(kind): \(grouped(count))")
        }
        if result.retries > 0 {
            lines.append("refused with 429 and sent again when told: \(grouped(result.retries))")
        }
        if result.empty > 0 { lines.append("answers without a token: \(grouped(result.empty))") }
        lines.append("")
        lines.append(
            result.rate == nil
                ? "Times count from when a user first asked; each waits for an answer before the next."
                : "Times count from when a request was due (no coordinated omission).")
        text = lines.map { $0 + "\n" }.joined()
    }

    private static func counted(_ result: LoadResult) -> String {
        switch result.tokensCountedBy {
        case "usage": ""
        case "chunks": " (the server does not count; one a piece)"
        default: " (not all counted by the server; others one a piece)"
        }
    }

    private static func cells(_ values: LoadResult.Distribution) -> [String] {
        [short(values.mean)] + columns.map { values.value(at: $0.percent).map(short) ?? "–" }
    }

    static func row(_ name: String, _ cells: [String]) -> String {
        let pad = { (text: String, width: Int) in
            String(repeating: " ", count: max(0, width - text.count))
        }
        return cells.reduce(name + pad(name, 10)) { $0 + pad($1, 10) + $1 }
    }
}
