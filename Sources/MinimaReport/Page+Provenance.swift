import MinimaCore

extension Page {
    /// Everything needed to do it again.
    func provenanceSections(_ report: Report) -> [Markup] {
        let parts =
            compressionRecords(report) + evaluationRecords(report) + architectures(report)
        return parts.isEmpty ? [] : [section("provenance", "Provenance", "\(parts)")]
    }

    private func compressionRecords(_ report: Report) -> [Markup] {
        report.compressions.indices.map { index in
            let result = report.compressions[index]
            let removed = Figure.quotient(
                result.linearParametersAfter, result.linearParametersBefore
            ).map { 1 - $0 }
            let calibration = result.calibration
            let sources =
                calibration.sources == ["self"]
                ? "text that the dense model wrote itself"
                : calibration.sources.joined(separator: ", ")
            let hashes = result.parentHashes.sorted { $0.key < $1.key }.map { file, hash in
                "<li>\(isolated(file)) <code>\(isolated(hash))</code></li>\n" as Markup
            }
            return """
                <h3>Compression: \(named(report.lineage.series(ofCompression: index)))</h3>
                <dl class="record">
                \(entry("Minima", result.version))\
                \(entry("Parent", result.parent))\
                \(entry("Format", result.format))\
                \(entry("Asked to remove", "\(Figure.share(result.ratio)) of the linear layers’ parameters"))\
                \(entry("Removed", "\(Figure.share(removed)) (\(Figure.count(result.linearParametersBefore)) → \(Figure.count(result.linearParametersAfter)))"))\
                \(entry("Calibration", sources))\
                \(entry("Calibration size", "\(Figure.count(calibration.samples)) windows of \(Figure.count(calibration.context)) tokens"))\
                \(entry("Seed", String(calibration.seed)))\
                \(entry("Time", Figure.seconds(result.seconds)))\
                <div><dt>Parent’s SHA-256</dt><dd><ul class="plain">
                \(hashes.isEmpty ? ["<li>–</li>"] : hashes)</ul></dd></div>
                </dl>

                """
        }
    }

    private func entry(_ name: String, _ value: String) -> Markup {
        "<div><dt>\(name)</dt><dd>\(isolated(value.isEmpty ? Figure.absent : value))</dd></div>\n"
    }

    private func evaluationRecords(_ report: Report) -> [Markup] {
        guard !report.evaluations.isEmpty else { return [] }
        let columns: [Markup] = [
            "<th scope=\"col\">Model</th>", "<th scope=\"col\">Text</th>",
            "<th scope=\"col\">Against</th>", "<th scope=\"col\">Device</th>",
            "<th scope=\"col\">Type</th>", "<th scope=\"col\">Time</th>",
            "<th scope=\"col\">Tokens/s</th>",
        ]
        let rows = report.evaluations.map { result -> Markup in
            """
            <tr><th scope="row">\(isolated(result.model))</th>\
            <td>\(isolated(result.text.joined(separator: ", ")))</td>\
            <td>\(isolated(result.against ?? Figure.absent))</td>\
            <td>\(isolated(result.device))</td><td>\(isolated(result.dtype))</td>\
            <td>\(Figure.seconds(result.seconds))</td>\
            <td>\(Figure.significant(result.tokensPerSecond, 4))</td></tr>

            """
        }
        let evaluations = table(
            caption: "Time of the passes without loading; of both models together where two ran",
            label: "Evaluations", columns: columns, rows: rows)
        return ["<h3>Evaluations</h3>\n\(evaluations)"]
    }

    private func architectures(_ report: Report) -> [Markup] {
        report.inspections.map { result in
            let architecture = result.architecture.sorted { $0.key < $1.key }.map { name, value in
                "<div><dt>\(isolated(name))</dt><dd>\(isolated(value))</dd></div>\n" as Markup
            }
            let dtypes = result.dtypes.sorted { $0.key < $1.key }.map { name, bytes in
                "\(name) \(Figure.bytes(bytes))"
            }
            return """
                <details>
                <summary>Architecture: \(named(report.lineage.series(ModelPath(result.model))))</summary>
                <dl class="record">
                \(entry("Directory", result.model))\
                \(entry("Family", result.family))\
                \(entry("Parameters", Figure.count(result.parameters)))\
                \(entry("Weights", "\(Figure.bytes(result.bytes)) in \(Figure.count(result.files)) files"))\
                \(entry("Stored types", dtypes.joined(separator: ", ")))\
                \(architecture)</dl>
                </details>

                """
        }
    }
}
