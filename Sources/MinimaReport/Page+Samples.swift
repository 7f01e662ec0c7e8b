import MinimaCore

extension Page {
    /// What the models wrote, those with the same prompt, temperature and seed side by side.
    func sampleSection(_ report: Report) -> [Markup] {
        struct Key: Hashable {
            var prompt: JSON.Name
            var temperature: Double
            var seed: UInt64
        }
        var keys: [Key] = []
        var groups: [Key: [GenerationResult]] = [:]
        let order = report.lineage.models.enumerated()
        let positions = Dictionary(uniqueKeysWithValues: order.map { ($1, $0) })
        for generation in report.generations {
            let key = Key(
                prompt: JSON.Name(generation.prompt), temperature: generation.temperature,
                seed: generation.seed)
            if groups[key] == nil { keys.append(key) }
            groups[key, default: []].append(generation)
        }
        guard !keys.isEmpty else { return [] }
        let blocks = keys.map { key -> Markup in
            // Stable: several texts of one model keep their order.
            let texts = (groups[key] ?? []).enumerated().sorted { left, right in
                let places = (
                    positions[ModelPath(left.element.model)] ?? 0,
                    positions[ModelPath(right.element.model)] ?? 0
                )
                return places.0 != places.1
                    ? places.0 < places.1 : left.offset < right.offset
            }
            let temperature = key.temperature.isFinite ? "\(key.temperature)" : Figure.absent
            let sampling =
                key.temperature == 0
                ? "the likeliest token each time"
                : "temperature \(temperature), seed \(key.seed)"
            return """
                <h3 class="note">Prompt, continued with \(sampling)</h3>
                <blockquote class="text" dir="auto">\(key.prompt.text)</blockquote>
                <div class="columns">
                \(texts.map { sample($0.element, report.lineage) })</div>

                """
        }
        return [section("samples", "Sample texts", "\(blocks)")]
    }

    private func sample(_ result: GenerationResult, _ lineage: Lineage) -> Markup {
        let model = ModelPath(result.model)
        let text: Markup =
            result.text.isEmpty
            ? "<p class=\"note\">It wrote nothing.</p>"
            : "<p class=\"text\" dir=\"auto\">\(result.text)</p>"
        let speed =
            result.tokensPerSecond > 0
            ? ", \(Figure.significant(result.tokensPerSecond, 3)) tokens/s" : ""
        let end =
            switch result.finishReason {
            case "stop": "ended with an end token"
            case "length": "cut at the length asked for"
            default: "ended by \(result.finishReason)"
            }
        return """
            <article class="card \(colorClass(lineage.series(model)))">
            <h4>\(isolated(lineage.label(model)))</h4>
            \(text)
            <p class="note">\(Figure.count(result.tokens)) tokens\(speed); \
            \(isolated(end))</p>
            </article>

            """
    }
}
