import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// A draft, trained to guess what a frozen target will say several tokens ahead.
///
/// Features and distributions are the target's on windows of text, computed as they are needed. From
/// every place of a window the draft goes on by itself for some tokens, reading what it has made
/// itself where the target's features are not known yet, but the window's tokens: what it will meet
/// when its guesses are right (training-time test).
///
/// - Note: Li et al. 2025, "EAGLE-3", sections 3.1 and 3.2.
final class DraftObjective: TrainingObjective {
    let parameters: [TrainedTensor]
    let tokensPerStep: Int
    /// What it takes on the device beside the weights.
    let memory: DraftMemory
    private(set) var acceptance: [Double]?

    private let draft: EagleDraft
    private let target: any LanguageModel
    private let text: HealingText
    private let settings: DraftSettings
    private let loss: DraftLoss
    /// The leaves that the logits depend on, as places in ``parameters``.
    private let headPlaces: [Int]
    private let window: Int
    /// Of all positions that steps have, as `RotaryEmbedding.table` gives them.
    private let angles: (cosines: Tensor, sines: Tensor)
    /// The target's contexts by how many windows they are for: making one waits for the device.
    private var contexts: [Int: ForwardContext] = [:]

    /// An objective.
    ///
    /// - Parameters:
    ///   - draft: Made for `target`, with leaves.
    ///   - parameters: Its leaves.
    ///   - sites: The draft's linear layers, and the target's.
    ///   - text: Windows to train and to measure on.
    /// - Throws: `DraftTrainingError`, `ModelError` for tokens or windows that the target does not
    ///   take, `StageError.notEnoughMemory`.
    init(
        _ draft: EagleDraft, parameters: [TrainedTensor], sites: (draft: [Site], target: [Site]),
        target: any LanguageModel, text: HealingText, settings: DraftSettings
    ) throws {
        window = text.settings.context
        guard (1...DraftTraining.longestUnroll).contains(settings.unroll) else {
            throw DraftTrainingError.badUnroll(settings.unroll)
        }
        guard window >= 2 * settings.unroll, window > 2 else {
            throw DraftTrainingError.windowTooShort(tokens: window, unroll: settings.unroll)
        }
        guard window <= target.dimensions.context else {
            throw ModelError.contextExceeded(length: window, context: target.dimensions.context)
        }
        try text.requireTokens(of: target)
        self.draft = draft
        self.parameters = parameters
        self.target = target
        self.text = text
        self.settings = settings
        loss = try DraftLoss(draft, target: target)
        tokensPerStep = settings.batch * window
        headPlaces = parameters.indices.filter { place in
            ["norm.", "lm_head."].contains { parameters[place].name.hasPrefix($0) }
        }
        let positions = try Tensor.arange(0..<window, device: draft.device).unsqueeze(0)
        angles = try draft.rotary.table(positions, length: window, dtype: draft.dtype)
        let device = draft.device
        let available = try device.memory()?.available ?? HostMemory.available()
        memory = try DraftMemory(
            DraftMemory.Sizes(
                targetSites: sites.target, targetHidden: target.dimensions.hidden,
                draftSites: sites.draft, config: draft.config, window: window,
                unroll: settings.unroll, dtype: draft.dtype, device: device,
                trained: parameters.reduce(0) { $0 + $1.tensor.count }, windows: settings.batch,
                tokensPerPass: settings.tokensPerPass ?? (device == .cpu ? 4096 : .max)),
            available: available)
        if let free = HostMemory.available(), memory.hostBytes > free {
            throw StageError.notEnoughMemory(
                purpose: "training a draft (the last good and the best state, on the host)",
                neededBytes: memory.hostBytes, availableBytes: free)
        }
    }

    // MARK: Training

    /// Gradients of step `step`'s loss: by guess in a row the mean cross-entropy over the places that
    /// count, weighted by the powers of the decay.
    func gradients(step: Int, _ accumulate: (_ gradients: [Tensor?]) throws -> Void) throws
        -> Tensor
    {
        let windows = text.windows(step: step, batch: settings.batch)
        let batch = try text.batch(windows)
        let weights = try weights(windows: windows.count, mask: batch.mask)
        var sum = try Tensor.zeros([], device: draft.device)
        let passes = (windows.count + memory.windowsPerPass - 1) / memory.windowsPerPass
        for pass in 0..<passes {
            // Passes of about one size.
            let range = pass * windows.count / passes..<(pass + 1) * windows.count / passes
            sum =
                try sum
                + gradients(
                    batch.inputs.narrow(0, range).to(draft.device),
                    mask: batch.mask?.narrow(0, range).to(draft.device), weights, accumulate)
        }
        return sum
    }

    /// What a place of each step counts for the loss: the decay's power over the places that count.
    private func weights(windows: Int, mask: Tensor?) throws -> [Double] {
        try (0..<settings.unroll).map { step in
            let count =
                try mask?.narrow(1, step + 1..<window).sum(dtype: .float64).item()
                ?? Double(windows * (window - 1 - step))
            return power(step) / max(count, 1)
        }
    }

    private func power(_ step: Int) -> Double {
        (0..<step).reduce(1) { product, _ in product * settings.decay }
    }

    private func gradients(
        _ ids: Tensor, mask: Tensor?, _ weights: [Double], _ accumulate: ([Tensor?]) throws -> Void
    ) throws -> Tensor {
        let found = try features(ids)
        let steps = try withGradients { try unroll(ids, found.features) }
        let result = try loss.evaluate(
            steps, hidden: found.hidden, mask: mask, weights: weights,
            leaves: headPlaces.map { parameters[$0].tensor })
        var atHead = [Tensor?](repeating: nil, count: parameters.count)
        for (place, gradient) in zip(headPlaces, result.atLeaves) { atHead[place] = gradient }
        try accumulate(atHead)
        try accumulate(
            Tensor.gradients(of: steps, along: result.atHidden, parameters.map(\.tensor)))
        return result.loss
    }

    // MARK: Passes

    /// The target's view of `ids` `[window, token]`.
    private func features(_ ids: Tensor) throws -> TargetFeatures {
        let count = ids.shape[0]
        let context =
            try contexts[count]
            ?? ForwardContext(
                batch: count, tokens: window, cache: nil, padding: nil, rotary: target.rotary,
                device: target.device, dtype: target.dtype)
        contexts[count] = context
        return try withoutGradients {
            try target.features(of: ids, entering: draft.featureLayers, context)
        }
    }

    /// The draft's hidden states of each step, `[window, places, hidden]`: of step j the first
    /// `tokens` − 1 − j places, about whose guesses the target has spoken.
    private func unroll(_ ids: Tensor, _ features: Tensor) throws -> [Tensor] {
        let attention = UnrolledAttention()
        var hidden = try draft.fuse(features.narrow(1, 0..<window - 1))
        var steps: [Tensor] = []
        for step in 0..<settings.unroll {
            let places = window - 1 - step
            let context = ForwardContext(
                batch: ids.shape[0], tokens: places,
                cosines: try angles.cosines.narrow(2, step..<step + places),
                sines: try angles.sines.narrow(2, step..<step + places), mask: nil,
                store: NoStore())
            hidden = try draft.layer(
                embedding: draft.embed(ids.narrow(1, step + 1..<window)),
                hidden: hidden.narrow(1, 0..<places), context: context,
                attention: { try attention($0, $1, $2) })
            steps.append(hidden)
        }
        return steps
    }

    /// Attention here keeps its own keys and values.
    private struct NoStore: KeyValueStore {
        func append(layer: Int, key: Tensor, value: Tensor) throws(TensorError) -> (
            key: Tensor, value: Tensor
        ) { (key, value) }
    }

    // MARK: Measurement

    /// The held-out loss, and ``acceptance``.
    func validate() throws -> Double {
        let found = try measure()
        acceptance = found.acceptance
        return found.loss
    }

    /// The loss, and by place in a row the share of guesses that are the target's first choice among
    /// those after which all before were, on the held-out windows.
    func measure() throws -> (loss: Double, acceptance: [Double]) {
        let windows = text.heldOut.map { Array($0.prefix(window)) }
        let weights = try weights(windows: windows.count, mask: nil)
        var sum = try Tensor.zeros([], device: draft.device)
        var right = try Tensor.zeros([settings.unroll], device: draft.device)
        // Of these all guesses are known.
        let places = window - settings.unroll
        try withoutGradients {
            for group in TokenWindows.batches(windows, tokens: memory.windowsPerPass * window) {
                let ids = try TokenWindows.tensor(group).to(draft.device)
                let found = try features(ids)
                let result = try loss.evaluate(
                    try unroll(ids, found.features), hidden: found.hidden, mask: nil,
                    weights: weights, findsRight: true)
                sum = try sum + result.loss
                var all = try Tensor.ones([group.count, places], device: draft.device)
                var counts: [Tensor] = []
                for step in result.isRight {
                    all = try all * step.narrow(1, 0..<places)
                    counts.append(try all.sum().reshape([1]))
                }
                right = try right + .cat(counts)
            }
        }
        let counts = try right.values(as: Float.self).map(Double.init)
        var before = Double(windows.count * places)
        guard before > 0 else { throw DraftTrainingError.nothingMeasured }
        let shares = counts.map { count in
            defer { before = count }
            return before > 0 ? count / before : 0
        }
        return (try sum.item(), shares)
    }
}
