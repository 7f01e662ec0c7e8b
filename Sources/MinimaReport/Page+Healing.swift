import MinimaCore

extension Page {
    /// What healing recovered, how it went and what was trained.
    func healingSection(_ report: Report) -> [Markup] {
        guard !report.healings.isEmpty else { return [] }
        let healings = zip(report.healings, report.lineage.healed).map { result, models in
            Healing(
                result: result, models: models, series: report.lineage.series(models.output),
                dense: report.lineage.dense[models.output] ?? ModelPath(result.teacher),
                stages: HealingStage.all(of: result))
        }
        let verdicts = healings.map { healing -> Markup in
            """
            <p class="verdict">\(isolated(healing.series.label)): \
            \(isolated(verdict(healing.result)))</p>

            """
        }
        let courses = healings.map(course)
        let content: Markup = """
            \(verdicts)\(contests(healings, report))\(courses)\(trainingTable(healings))\
            <p class="note">Held-out KL: mean KL(dense ‖ model) per token in nats, on text that was \
            not trained on. Tokens: what each layer saw; of phases that train the layers block by \
            block, the mean of all layers, so that one token costs about the same everywhere. The \
            best held-out state of every phase is kept.</p>

            """
        return [section("healing", "Healing", content)]
    }

    /// A healing with its place in the report.
    struct Healing {
        var result: HealingResult
        var models: (source: ModelPath, output: ModelPath)
        var series: Lineage.Series
        var dense: ModelPath
        var stages: [HealingStage]
    }

    /// What was gained on held-out text, with how many tokens and in what time.
    private func verdict(_ result: HealingResult) -> String {
        let (before, after) = (result.before, result.after)
        return """
            KL \(Figure.significant(before.kl, 4)) → \(Figure.significant(after.kl, 4)) \
            (\(Figure.change(Figure.quotient(after.kl, before.kl)))), perplexity \
            \(Figure.significant(before.perplexity, 5)) → \
            \(Figure.significant(after.perplexity, 5)) \
            (\(Figure.change(Figure.quotient(after.perplexity, before.perplexity)))) on \
            \(Figure.count(result.heldOutTokens)) held-out tokens, after \
            \(Figure.short(Figure.integer(result.healingTokens))) training tokens in \
            \(Figure.seconds(result.seconds)).
            """
    }

    // MARK: Several healings of one model

    private func contests(_ healings: [Healing], _ report: Report) -> Markup {
        var models: [ModelPath] = []
        for healing in healings where !models.contains(healing.dense) {
            models.append(healing.dense)
        }
        return models.reduce(into: "") { markup, dense in
            let rivals = healings.filter { $0.dense == dense }
            guard rivals.count > 1 else { return }
            let charts =
                [
                    chart(rivals, "Held-out KL", "nats per token") {
                        $0.curve(\.kl, \.heldOut)
                    },
                    chart(
                        rivals, "Held-out perplexity", "per token",
                        dense: rivals.last?.result.teacherPerplexity
                    ) { $0.curve(\.perplexity, \.perplexity) },
                ] + evaluatedCharts(rivals, report)
            markup += """
                <h3>\(isolated(report.lineage.label(dense))), healed in several ways</h3>
                <ul class="legend">\(rivals.map { "<li>\(named($0.series))</li>" as Markup })</ul>
                <div class="panels wide">
                \(charts.map(figure))</div>

                """
        }
    }

    /// A line per healing, and the dense model's value.
    private func chart(
        _ rivals: [Healing], _ title: String, _ values: String, dense: Double? = nil,
        curve: (HealingResult) -> [(tokens: Double, value: Double)]
    ) -> LineChart {
        LineChart(
            title: title, horizontal: .tokens, values: values,
            lines: rivals.map { line($0, curve($0.result)) },
            reference: dense.map { ($0, "dense") })
    }

    /// A chart per text on which two or more of the healed models were evaluated, each before and
    /// after.
    private func evaluatedCharts(_ rivals: [Healing], _ report: Report) -> [LineChart] {
        Comparison.all(of: report).filter { $0.context != nil }.compactMap { comparison in
            guard let name = comparison.name else { return nil }
            let rows = rivals.map { rival in
                comparison.rows.last { $0.model == rival.models.output && $0.measurement != nil }
            }
            guard rows.count(where: { $0 != nil }) > 1 else { return nil }
            return LineChart(
                title: "Perplexity on \(name)", horizontal: .tokens, values: "before and after",
                lines: zip(rivals, rows).map { rival, row in
                    let ends = [
                        (0, row?.source?.perplexity),
                        (rival.result.healingTokens, row?.measurement?.perplexity),
                    ]
                    return line(rival, ends.compactMap { x, y in y.map { (x, $0) } })
                }, reference: rows.compactMap { $0?.dense?.perplexity }.last.map { ($0, "dense") })
        }
    }

    private func line(_ healing: Healing, _ points: [(Double, Double)]) -> LineChart.Line {
        LineChart.Line(
            label: healing.series.label, colorClass: colorClass(healing.series),
            points: points.map { tokens, value in
                (
                    tokens, value,
                    "\(healing.series.label), \(Figure.brief(tokens)) tokens: "
                        + Figure.significant(value, 4)
                )
            })
    }

    // MARK: One healing

    /// How one healing went: held-out KL, held-out perplexity and training loss against tokens, blocks
    /// before and after.
    private func course(_ healing: Healing) -> Markup {
        let wholes = healing.stages.filter { $0.blocks.isEmpty }
        let styles =
            wholes.count == 1
            ? [colorClass(healing.series)] : wholes.indices.map { "s\($0 % 6 + 1)" }
        let phases = Array(zip(wholes, styles))
        let kl = curves("Held-out KL", "nats per token", phases, \.heldOut)
        var perplexity = curves("Held-out perplexity", "per token", phases, \.perplexity)
        perplexity.reference = (healing.result.teacherPerplexity, "dense")
        let loss = curves("Training loss", "mean since the point before", phases, \.loss)
        let blocks = healing.stages.filter { !$0.blocks.isEmpty }.map(blockChart)
        let figures = ([kl, perplexity, loss] + blocks).map(figure)
        guard figures.contains(where: { !$0.html.isEmpty }) else { return "" }
        return """
            <h3>How it went: \(named(healing.series))</h3>
            \(legend(kl.lines.count > 1 ? kl.lines : []))<div class="panels wide">
            \(figures)</div>

            """
    }

    /// A line per phase of the whole model.
    private func curves(
        _ title: String, _ values: String, _ stages: [(HealingStage, String)],
        _ value: KeyPath<HealingResult.Point, Double?>
    ) -> LineChart {
        LineChart(
            title: title, horizontal: .tokens, values: values,
            lines: stages.map { stage, style in
                let points = stage.phases.flatMap(\.points).compactMap { point in
                    point[keyPath: value].map { (point, $0) }
                }
                return LineChart.Line(
                    label: stage.name, colorClass: style,
                    points: points.map { point, value in
                        (
                            stage.start + Double(Swift.max(point.tokens, 0)), value,
                            "\(stage.name), step \(Figure.count(point.step)), "
                                + "\(Figure.short(point.tokens)) tokens: "
                                + Figure.significant(value, 4)
                        )
                    })
            })
    }

    /// Errors of the blocks before and after, at their middle layers.
    private func blockChart(_ stage: HealingStage) -> LineChart {
        let sides: [(String, String, KeyPath<HealingStage.Block, Double?>)] = [
            ("before", "s0", \.before), ("after", "s1", \.after),
        ]
        return LineChart(
            title: "Output error, \(stage.name): grey before, blue after", horizontal: .layers,
            values: "relative, on held-out text",
            lines: sides.map { label, style, side in
                LineChart.Line(
                    label: label, colorClass: style,
                    points: zip(stage.phases, stage.blocks).compactMap { phase, block in
                        block[keyPath: side].map { error in
                            (
                                Double(block.layers.lowerBound + block.layers.upperBound) / 2,
                                error, "\(phase.name) \(label): \(Figure.significant(error, 4))"
                            )
                        }
                    })
            })
    }

    // MARK: What was trained

    private func trainingTable(_ healings: [Healing]) -> Markup {
        let columns: [Markup] = [
            "<th scope=\"col\">Model</th>", "<th scope=\"col\" class=\"words\">Phase</th>",
            "<th scope=\"col\">Numbers trained</th>", "<th scope=\"col\">Steps</th>",
            "<th scope=\"col\">Tokens</th>", "<th scope=\"col\">Time</th>",
            "<th scope=\"col\">Tokens/s</th>", "<th scope=\"col\">Peak on device</th>",
            "<th scope=\"col\">Steps back</th>", "<th scope=\"col\" class=\"words\">Ended by</th>",
        ]
        let rows = healings.flatMap { healing in
            healing.stages.enumerated().map { index, stage -> Markup in
                let name: Markup =
                    index == 0
                    ? """
                    <th scope="row" rowspan="\(healing.stages.count)">\(named(healing.series))</th>
                    """ : ""
                return """
                    <tr>\(name)<td class="words">\(isolated(stage.name))</td>\
                    <td>\(Figure.short(Figure.integer(stage.parameters)))</td>\
                    <td>\(Figure.count(Figure.integer(stage.steps)))</td>\
                    <td>\(Figure.short(Figure.integer(stage.tokens)))</td>\
                    <td>\(Figure.seconds(stage.seconds))</td>\
                    <td>\(Figure.significant(stage.tokensPerSecond, 4))</td>\
                    <td>\(Figure.bytes(stage.peakDeviceBytes))</td>\
                    <td>\(Figure.count(Figure.integer(stage.stepBacks)))</td>\
                    <td class="words">\(isolated(stage.endings))</td></tr>

                    """
            }
        }
        let caption: Markup = """
            Time: wall-clock, measurements included. Tokens/s: training alone; of blocks, of one \
            block at a time
            """
        return """
            <h3>What was trained</h3>
            \(rows.isEmpty ? "<p class=\"note\">Nothing.</p>\n" : table(caption: caption, label: "What was trained", columns: columns, rows: rows, style: "figures"))
            """
    }

    /// What it takes to heal again.
    func healingRecords(_ report: Report) -> [Markup] {
        zip(report.healings, report.lineage.healed).map { result, models in
            let texts = result.texts.map { text in
                "\(text.name) (\(Figure.count(text.documents)) documents, "
                    + "\(Figure.count(text.tokens)) tokens)"
            }
            let settings = result.settings.sorted { $0.key < $1.key }.map {
                "\($0.key) \($0.value)"
            }
            let processes =
                result.processes > 1 ? ", \(Figure.count(result.processes)) processes" : ""
            return """
                <h3>Healing: \(named(report.lineage.series(models.output)))</h3>
                <dl class="record">
                \(entry("Minima", result.version))\
                \(entry("Model", result.model))\
                \(entry("Teacher", result.teacher))\
                \(entry("Texts", texts.joined(separator: ", ")))\
                \(entry("Held out", "\(Figure.count(result.heldOutTokens)) tokens"))\
                \(entry("Settings", settings.joined(separator: ", ")))\
                \(entry("Ran on", "\(result.device), \(result.dtype), libtorch \(result.torch)\(processes)"))\
                \(entry("Time", Figure.seconds(result.seconds)))\
                \(hashes("Model’s SHA-256", result.modelHashes))\
                \(hashes("Teacher’s SHA-256", result.teacherHashes))</dl>

                """
        }
    }
}
