import MinimaCore

extension Page {
    /// Everything needed to do it again.
    func provenanceSections(_ report: Report) -> [Markup] {
        let parts =
            analysisRecords(report) + planRecords(report) + compressionRecords(report)
            + healingRecords(report) + ablationRecords(report) + evaluationRecords(report)
            + benchRecords(report) + costRecords(report)
            + architectures(report)
        return parts.isEmpty ? [] : [section("provenance", "Provenance", "\(parts)")]
    }

    private func compressionRecords(_ report: Report) -> [Markup] {
        report.compressions.indices.map { index in
            let result = report.compressions[index]
            let removed = Figure.quotient(
                result.totals.linearParametersAfter, result.totals.linearParametersBefore
            ).map { 1 - $0 }
            return """
                <h3>Compression: \(named(report.lineage.series(ofCompression: index)))</h3>
                <dl class="record">
                \(entry("Minima", result.version))\
                \(entry("Parent", result.parent))\
                \(entry("Formats", Set(result.modules.map(\.spec.title)).sorted().joined(separator: ", ")))\
                \(entry("Asked for", result.plan.target))\
                \(entry("Removed", "\(Figure.share(removed)) (\(Figure.count(result.totals.linearParametersBefore)) → \(Figure.count(result.totals.linearParametersAfter)))"))\
                \(calibrationEntries(result.calibration))\
                \(entry("Compensation", result.compensation))\
                \(entry("Ridge", Figure.significant(result.ridge, 3)))\
                \(entry("Ran on", "\(result.device), \(result.dtype), libtorch \(result.torch)"))\
                \(entry("Peak on the device", Figure.bytes(result.peakDeviceBytes)))\
                \(entry("Time", Figure.seconds(result.seconds)))\
                \(entry("By phase", phases(result.phases)))\
                \(hashes("Parent’s SHA-256", result.parentHashes))</dl>

                """
        }
    }

    /// A line of a record.
    func entry(_ name: String, _ value: String) -> Markup {
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

    private func costRecords(_ report: Report) -> [Markup] {
        report.costs.map { costs in
            let formats = Set(costs.rows.map(\.spec.title)).sorted().joined(separator: ", ")
            return """
                <h3>Decoding times: \(isolated(costs.card))</h3>
                <dl class="record">
                \(entry("Minima", costs.version))\
                \(entry("Command", costs.command))\
                \(entry("Read bandwidth", "\(Figure.gigabytes(costs.readBandwidth.median)) \(Figure.spread(costs.readBandwidth))"))\
                \(entry("Layers", Figure.count(costs.rows.count)))\
                \(entry("Formats", formats))</dl>

                """
        }
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
