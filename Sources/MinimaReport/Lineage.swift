import MinimaCore

/// The models of a report: which were made of which, how large they are and how they are called.
struct Lineage: Sendable {
    /// A model's place in charts.
    struct Series: Sendable {
        /// Its short name.
        var label: String
        /// 0 for a dense model, 1, 2, … for what was made of one.
        var color: Int
    }

    /// Every model that a result names: each dense one followed by what was made of it.
    private(set) var models: [ModelPath] = []
    /// The dense model behind each model that is not dense itself.
    private(set) var dense: [ModelPath: ModelPath] = [:]
    /// Parameters and stored bytes, as far as known.
    var sizes: [ModelPath: Size] = [:]
    /// The model that each compression wrote.
    private(set) var outputs: [ModelPath] = []
    /// The model that each healing started from, and the one it wrote.
    var healed: [(source: ModelPath, output: ModelPath)] = []
    /// Bits stored per weight of the linear layers, as far as known.
    var bitsPerWeight: [ModelPath: Double] = [:]
    /// What each model was made of, one step back.
    var parents: [ModelPath: ModelPath] = [:]
    private var series: [ModelPath: Series] = [:]

    /// How much a model stores.
    struct Size: Sendable, Hashable {
        var parameters: Int
        var bytes: Int
    }

    init(
        inspections: [InspectionResult], evaluations: [EvaluationResult],
        compressions: [(result: CompressionResult, directory: String?)],
        healings: [(result: HealingResult, directory: String?)],
        generations: [GenerationResult], analyses: [Analysis], others: [String]
    ) {
        for result in evaluations {
            let model = ModelPath(result.model)
            if let against = result.against.map(ModelPath.init) {
                add(against)
                if parents[model] == nil, against != model { parents[model] = against }
            }
            add(model)
            sizes[model] = Size(parameters: result.parameters, bytes: result.bytes)
        }
        for result in inspections {
            add(ModelPath(result.model))
            sizes[ModelPath(result.model)] = Size(
                parameters: result.parameters, bytes: result.bytes)
        }
        for result in generations { add(ModelPath(result.model)) }
        for result in analyses {
            let model = ModelPath(result.model)
            add(model)
            bitsPerWeight[model] = 8 * Double(result.dtype.byteCount)
            if sizes[model] == nil {
                sizes[model] = Size(parameters: result.parameters, bytes: result.bytes)
            }
        }
        for model in others { add(ModelPath(model)) }
        let healedModels = Set(healings.compactMap { $0.directory.map(ModelPath.init) })
        for (result, directory) in compressions {
            let parent = ModelPath(result.parent)
            add(parent)
            if sizes[parent] == nil {
                sizes[parent] = Size(
                    parameters: result.totals.parametersBefore, bytes: result.totals.bytesBefore)
            }
            let output =
                output(
                    of: result, in: directory.map(ModelPath.init), inspections,
                    besides: healedModels)
                ?? description(of: result)
            outputs.append(output)
            setBits(parent, result.totals.linearBytesBefore, result)
            setBits(output, result.totals.linearBytesAfter, result)
            guard output != parent else { continue }
            add(output)
            if parents[output] == nil { parents[output] = parent }
            if sizes[output] == nil {
                sizes[output] = Size(
                    parameters: result.totals.parametersAfter, bytes: result.totals.bytesAfter)
            }
        }
        add(healings, compressions.map(\.result))
        resolve()
        name()
    }

    /// Whether other models of the report were made of this one.
    func isDense(_ model: ModelPath) -> Bool {
        dense[model] == nil && dense.values.contains(model)
    }

    /// What a reader should know of a model and its name does not say: that it is dense, or healed.
    func mark(_ model: ModelPath) -> String? {
        if isDense(model) { return "dense" }
        let isHealed = healed.contains { $0.output == model }
        return isHealed && !label(model).contains("healed") ? "healed" : nil
    }

    /// A model's short name.
    func label(_ model: ModelPath) -> String {
        series[model]?.label ?? model.text
    }

    /// A model's name and colour.
    func series(_ model: ModelPath) -> Series {
        series[model] ?? Series(label: model.text, color: 0)
    }

    /// Name and colour of what the compression at `index` wrote.
    func series(ofCompression index: Int) -> Series {
        series(outputs[index])
    }

    /// A title that says which dense model this is about.
    var title: String {
        let names = models.filter(isDense).map(label)
        let kinds = healed.isEmpty ? "dense and compressed" : "dense, compressed and healed"
        return names.isEmpty
            ? "Minima report" : "\(names.joined(separator: ", ")): \(kinds)"
    }

    private mutating func setBits(_ model: ModelPath, _ bytes: Int, _ result: CompressionResult) {
        let quotient = Figure.quotient(bytes, result.totals.linearParametersBefore)
        if let quotient, quotient >= 0 { bitsPerWeight[model] = 8 * quotient }
    }

    mutating func add(_ model: ModelPath) {
        if !models.contains(model) { models.append(model) }
    }

    /// A compression does not say where it wrote: the directory its account was found in does, or
    /// the one model that has its size and, where it was inspected, its formats.
    private func output(
        of result: CompressionResult, in directory: ModelPath?,
        _ inspections: [InspectionResult], besides others: Set<ModelPath>
    ) -> ModelPath? {
        let parent = ModelPath(result.parent)
        let candidates = models.filter {
            $0 != parent && !others.contains($0)
                && sizes[$0]?.parameters == result.totals.parametersAfter
                && (parents[$0] ?? parent) == parent && !outputs.contains($0)
        }.filter { candidate in
            inspections.filter { ModelPath($0.model) == candidate }.allSatisfy { inspection in
                result.formats.allSatisfy { format in
                    inspection.parts.contains { $0.formats[format] != nil }
                }
            }
        }
        if let directory {
            if models.contains(directory) { return directory }
            // The same directory may have been named from elsewhere.
            let namesakes = candidates.filter { $0.suffix(1) == directory.suffix(1) }
            return namesakes.count == 1 ? namesakes.first : directory
        }
        return candidates.count == 1 ? candidates.first : nil
    }

    /// A name for the unnamed: what was done to the parent.
    private func description(of result: CompressionResult) -> ModelPath {
        let parent = ModelPath(result.parent).suffix(1).text
        return unused(
            "\(parent), \(result.formats.joined(separator: " + ")), \(result.plan.target)")
    }

    /// A name that no model has: this one, or this one and a number.
    func unused(_ name: String) -> ModelPath {
        guard models.contains(ModelPath(name)) else { return ModelPath(name) }
        var number = 2
        while models.contains(ModelPath("\(name), \(number)")) { number += 1 }
        return ModelPath("\(name), \(number)")
    }

    /// Follows parents up to the dense models and brings the models into order.
    private mutating func resolve() {
        for model in models {
            var visited: Set = [model]
            var current = model
            while let parent = parents[current], visited.insert(parent).inserted {
                current = parent
            }
            // A circle of parents has no dense model.
            if current != model, parents[current] == nil { dense[model] = current }
        }
        // Each model before what was made of it.
        var next = Array(models.filter { dense[$0] == nil }.reversed())
        var order: [ModelPath] = []
        while let model = next.popLast() {
            order.append(model)
            next += models.filter { dense[$0] != nil && parents[$0] == model }.reversed()
        }
        models = order
    }

    private mutating func name() {
        let labels = ModelPath.labels(models)
        var color = 0
        for model in models {
            if dense[model] != nil { color += 1 }
            series[model] = Series(
                label: labels[model] ?? model.text, color: dense[model] == nil ? 0 : color)
        }
    }
}
