import MinimaCore
import MinimaModels
import MinimaTensor

/// What training a draft takes on the device at its peak beside the weights, and how many windows run
/// at once so that it fits.
struct DraftMemory: Sendable, Hashable, CustomStringConvertible {
    /// What decides on it.
    struct Sizes {
        /// The target's linear layers.
        var targetSites: [Site]
        var targetHidden: Int
        /// The draft's.
        var draftSites: [Site]
        var config: EagleConfiguration
        /// Tokens of a window.
        var window: Int
        var unroll: Int
        var dtype: DType
        var device: Device
        /// Numbers that train.
        var trained: Int
        /// Windows of a step.
        var windows: Int
        /// Tokens of a pass, at most.
        var tokensPerPass: Int
    }

    /// Bytes of gradients, masters and moments; on the CPU also of the states that are kept.
    let optimiserBytes: Int
    /// Bytes of the activations of one pass, of both models.
    let activationBytes: Int
    /// Bytes of the logits that exist at one time.
    let logitsBytes: Int
    /// Bytes of the machine's memory beside the device's: the last good and the best state.
    let hostBytes: Int
    /// Windows that run at once; a step takes several passes of them.
    let windowsPerPass: Int

    /// Bytes on the device.
    var deviceBytes: Int { Saturating.sum([optimiserBytes, activationBytes, logitsBytes]) }

    /// Sizes in MiB.
    var description: String {
        """
        \(deviceBytes >> 20) MiB beside the weights: optimiser \(optimiserBytes >> 20), activations \
        of \(windowsPerPass) windows \(activationBytes >> 20), logits \(logitsBytes >> 20)
        """
    }

    /// As many windows at once as fit.
    ///
    /// - Parameter available: Bytes that are free on the device; `nil` where nobody knows.
    /// - Throws: `StageError.notEnoughMemory` where not even one window fits.
    init(_ sizes: Sizes, available: Int?) throws {
        var windows = max(min(sizes.windows, sizes.tokensPerPass / max(sizes.window, 1)), 1)
        while true {
            let memory = DraftMemory(sizes, windows: windows)
            guard let available, memory.deviceBytes > available else {
                self = memory
                return
            }
            guard windows > 1 else {
                throw StageError.notEnoughMemory(
                    purpose: "training a draft (\(memory); shorter windows take less)",
                    neededBytes: memory.deviceBytes, availableBytes: available)
            }
            windows /= 2
        }
    }

    private init(_ sizes: Sizes, windows: Int) {
        let (config, width) = (sizes.config, sizes.dtype.byteCount)
        let layers = Dictionary(grouping: sizes.targetSites, by: \.layer).values.map {
            TrainingMemory.bytesPerToken($0, hidden: sizes.targetHidden, dtype: sizes.dtype)
        }
        // The target runs without a graph: one layer at a time, its features and its last states.
        let target = Saturating.sum([
            layers.max() ?? 0,
            Saturating.product([
                sizes.targetHidden, 2 * EagleConfiguration.featureCount + 1, width,
            ]),
        ])
        let inner = sizes.draftSites.filter { !["fc", "lm_head"].contains($0.name) }
        let step = Saturating.sum([
            TrainingMemory.bytesPerToken(inner, hidden: config.hidden, dtype: sizes.dtype),
            // Embedding, both norms, what is joined, the gradient of what comes out.
            Saturating.product([config.hidden, 8, width]),
        ])
        // Of every step after the first: shares in float32, and in the model's type twice; of the one
        // that is under way the scores, joined, masked, and their gradients.
        let row = Saturating.product([config.heads, sizes.window])
        let shares = Saturating.product([row, max(sizes.unroll - 1, 0), 4 + 2 * width])
        let scores = sizes.unroll > 1 ? Saturating.product([row, 6 * 4]) : 0
        let perToken = Saturating.sum([
            target, Saturating.product([step, sizes.unroll + 1]), shares, scores,
        ])
        activationBytes = Saturating.product([windows, sizes.window, perToken])
        let kept = Saturating.product([sizes.trained, 16])
        hostBytes = sizes.device == .cpu ? 0 : kept
        optimiserBytes = Saturating.sum([
            Saturating.product([sizes.trained, 16 + width]), sizes.device == .cpu ? kept : 0,
        ])
        // The target's logits and, of the draft's tokens, both models' and what gradients are made of.
        let rows = DraftLoss.rowsPerChunk(
            vocabulary: config.vocabulary, device: sizes.device,
            among: Saturating.product([windows, sizes.window]))
        logitsBytes = Saturating.product([
            rows,
            Saturating.sum([
                Saturating.product([config.vocabulary, width]),
                Saturating.product([config.draftVocabulary, 7 * 4]),
            ]),
        ])
        windowsPerPass = windows
    }
}
