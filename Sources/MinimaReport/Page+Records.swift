import MinimaCore

extension Page {
    func analysisRecords(_ report: Report) -> [Markup] {
        report.analyses.map { result in
            let massive = result.sites.filter { $0.activations.massiveTokens > 0 }.count
            let outliers = result.sites.reduce(0) { $0 + $1.activations.outlierChannels.count }
            return """
                <h3>Analysis: \(named(report.lineage.series(ModelPath(result.model))))</h3>
                <dl class="record">
                \(entry("Minima", result.version))\
                \(entry("Model", "\(result.model) (\(result.family), \(result.dtype))"))\
                \(entry("Sites", Figure.count(result.sites.count)))\
                \(entry("Probes", Figure.count(result.probes.count)))\
                \(entry("Outlier channels", "\(Figure.count(outliers)) in all inputs"))\
                \(entry("Massive activations", "in the inputs of \(Figure.count(massive)) sites"))\
                \(calibrationEntries(result.calibration))\
                \(entry("Ran on", result.device))\
                \(entry("Time", phases(result.seconds)))\
                \(hashes("SHA-256", result.fingerprints))</dl>

                """
        }
    }

    func planRecords(_ report: Report) -> [Markup] {
        report.plans.map { plan in
            let kept = Figure.quotient(plan.linearParametersAfter, plan.linearParametersBefore)
            let bits = Figure.quotient(plan.linearBytesAfter, plan.linearParametersBefore)
            return """
                <h3>Plan: \(isolated(plan.target))</h3>
                <dl class="record">
                \(entry("Minima", plan.version))\
                \(entry("Model", plan.model))\
                \(entry("Formats allowed", plan.formats.isEmpty ? "all" : plan.formats.joined(separator: ", ")))\
                \(entry("Modules", Figure.count(plan.modules.count)))\
                \(entry("Parameters kept", "\(Figure.share(kept)) (\(Figure.count(plan.linearParametersBefore)) → \(Figure.count(plan.linearParametersAfter)))"))\
                \(entry("Bytes", "\(Figure.bytes(plan.linearBytesBefore)) → \(Figure.bytes(plan.linearBytesAfter))"))\
                \(entry("Bits per linear weight", Figure.significant(bits.map { 8 * $0 }, 3)))\
                \(entry("Predicted KL", Figure.significant(plan.damage, 3)))\
                \(hashes("SHA-256", plan.fingerprints))</dl>

                """
        }
    }

    func ablationRecords(_ report: Report) -> [Markup] {
        report.ablations.map { result in
            let tokens = result.tokens.sorted { $0.key < $1.key }.map {
                "\($0.key): \(Figure.count($0.value)) tokens"
            }
            return """
                <h3>Ablation: \(named(report.lineage.series(ModelPath(result.model))))</h3>
                <dl class="record">
                \(entry("Asked to remove", "\(Figure.share(result.ratio)) of \(Figure.count(result.linearParameters)) linear parameters"))\
                \(entry("Bytes before", Figure.bytes(result.linearBytes)))\
                \(entry("Texts", tokens.joined(separator: ", ")))\
                \(entry("Windows", "of \(Figure.count(result.context)) tokens"))\
                \(entry("Ran on", "\(result.device), \(result.dtype)"))\
                </dl>

                """
        }
    }

    /// Where calibration tokens came from, as lines of a record.
    func calibrationEntries(_ calibration: Calibration) -> Markup {
        let sources =
            calibration.sources.map(\.name) == ["self"]
            ? "text that the dense model wrote itself"
            : calibration.sources.map { source in
                "\(source.name) (\(Figure.count(source.windows)) windows, weight "
                    + "\(Figure.round(source.weight)))"
            }.joined(separator: ", ")
        let windows = calibration.sources.reduce(0) { sum, source in
            let (next, overflows) = sum.addingReportingOverflow(source.windows)
            return overflows ? .max : next
        }
        return """
            \(entry("Calibration", sources))\
            \(entry("Calibration size", "\(Figure.count(windows)) windows of \(Figure.count(calibration.context)) tokens"))\
            \(entry("With gradients", "\(Figure.count(calibration.gradientWindows)) windows"))\
            \(entry("Seed", String(calibration.seed)))\
            \(entry("Tokens’ SHA-256", calibration.hash))
            """
    }

    /// Seconds by phase, longest first.
    func phases(_ seconds: [String: Double]) -> String {
        let order = seconds.sorted { left, right in
            let (first, second) = (
                left.value.isFinite ? left.value : -1, right.value.isFinite ? right.value : -1
            )
            return first != second ? first > second : left.key < right.key
        }
        return order.map { "\($0.key) \(Figure.seconds($0.value))" }.joined(separator: ", ")
    }

    /// Hashes by file, as a line of a record.
    func hashes(_ name: String, _ hashes: [String: String]) -> Markup {
        let lines = hashes.sorted { $0.key < $1.key }.map { file, hash in
            "<li>\(isolated(file)) <code>\(isolated(hash))</code></li>\n" as Markup
        }
        return """
            <div><dt>\(name)</dt><dd><ul class="plain">
            \(lines.isEmpty ? ["<li>–</li>"] : lines)</ul></dd></div>

            """
    }
}
