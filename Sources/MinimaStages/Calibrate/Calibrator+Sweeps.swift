import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

extension Calibrator {
    /// Collects statistics and hands over each layer's, with the layer itself, while they exist.
    ///
    /// Tensors are on the settings' device. Layers come last to first with gradients, first to last
    /// without.
    ///
    /// - Parameters:
    ///   - isNeeded: Whether a layer is visited; what only that visit needs is not computed.
    ///   - progress: Called at least once for each batch at each layer; throws to stop. What was
    ///     finished stays in the directory.
    ///   - visit: Gets a layer's statistics and a model of which that layer is loaded.
    /// - Throws: `StageError.notEnoughMemory` before anything is computed,
    ///   `StageError.notFinite` naming a site, `ModelError` for windows that the model does not
    ///   take, and what `progress` and `visit` throw.
    public func run(
        isNeeded: (Int) -> Bool = { _ in true }, progress: ProgressHandler = { _ in },
        visit: (LayerStatistics, any LanguageModel) throws -> Void
    ) throws {
        if let directory {
            guard mkdir(directory, 0o777) == 0 || errno == EEXIST else {
                throw CheckpointError.system(
                    SystemError(operation: "create", path: directory, code: errno))
            }
        }
        try memory.check(directory: directory)
        let needed = (0..<layers).filter(isNeeded)
        try withoutActuallyEscaping(progress) { progress in
            let sweep = Sweep(self, progress: progress)
            try settings.gradientWindows > 0
                ? sweep.backward(needed, visit) : sweep.forward(needed, visit)
        }
        removeTemporaryFiles()
    }

    /// Activations and gradients, which nobody needs once every layer is done.
    private func removeTemporaryFiles() {
        guard let directory else { return }
        for boundary in 0...layers {
            unlink("\(directory)/\(StatisticsStore.name("inputs", boundary))")
        }
        unlink("\(directory)/gradients.safetensors")
    }
}

/// One run of a calibrator.
private final class Sweep {
    private let calibrator: Calibrator
    private let report: ProgressHandler
    private var stage = StageProgress(stage: "forward", done: 0, total: 0, unit: "tokens")
    private var inputs: [ActivationChain] = []
    private var gradients: GradientChain?

    init(_ calibrator: Calibrator, progress: @escaping ProgressHandler) {
        self.calibrator = calibrator
        report = progress
    }

    // MARK: Without gradients

    /// First to last: one chain goes through all layers up to the last one that is not stored.
    func forward(
        _ needed: [Int], _ visit: (LayerStatistics, any LanguageModel) throws -> Void
    ) throws {
        guard let last = needed.last else { return }
        let missing = try needed.filter { try load($0) == nil }
        var chain = missing.first.flatMap { first in
            (0...first).reversed().lazy.compactMap { self.opened($0) }.first
        }
        begin("forward", total: calibrator.tokens * (last + 1))
        for layer in 0...last {
            var model: (any LanguageModel)?
            var fresh: LayerStatistics?
            if layer <= missing.last ?? -1, layer >= chain?.boundary ?? 0 {
                let inputs = try chain ?? embedded()
                chain = nil
                let part = try self.part(.layer(layer))
                let sums = Calibrator.InputSums()
                let isMissing = missing.contains(layer)
                chain = try next(inputs, part, isMissing ? sums.add : nil)
                if isMissing { fresh = try finished(layer, sums, [:]) }
                model = part
            }
            stage.done = calibrator.tokens * (layer + 1)
            guard needed.contains(layer), let statistics = try fresh ?? load(layer) else {
                continue
            }
            try visit(statistics, model ?? part(.layer(layer)))
        }
    }

    /// The chain behind one more layer; the one before is gone.
    private func next(
        _ inputs: ActivationChain, _ model: any LanguageModel,
        _ observer: ActivationChain.Observer?
    ) throws -> ActivationChain {
        guard calibrator.memory.isSpilled else {
            var chain = inputs
            try chain.advance(layer: model, observer: observer) { try step($0) }
            return chain
        }
        let chain = try advanced(inputs, model, observer)
        path("inputs", inputs.boundary).map { _ = unlink($0) }
        return chain
    }

    // MARK: With gradients

    /// Last to first: gradients come from the layer behind, inputs from a forward sweep.
    func backward(
        _ needed: [Int], _ visit: (LayerStatistics, any LanguageModel) throws -> Void
    ) throws {
        let perLayer = calibrator.batches.reduce(0) { $0 + $1.tokens * ($1.hasGradients ? 2 : 1) }
        for (index, layer) in needed.reversed().enumerated() {
            if let stored = try load(layer) {
                try visit(stored, part(.layer(layer)))
                continue
            }
            let inputs = try inputs(of: layer)
            let upstream = try metrics(layer) == nil ? gradients(at: layer + 1) : nil
            begin("statistics", total: perLayer * needed.count, done: perLayer * index)
            let model = try part(.layer(layer))
            let metrics = try upstream.map { try backward($0, inputs, model) } ?? metrics(layer)
            let sums = Calibrator.InputSums()
            for (index, batch) in inputs.batches.enumerated() {
                _ = try inputs.output(index, of: model) { try sums.add(batch, $0, $1, $2) }
                try step(index)
            }
            let statistics = try finished(layer, sums, metrics ?? [:])
            if upstream != nil, let path = gradientsPath {
                try gradients?.save(to: path, key: calibrator.key)
            }
            try visit(statistics, model)
        }
    }

    /// One layer backwards with the metrics of its sites; the chain is kept for the next one.
    private func backward(
        _ upstream: GradientChain, _ inputs: ActivationChain, _ model: any LanguageModel
    ) throws -> [String: OutputMetric] {
        let sites = calibrator.sites[inputs.boundary] ?? []
        var sums = Dictionary(
            uniqueKeysWithValues: sites.map { site in
                let limit = calibrator.settings.fullMetricLimit
                return (site.name, OutputMomentSum(site, limit: limit))
            })
        gradients = try GradientChain(upstream, inputs: inputs, layer: model) {
            try sums[$1]?.add($2, weight: $0.weight)
        } onBatch: {
            try step($0)
        }
        let weight = upstream.batches.reduce(0) { $0 + $1.weight * Double($1.tokens) }
        var metrics: [String: OutputMetric] = [:]
        for site in sites {
            // Sums are released as their means are taken.
            let metric = try sums.removeValue(forKey: site.name)?.metric(over: weight)
            for run in metric?.runs ?? [] where try !run.sum().item().isFinite {
                throw StageError.notFinite(what: "the gradient at the outputs of \(site.name)")
            }
            metrics[site.name] = metric
        }
        return metrics
    }

    /// The inputs of `layer`, from a forward sweep through all layers that is made once.
    private func inputs(of layer: Int) throws -> ActivationChain {
        if inputs.isEmpty {
            begin("forward", total: calibrator.tokens * calibrator.layers)
            var chains = [try opened(0) ?? embedded()]
            for layer in 0..<calibrator.layers {
                stage.done = calibrator.tokens * layer
                let chain =
                    try opened(layer + 1)
                    ?? advanced(chains[layer], part(.layer(layer)), nil)
                chains.append(chain)
            }
            inputs = chains
        }
        return inputs[layer]
    }

    /// The gradients at the inputs of layer `boundary`: at hand, stored, or from the head on.
    private func gradients(at boundary: Int) throws -> GradientChain {
        var chain = gradients.flatMap { $0.boundary >= boundary ? $0 : nil }
        if chain == nil, let path = gradientsPath {
            chain =
                (boundary...calibrator.layers).lazy.compactMap { [calibrator] in
                    try? GradientChain(
                        file: path, boundary: $0, batches: calibrator.batches, key: calibrator.key)
                }.first
        }
        var result = try chain ?? head()
        while result.boundary > boundary {
            let layer = result.boundary - 1
            result = try GradientChain(
                result, inputs: inputs(of: layer), layer: part(.layer(layer)),
                observer: { _, _, _ in }
            ) { _ in try report(stage) }
        }
        return result
    }

    private func head() throws -> GradientChain {
        let outputs = try inputs(of: calibrator.layers)
        return try GradientChain(outputs, ends: part(.ends), labels: calibrator.labels) { _ in
            try report(stage)
        }
    }

    // MARK: Both

    private func load(_ layer: Int) throws -> LayerStatistics? {
        try calibrator.store?.load(layer: layer, to: calibrator.settings.device)
    }

    private func metrics(_ layer: Int) throws -> [String: OutputMetric]? {
        try calibrator.store?.outputMetrics(layer: layer, to: calibrator.settings.device)
    }

    /// A layer's statistics, stored before anybody sees them.
    private func finished(
        _ layer: Int, _ sums: Calibrator.InputSums, _ metrics: [String: OutputMetric]
    ) throws -> LayerStatistics {
        let statistics = try sums.statistics(layer, calibrator.sites[layer] ?? [], metrics)
        try calibrator.store?.save(statistics, withMoments: calibrator.storesMoments)
        return statistics
    }

    private func part(_ part: ModelPart) throws -> any LanguageModel {
        try calibrator.source.loadPart(
            part, device: calibrator.settings.device, dtype: calibrator.dtype
        ) { try report(stage) }
    }

    private func embedded() throws -> ActivationChain {
        try ActivationChain(
            calibrator.batches, embeddedBy: part(.ends), in: place(0), key: calibrator.key
        ) { _ in try report(stage) }
    }

    private func advanced(
        _ inputs: ActivationChain, _ model: any LanguageModel,
        _ observer: ActivationChain.Observer?
    ) throws -> ActivationChain {
        try inputs.advanced(
            layer: model, to: place(inputs.boundary + 1), key: calibrator.key, observer: observer
        ) { try step($0) }
    }

    /// What an earlier run left at `boundary`.
    private func opened(_ boundary: Int) -> ActivationChain? {
        path("inputs", boundary).flatMap { path in
            try? ActivationChain(
                file: path, boundary: boundary, batches: calibrator.batches, key: calibrator.key)
        }
    }

    private func place(_ boundary: Int) -> ActivationChain.Place {
        guard calibrator.memory.isSpilled, let path = path("inputs", boundary) else {
            return .memory
        }
        return .file(path)
    }

    private func path(_ kind: String, _ number: Int) -> String? {
        calibrator.directory.map { "\($0)/\(StatisticsStore.name(kind, number))" }
    }

    private var gradientsPath: String? {
        calibrator.directory.map { "\($0)/gradients.safetensors" }
    }

    private func begin(_ name: String, total: Int, done: Int = 0) {
        stage = StageProgress(stage: name, done: done, total: total, unit: "tokens")
    }

    private func step(_ batch: Int) throws {
        stage.done += calibrator.batches[batch].tokens
        try report(stage)
    }
}
