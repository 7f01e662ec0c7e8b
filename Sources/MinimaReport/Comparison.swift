import MinimaCore

/// Models measured on the same text, side by side.
struct Comparison {
    /// How good a model was on the text.
    struct Measurement {
        /// Perplexity per token.
        var perplexity: Double
        /// KL(dense ‖ model) per token, nats.
        var kl: Double?
        /// Predicted tokens.
        var tokens: Int
        /// Where it ran.
        var device: String
        /// The type it computed in.
        var dtype: String
    }

    /// One model, or one of several measurements of it.
    struct Row {
        /// The model.
        var model: ModelPath
        /// Its short name, with device and type where it was measured more than once.
        var label: String
        /// `dense` where others of the report were made of it, `healed`, or nothing to say.
        var mark: String?
        /// Its measurement, where there is one.
        var measurement: Measurement?
        /// Parameters and stored bytes.
        var size: Lineage.Size?
        /// Bits stored per weight of its linear layers.
        var bitsPerWeight: Double?
        /// The size of its dense model.
        var denseSize: Lineage.Size?
        /// The measurement of its dense model.
        var dense: Measurement?
        /// The measurement of the model that was healed to make it.
        var source: Measurement?

        /// Parameters relative to the dense model's.
        var parameterRatio: Double? { Figure.quotient(size?.parameters, denseSize?.parameters) }

        /// Stored bytes relative to the dense model's.
        var byteRatio: Double? { Figure.quotient(size?.bytes, denseSize?.bytes) }

        /// Perplexity relative to the dense model's; perplexities per token compare only over the
        /// same tokens.
        var perplexityRatio: Double? {
            guard let measurement, let dense, measurement.tokens == dense.tokens else {
                return nil
            }
            return Figure.quotient(measurement.perplexity, dense.perplexity)
        }
    }

    /// The text's file names; `nil` when nothing was measured.
    var name: String?
    /// Tokens per window, where it is known.
    var context: Int?
    /// Each dense model followed by what was made of it.
    var rows: [Row]

    /// Predicted tokens, where all measurements agree.
    var tokens: Int? {
        let counts = Set(rows.compactMap { $0.measurement?.tokens })
        return counts.count == 1 ? counts.first : nil
    }

    /// What the texts were and how they were cut, in words.
    var heading: String {
        guard let name else { return "Sizes; nothing was evaluated" }
        let tokens = tokens.map { "\(Figure.count($0)) tokens" } ?? "token counts differ"
        let windows = context.map { ", windows of \(Figure.count($0))" } ?? ""
        return "\(name): \(tokens)\(windows)"
    }

    /// One comparison per set of texts and window length, in the order of the evaluations, then one
    /// per dense model on what its healings held out; one of sizes alone when nothing was measured.
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
        let heldOut = heldOut(report)
        if keys.isEmpty, heldOut.isEmpty {
            let sized = report.lineage.models.filter { report.lineage.sizes[$0] != nil }
            guard !sized.isEmpty else { return [] }
            return [Comparison(name: nil, context: nil, models: sized, [], report.lineage)]
        }
        return keys.map { key in
            let evaluations = groups[key] ?? []
            let name = key.text.map { ModelPath($0.text).suffix(1).text }.joined(separator: ", ")
            return Comparison(
                name: name, context: key.context,
                models: shown(Set(evaluations.map { ModelPath($0.model) }), report.lineage),
                evaluations.map(Measured.init), report.lineage)
        } + heldOut
    }

    /// The models that were measured and those that they were made of, as far as dense.
    private static func shown(_ measured: Set<ModelPath>, _ lineage: Lineage) -> [ModelPath] {
        lineage.models.filter { model in
            measured.contains(model) || measured.contains { lineage.dense[$0] == model }
        }
    }

    /// A measurement and the model that it is of.
    private struct Measured {
        var model: ModelPath
        var measurement: Measurement
        var size: Lineage.Size?

        init(_ result: EvaluationResult) {
            model = ModelPath(result.model)
            measurement = Measurement(
                perplexity: result.perplexity, kl: result.kl, tokens: result.tokens,
                device: result.device, dtype: result.dtype)
            size = Lineage.Size(parameters: result.parameters, bytes: result.bytes)
        }

        /// Whether the same was found of the same model in the same way, in the digits that are
        /// shown: sums of several processes differ in the last.
        func isSame(_ other: Measured) -> Bool {
            let (left, right) = (measurement, other.measurement)
            return model == other.model && left.device == right.device && left.dtype == right.dtype
                && Figure.significant(left.perplexity, 5) == Figure.significant(right.perplexity, 5)
                && Figure.significant(left.kl, 4) == Figure.significant(right.kl, 4)
        }

        init(_ model: ModelPath, perplexity: Double, kl: Double?, _ result: HealingResult) {
            self.model = model
            measurement = Measurement(
                perplexity: perplexity, kl: kl, tokens: result.heldOutTokens,
                device: result.device, dtype: result.dtype)
        }
    }

    /// The dense model, and each healed one before and after, by dense model and number of held-out
    /// tokens.
    private static func heldOut(_ report: Report) -> [Comparison] {
        struct Key: Hashable {
            var dense: ModelPath
            var tokens: Int
        }
        var keys: [Key] = []
        var groups: [Key: [Measured]] = [:]
        for (result, models) in zip(report.healings, report.lineage.healed) {
            let key = Key(
                dense: report.lineage.dense[models.output] ?? ModelPath(result.teacher),
                tokens: result.heldOutTokens)
            if groups[key] == nil { keys.append(key) }
            let (before, after) = (result.before, result.after)
            for measured in [
                Measured(key.dense, perplexity: result.teacherPerplexity, kl: nil, result),
                Measured(models.source, perplexity: before.perplexity, kl: before.kl, result),
                Measured(models.output, perplexity: after.perplexity, kl: after.kl, result),
            ] {
                // Several healings of one model measured it each.
                let isKnown = groups[key, default: []].contains { $0.isSame(measured) }
                if !isKnown { groups[key, default: []].append(measured) }
            }
        }
        return keys.map { key in
            let measured = groups[key] ?? []
            return Comparison(
                name: "held-out text of healing", context: nil,
                models: shown(Set(measured.map(\.model)), report.lineage), measured,
                report.lineage)
        }
    }

    private init(
        name: String?, context: Int?, models: [ModelPath], _ measured: [Measured],
        _ lineage: Lineage
    ) {
        self.name = name
        self.context = context
        let byModel = Dictionary(grouping: measured, by: \.model)
        rows = models.flatMap { model -> [Row] in
            let dense = lineage.dense[model]
            var row = Row(
                model: model, label: lineage.label(model), mark: lineage.mark(model),
                size: lineage.sizes[model], bitsPerWeight: lineage.bitsPerWeight[model],
                denseSize: dense.flatMap { lineage.sizes[$0] })
            guard let measurements = byModel[model] else { return [row] }
            return measurements.map { measured in
                let measurement = measured.measurement
                row.measurement = measurement
                if let size = measured.size { row.size = size }
                if measurements.count > 1 {
                    row.label =
                        "\(lineage.label(model)), \(measurement.device) \(measurement.dtype)"
                }
                /// What was measured of another model, on the same device where it was.
                func reference(_ model: ModelPath?) -> Measurement? {
                    let others = model.flatMap { byModel[$0] }?.map(\.measurement) ?? []
                    return others.first {
                        $0.device == measurement.device && $0.dtype == measurement.dtype
                    } ?? others.first
                }
                row.dense = reference(dense)
                row.source = reference(lineage.healed.last { $0.output == model }?.source)
                return row
            }
        }
    }
}
