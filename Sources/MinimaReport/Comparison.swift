import MinimaCore

/// Models measured on the same text, side by side.
struct Comparison {
    /// One model, or one of several measurements of it.
    struct Row {
        /// The model.
        var model: ModelPath
        /// Its short name, with device and type where it was measured more than once.
        var label: String
        /// Whether others of the report were made of it.
        var isDense: Bool
        /// Its measurement, where there is one.
        var evaluation: EvaluationResult?
        /// Parameters and stored bytes.
        var size: Lineage.Size?
        /// Bits stored per weight of its linear layers.
        var bitsPerWeight: Double?
        /// The size of its dense model.
        var denseSize: Lineage.Size?
        /// The measurement of its dense model.
        var dense: EvaluationResult?

        /// Parameters relative to the dense model's.
        var parameterRatio: Double? { Figure.quotient(size?.parameters, denseSize?.parameters) }

        /// Stored bytes relative to the dense model's.
        var byteRatio: Double? { Figure.quotient(size?.bytes, denseSize?.bytes) }

        /// Perplexity relative to the dense model's; perplexities per token compare only over the
        /// same tokens.
        var perplexityRatio: Double? {
            guard let evaluation, let dense, evaluation.tokens == dense.tokens else { return nil }
            return Figure.quotient(evaluation.perplexity, dense.perplexity)
        }
    }

    /// Text files; empty when nothing was evaluated.
    var text: [String]
    /// Tokens per window.
    var context: Int?
    /// Each dense model followed by what was made of it.
    var rows: [Row]

    /// Predicted tokens, where all measurements agree.
    var tokens: Int? {
        let counts = Set(rows.compactMap { $0.evaluation?.tokens })
        return counts.count == 1 ? counts.first : nil
    }

    /// The text's file names.
    var name: String {
        text.map { ModelPath($0).suffix(1).text }.joined(separator: ", ")
    }

    /// What the texts were and how they were cut, in words.
    var heading: String {
        guard let context else { return "Sizes; nothing was evaluated" }
        let tokens = tokens.map { "\(Figure.count($0)) tokens" } ?? "token counts differ"
        return "\(name): \(tokens), windows of \(Figure.count(context))"
    }

    /// One comparison per set of texts and window length, in the order of the evaluations; one of
    /// sizes alone when there are no evaluations.
    static func all(of report: Report) -> [Comparison] {
        struct Key: Hashable {
            var text: [JSON.Name]
            var context: Int
        }
        var keys: [Key] = []
        var groups: [Key: [EvaluationResult]] = [:]
        for evaluation in report.evaluations {
            let key = Key(
                text: evaluation.text.map { JSON.Name($0) }, context: evaluation.context)
            if groups[key] == nil { keys.append(key) }
            groups[key, default: []].append(evaluation)
        }
        if keys.isEmpty {
            let sized = report.lineage.models.filter { report.lineage.sizes[$0] != nil }
            guard !sized.isEmpty else { return [] }
            return [Comparison(text: [], context: nil, models: sized, [], report.lineage)]
        }
        return keys.map { key in
            let evaluations = groups[key] ?? []
            let measured = Set(evaluations.map { ModelPath($0.model) })
            let shown = report.lineage.models.filter { model in
                measured.contains(model)
                    || measured.contains { report.lineage.dense[$0] == model }
            }
            return Comparison(
                text: key.text.map(\.text), context: key.context, models: shown, evaluations,
                report.lineage)
        }
    }

    private init(
        text: [String], context: Int?, models: [ModelPath], _ evaluations: [EvaluationResult],
        _ lineage: Lineage
    ) {
        self.text = text
        self.context = context
        let byModel = Dictionary(grouping: evaluations) { ModelPath($0.model) }
        rows = models.flatMap { model -> [Row] in
            let dense = lineage.dense[model]
            var row = Row(
                model: model, label: lineage.label(model), isDense: lineage.isDense(model),
                size: lineage.sizes[model], bitsPerWeight: lineage.bitsPerWeight[model],
                denseSize: dense.flatMap { lineage.sizes[$0] })
            guard let measurements = byModel[model] else { return [row] }
            return measurements.map { evaluation in
                row.evaluation = evaluation
                row.size = Lineage.Size(
                    parameters: evaluation.parameters, bytes: evaluation.bytes)
                if measurements.count > 1 {
                    row.label =
                        "\(lineage.label(model)), \(evaluation.device) \(evaluation.dtype)"
                }
                let references = dense.flatMap { byModel[$0] } ?? []
                row.dense =
                    references.first {
                        $0.device == evaluation.device && $0.dtype == evaluation.dtype
                    } ?? references.first
                return row
            }
        }
    }
}
