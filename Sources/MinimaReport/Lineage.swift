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
    private(set) var sizes: [ModelPath: Size] = [:]
    /// The model that each compression wrote.
    private(set) var outputs: [ModelPath] = []
    /// Bits stored per weight of the linear layers, as far as known.
    private(set) var bitsPerWeight: [ModelPath: Double] = [:]
    private var series: [ModelPath: Series] = [:]

    /// How much a model stores.
    struct Size: Sendable, Hashable {
        var parameters: Int
        var bytes: Int
    }

    init(
        inspections: [InspectionResult], evaluations: [EvaluationResult],
        compressions: [(result: CompressionResult, directory: String?)],
        generations: [GenerationResult], analyses: [Analysis], others: [String]
    ) {
        var parents: [ModelPath: ModelPath] = [:]
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
        for (result, directory) in compressions {
            let parent = ModelPath(result.parent)
            add(parent)
            if sizes[parent] == nil {
                sizes[parent] = Size(
                    parameters: result.totals.parametersBefore, bytes: result.totals.bytesBefore)
            }
            let output =
                output(of: result, in: directory.map(ModelPath.init), parents, inspections)
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
        resolve(parents)
        name()
    }

    /// Whether other models of the report were made of this one.
    func isDense(_ model: ModelPath) -> Bool {
        dense[model] == nil && dense.values.contains(model)
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
        return names.isEmpty
            ? "Minima report" : "\(names.joined(separator: ", ")): dense and compressed"
    }

    private mutating func setBits(_ model: ModelPath, _ bytes: Int, _ result: CompressionResult) {
        let quotient = Figure.quotient(bytes, result.totals.linearParametersBefore)
        if let quotient, quotient >= 0 { bitsPerWeight[model] = 8 * quotient }
    }

    private mutating func add(_ model: ModelPath) {
        if !models.contains(model) { models.append(model) }
    }

    /// A compression does not say where it wrote: the directory its account was found in does, or
    /// the one model that has its size and, where it was inspected, its formats.
    private func output(
        of result: CompressionResult, in directory: ModelPath?, _ parents: [ModelPath: ModelPath],
        _ inspections: [InspectionResult]
    ) -> ModelPath? {
        let parent = ModelPath(result.parent)
        let candidates = models.filter {
            $0 != parent && sizes[$0]?.parameters == result.totals.parametersAfter
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
        let name = "\(parent), \(result.formats.joined(separator: " + ")), \(result.plan.target)"
        let isTaken = models.contains(ModelPath(name))
        return ModelPath(isTaken ? "\(name), \(outputs.count + 1)" : name)
    }

    /// Follows parents up to the dense models and brings the models into order.
    private mutating func resolve(_ parents: [ModelPath: ModelPath]) {
        for model in models {
            var visited: Set = [model]
            var current = model
            while let parent = parents[current], visited.insert(parent).inserted {
                current = parent
            }
            // A circle of parents has no dense model.
            if current != model, parents[current] == nil { dense[model] = current }
        }
        let roots = models.filter { dense[$0] == nil }
        models = roots.flatMap { root in [root] + models.filter { dense[$0] == root } }
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
