import MinimaCore

extension Page {
    /// How fast the models decode, against what the card could do.
    func speedSection(_ report: Report) -> [Markup] {
        guard !report.benches.isEmpty else { return [] }
        let blocks = report.benches.map { result -> Markup in
            let groups = BenchGroup.all(of: result)
            let verdicts = groups.compactMap { group in
                group.verdict.map { "<p class=\"verdict\">\(isolated($0))</p>\n" as Markup }
            }
            return """
                <h3>\(isolated(result.place))</h3>
                <p class="note">\(isolated(result.ceilings))</p>
                \(verdicts)\(groups.map { bars(result, $0) })\(decodingTable(groups))\
                \(speculationTable(result, groups))\(promptTable(groups))\(result.runs.map { kernelTable(result, $0) })
                """
        }
        let note: Markup = """
            <p class="note">Roofline: what a step must read at least — stored weights without the \
            embedding, keys and values — at the read bandwidth that the fastest reader reached on the \
            card in the same run. Spread: the farthest repetition from the \
            median.</p>

            """
        return [section("speed", "Speed", "\(blocks)\(note)")]
    }

    /// A bar per run within the outline of its roofline.
    private func bars(_ result: BenchResult, _ group: BenchGroup) -> Markup {
        let rooflines = group.rows.map { row in
            row.figures.rooflineTokensPerSecond.map { $0 * Double(Swift.max(group.requests, 0)) }
        }
        let speeds = group.rows.map(\.figures.totalTokensPerSecond)
        let largest = (rooflines + speeds).compactMap { $0 }.filter(\.isFinite).max() ?? 0
        guard largest > 0 else { return "" }
        func width(_ value: Double?) -> String {
            Figure.coordinate(100 * (Figure.quotient(value, largest) ?? 0))
        }
        let rows = zip(group.rows.indices, group.rows).map { index, row -> Markup in
            """
            <tr class="first"><th scope="row">\(isolated(row.name))</th>\
            <td class="wide"><svg class="\(style(row, in: result))" width="100%" height="14" \
            aria-hidden="true"><rect class="outline" x="0.5" y="1.5" width="\(width(rooflines[index]))%" \
            height="11" rx="1"/><rect y="2" width="\(width(speeds[index]))%" height="10" rx="1"/>\
            </svg></td><td>\(Figure.significant(speeds[index], 4))</td>\
            <td>\(Figure.significant(rooflines[index], 4))</td>\
            <td class="note">\(Figure.share(row.figures.rooflineShare))</td></tr>

            """
        }
        let columns: [Markup] = [
            "<th scope=\"col\"><span class=\"hidden\">Run</span></th>",
            "<th scope=\"col\" class=\"wide\"><span class=\"hidden\">Bar</span></th>",
            "<th scope=\"col\">Tokens/s</th>", "<th scope=\"col\">Roofline</th>",
            "<th scope=\"col\">Reached</th>",
        ]
        return table(
            caption: "\(isolated(group.heading)): tokens/s of all requests, outlined the roofline",
            label: "Tokens per second", columns: columns, rows: rows, style: "bars")
    }

    /// Grey for what others are compared with, else a colour per label in all groups.
    private func style(_ row: BenchGroup.Row, in result: BenchResult) -> String {
        if row.isReference { return "s0" }
        let first = result.runs.firstIndex {
            $0.label == row.run.label && $0.engine == row.run.engine
        }
        return "s\((first ?? 0) % 6 + 1)"
    }

    private func decodingTable(_ groups: [BenchGroup]) -> Markup {
        let columns: [Markup] = [
            "<th scope=\"col\">Run</th>", "<th scope=\"col\">Context</th>",
            "<th scope=\"col\">Requests</th>", "<th scope=\"col\">Weights</th>",
            "<th scope=\"col\">Read per step</th>", "<th scope=\"col\">of it cache</th>",
            "<th scope=\"col\">ms per token</th>",
            "<th scope=\"col\">Spread</th>", "<th scope=\"col\">Tokens/s each</th>",
            "<th scope=\"col\">In total</th>",
            "<th scope=\"col\"><abbr title=\"relative to the run drawn in grey\">×</abbr></th>",
            "<th scope=\"col\">Of roofline</th>",
        ]
        let rows = groups.flatMap { group in
            group.rows.map { row -> Markup in
                let (run, figures) = (row.run, row.figures)
                return """
                    <tr><th scope="row">\(isolated(row.name))</th>\
                    <td>\(Figure.count(run.context))</td><td>\(Figure.count(run.requests))</td>\
                    <td>\(Figure.bytes(run.weightBytes))</td>\
                    <td>\(Figure.bytes(Figure.integer(run.traffic.total)))</td>\
                    <td>\(Figure.bytes(run.traffic.cache))</td>\
                    <td>\(Figure.milliseconds(run.step.median))</td>\
                    <td>\(Figure.spread(run.step))</td>\
                    <td>\(Figure.significant(figures.tokensPerSecond, 4))</td>\
                    <td>\(Figure.significant(figures.totalTokensPerSecond, 4))</td>\
                    <td>\(row.isReference ? "" : Figure.ratio(row.ratio))</td>\
                    <td>\(Figure.share(figures.rooflineShare))</td></tr>

                    """
            }
        }
        guard !rows.isEmpty else { return "<p class=\"note\">Nothing was timed.</p>\n" }
        return table(
            caption: "Decoding; × is relative to the grey run of as many requests",
            label: "Decoding", columns: columns, rows: rows, style: "figures")
    }

    /// Parts of steps that verify proposals, against the bytes that they must move.
    private func speculationTable(_ result: BenchResult, _ groups: [BenchGroup]) -> Markup {
        let columns: [Markup] = [
            "<th scope=\"col\">Run</th>", "<th scope=\"col\">Requests</th>",
            "<th scope=\"col\">Proposed</th>", "<th scope=\"col\">Steps</th>",
            "<th scope=\"col\">Tokens per step</th>",
            "<th scope=\"col\">Acceptance</th>", "<th scope=\"col\">×</th>",
            "<th scope=\"col\">Round, µs</th>", "<th scope=\"col\">Of card</th>",
            "<th scope=\"col\">Verification, µs</th>", "<th scope=\"col\">Of card</th>",
            "<th scope=\"col\">Added memory</th>",
        ]
        let rows = groups.flatMap { group in
            group.rows.compactMap { row -> Markup? in
                guard let own = row.run.speculation else { return nil }
                return """
                    <tr><th scope="row">\(isolated(row.name))</th>\
                    <td>\(Figure.count(row.run.requests))</td>\
                    <td>\(own.shares == nil ? "" : "up to ")\(Figure.count(own.draftTokens))</td>\
                    <td>\(isolated(chosen(own.shares)))</td>\
                    <td>\(Figure.significant(own.acceptanceLength, 3))</td>\
                    <td>\(own.simulatedLength == nil ? "measured" : "simulated")</td>\
                    <td>\(Figure.ratio(row.ratio))</td>\
                    <td>\(Figure.microseconds(own.round.seconds))</td>\
                    <td>\(Figure.share(result.share(own.round)))</td>\
                    <td>\(Figure.microseconds(own.verification.seconds))</td>\
                    <td>\(Figure.share(result.share(own.verification)))</td>\
                    <td>\(Figure.gibibytes(own.addedBytes))</td></tr>

                    """
            }
        }
        guard !rows.isEmpty else { return "" }
        return table(
            caption: """
                Speculation: tokens that a step makes for each request; × is relative to the grey run. \
                Simulated: proposals counted as right by chance, as often as gives the tokens per step \
                that were prescribed. Where the number of proposals is chosen before each step, round and \
                verification are means over steps
                """,
            label: "Speculation", columns: columns, rows: rows, style: "figures")
    }

    /// `0 in 4.0 %, 3 in 96.0 %`: what steps proposed where that was chosen.
    private func chosen(_ shares: [Int: Double]?) -> String {
        (shares ?? [:]).sorted { $0.key < $1.key }
            .map { "\(Figure.count($0.key)) in \(Figure.share($0.value))" }
            .joined(separator: ", ")
    }

    private func promptTable(_ groups: [BenchGroup]) -> Markup {
        let columns: [Markup] = [
            "<th scope=\"col\">Run</th>", "<th scope=\"col\">Prompt tokens</th>",
            "<th scope=\"col\">Read in</th>", "<th scope=\"col\">TFLOP/s</th>",
            "<th scope=\"col\">Of card</th>", "<th scope=\"col\">First token</th>",
            "<th scope=\"col\">Peak memory</th>", "<th scope=\"col\">Predicted</th>",
            "<th scope=\"col\">Peak of predicted</th>",
        ]
        let rows = groups.flatMap { group in
            group.rows.filter { row in
                row.run.prefill != nil || row.run.firstToken != nil || row.run.peakBytes != nil
            }.map { row -> Markup in
                let rate = row.figures.prefillFlopsPerSecond.map { $0 / 1e12 }
                return """
                    <tr><th scope="row">\(isolated(row.name))</th>\
                    <td>\(Figure.count(row.run.prefill?.tokens))</td>\
                    <td>\(Figure.seconds(row.run.prefill?.seconds.median))</td>\
                    <td>\(Figure.significant(rate, 4))</td>\
                    <td>\(Figure.share(row.figures.prefillShare))</td>\
                    <td>\(Figure.seconds(row.run.firstToken?.median))</td>\
                    <td>\(Figure.gibibytes(row.run.peakBytes))</td>\
                    <td>\(Figure.gibibytes(row.run.predictedMemory?.total))</td>\
                    <td>\(Figure.share(row.figures.peakShare))</td></tr>

                    """
            }
        }
        guard !rows.isEmpty else { return "" }
        return table(
            caption: "Prompts and memory", label: "Prompts and memory", columns: columns,
            rows: rows, style: "figures")
    }

    /// Where a step's time goes.
    private func kernelTable(_ result: BenchResult, _ run: BenchResult.Run) -> Markup {
        guard !run.kernels.isEmpty else { return "" }
        let figures = result.figures(run)
        let columns: [Markup] = [
            "<th scope=\"col\">Kernel</th>", "<th scope=\"col\">Launches</th>",
            "<th scope=\"col\">Bytes</th>", "<th scope=\"col\">µs</th>",
            "<th scope=\"col\">GB/s</th>", "<th scope=\"col\">Of card</th>",
            "<th scope=\"col\">Of step</th>",
        ]
        let rows = run.kernels.map { kernel -> Markup in
            let own = result.figures(kernel, in: run)
            return """
                <tr><th scope="row">\(isolated(kernel.name))</th>\
                <td>\(Figure.count(kernel.launches))</td><td>\(Figure.bytes(kernel.bytes))</td>\
                <td>\(Figure.microseconds(kernel.seconds))</td>\
                <td>\(Figure.significant(own.bytesPerSecond.map { $0 / 1e9 }, 4))</td>\
                <td>\(Figure.share(own.bandwidthShare))</td>\
                <td>\(Figure.share(own.stepShare))</td></tr>

                """
        }
        let cacheType = run.cacheType.rawValue
        return """
            <details>
            <summary>Kernels of a step: \(isolated(run.label)), \(Figure.count(run.context)) tokens, \
            \(Figure.count(run.requests)) at once, \(cacheType) cache</summary>
            \(table(
                caption: "Of all launches in a step, each kernel measured behind others of its kind",
                label: "Kernels", columns: columns, rows: rows, style: "figures"))\
            <dl class="record">
            \(entry("All kernels", microseconds(figures.kernelSeconds)))\
            \(entry("Replay of the graph", microseconds(run.graph?.median)))\
            \(entry("Not in kernels", microseconds(figures.unexplainedSeconds)))\
            \(entry("Outside the graph", microseconds(figures.hostSeconds)))\
            \(entry("Step", microseconds(run.stepSeconds)))</dl>
            </details>

            """
    }

    private func microseconds(_ seconds: Double?) -> String {
        let number = Figure.microseconds(seconds)
        return number == Figure.absent ? number : "\(number) µs"
    }

    /// What it takes to measure again.
    func benchRecords(_ report: Report) -> [Markup] {
        report.benches.map { result in
            let card = result.card
            let peers = result.runs.filter { $0.engine != BenchGroup.own }.map { run in
                entry(
                    "Peer",
                    "\(run.engine), \(list(run.versions)): \(run.command ?? Figure.absent)")
            }
            let plans = result.runs.compactMap { run in
                run.plan.map { entry("Plan", "\(run.label): \($0)") }
            }
            let memory = result.runs.compactMap { run in
                run.predictedMemory.map {
                    entry("Predicted memory", "\(run.label): \(parts($0))")
                }
            }
            let settings = result.runs.filter { !$0.settings.isEmpty }.map { run in
                entry("Settings", "\(run.label): \(list(run.settings))")
            }
            return """
                <h3>Speed: \(isolated(result.place))</h3>
                <dl class="record">
                \(entry("Minima", result.version))\
                \(entry("Model", result.model))\
                \(entry("Command", result.command))\
                \(entry("Card", "\(card.name), \(card.architecture), \(Figure.count(card.multiprocessors)) multiprocessors, \(Figure.gibibytes(card.memoryBytes)), driver \(card.driver)"))\
                \(entry("Read bandwidth", "\(Figure.gigabytes(card.readBandwidth.median)) \(Figure.spread(card.readBandwidth))"))\
                \(readers(card))\
                \(entry("Copy bandwidth", "\(Figure.gigabytes(card.copyBandwidth.median)) \(Figure.spread(card.copyBandwidth))"))\
                \(entry("Matrix product", "\(Figure.teraflops(card.matrixRate.median)) \(Figure.spread(card.matrixRate))"))\
                \(entry("Repetitions", repetitions(result)))\
                \(plans)\(memory)\(settings)\(peers)\
                \(entry("Seed", String(result.seed)))\
                \(entry("Versions", list(result.versions)))</dl>

                """
        }
    }

    /// Everything that read memory, the fastest first.
    private func readers(_ card: BenchResult.Card) -> [Markup] {
        (card.readers ?? [:]).sorted { ($1.value.median, $0.key) < ($0.value.median, $1.key) }.map {
            entry(
                "Read by \($0.key)",
                "\(Figure.gigabytes($0.value.median)) \(Figure.spread($0.value))")
        }
    }

    private func repetitions(_ result: BenchResult) -> String {
        Set(
            result.runs.map { run in
                "\(Figure.count(run.step.repetitions)) of \(Figure.count(run.steps)) steps"
            }
        ).sorted().joined(separator: ", ")
    }

    private func parts(_ memory: DecodeMemory) -> String {
        """
        weights \(Figure.bytes(memory.weights)), keys and values \(Figure.bytes(memory.cache)), \
        activations \(Figure.bytes(memory.activations)), workspace \
        \(Figure.bytes(memory.workspace)), logits \(Figure.bytes(memory.logits))
        """
    }

    private func list(_ values: [String: String]) -> String {
        values.sorted { $0.key < $1.key }.map { "\($0.key) \($0.value)" }.joined(separator: ", ")
    }
}
