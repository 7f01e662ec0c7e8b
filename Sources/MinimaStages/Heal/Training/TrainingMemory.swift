import MinimaCore
import MinimaModels
import MinimaTensor

/// When layers run a second time on the way back, so that fewer activations are kept (Chen et al.
/// 2016, "Training deep nets with sublinear memory cost").
public enum ActivationCheckpointing: String, Sendable, Hashable, CaseIterable {
    /// When the activations do not fit otherwise.
    case automatic = "auto"
    case on
    case off
}

/// What an end-to-end training takes on the device at its peak, and how its steps are cut so that it
/// fits.
struct TrainingMemory: Sendable, Hashable, CustomStringConvertible {
    /// Bytes of gradients, masters and moments; on the CPU also of the states that are kept.
    let optimiserBytes: Int
    /// Bytes of the activations of one pass.
    let activationBytes: Int
    /// Bytes of the logits that exist at one time, and of an output projection that they are made with
    /// where it is not stored as a matrix.
    let logitsBytes: Int
    /// Windows that run through the models at once; a step takes several passes of them.
    let windowsPerPass: Int
    /// Bytes of the machine's memory beside the device's: the last good and the best state.
    let hostBytes: Int
    /// Whether layers run a second time on the way back.
    let recomputes: Bool

    /// Bytes on the device, beside the models' weights.
    var deviceBytes: Int {
        Saturating.sum([optimiserBytes, activationBytes, logitsBytes])
    }

    /// Sizes in MiB.
    var description: String {
        """
        \(deviceBytes >> 20) MiB beside the weights: optimiser \(optimiserBytes >> 20), \
        activations of \(windowsPerPass) windows \(activationBytes >> 20)\
        \(recomputes ? " (layers run twice)" : ""), logits \(logitsBytes >> 20)
        """
    }

    /// What decides on it.
    struct Sizes {
        var sites: [Site]
        var hidden: Int
        var vocabulary: Int
        var context: Int
        var dtype: DType
        var device: Device
        /// Numbers that train.
        var trained: Int
        /// Processes that share the optimiser's state.
        var processes = 1
        /// Layer boundaries where hidden states are compared.
        var boundaries = 0
        /// Windows of a step in one process.
        var windows: Int
        /// Tokens of a pass, at most.
        var tokensPerPass: Int
        /// Whether the student's output projection is multiplied out for each pass.
        var expandsHead = false
    }

    /// Tokens of a pass below which kernels no longer fill a GPU.
    private static let fullPass = 4096

    /// The fastest way to cut steps that fits: large passes whose layers run once, then large passes
    /// whose layers run twice.
    ///
    /// - Parameter available: Bytes that are free on the device; `nil` where nobody knows.
    /// - Throws: `StageError.notEnoughMemory` where even one window at a time does not fit.
    init(_ sizes: Sizes, _ checkpointing: ActivationCheckpointing, available: Int?) throws {
        let most = max(min(sizes.windows, sizes.tokensPerPass / max(sizes.context, 1)), 1)
        var candidates: [(windows: Int, recomputes: Bool)] = []
        var windows = most
        while true {
            let isFull = windows == most || windows * sizes.context >= Self.fullPass
            if checkpointing == .off || checkpointing == .automatic && isFull {
                candidates.append((windows, false))
            }
            if windows == 1 { break }
            windows /= 2
        }
        if checkpointing != .off {
            windows = most
            while true {
                candidates.append((windows, true))
                if windows == 1 { break }
                windows /= 2
            }
        }
        var last: TrainingMemory?
        for (windows, recomputes) in candidates {
            let memory = TrainingMemory(sizes, windows: windows, recomputes: recomputes)
            last = memory
            guard let available, memory.deviceBytes > available else {
                self = memory
                return
            }
        }
        throw StageError.notEnoughMemory(
            purpose: "end-to-end healing (\(last.map { "\($0)" } ?? "nothing"))",
            neededBytes: last?.deviceBytes ?? 0, availableBytes: available ?? 0)
    }

    private init(_ sizes: Sizes, windows: Int, recomputes: Bool) {
        let width = sizes.dtype.byteCount
        let layers = Dictionary(grouping: sizes.sites, by: \.layer).values.map {
            Self.bytesPerToken($0, hidden: sizes.hidden, dtype: sizes.dtype)
        }
        let stream = Saturating.product([sizes.hidden, width])
        // A layer's graph and the gradients on their way through it; the teacher's layer is less.
        let largest = Saturating.product([layers.max() ?? 0, 2])
        let perToken = Saturating.sum([
            recomputes ? Saturating.product([stream, layers.count]) : Saturating.sum(layers),
            largest, Saturating.product([stream, sizes.boundaries + 6]),
        ])
        // Sums of gradients in float32 everywhere, and gradients in the model's type until they are
        // added; masters and two moments in float32 shared among the processes. Masters and moments
        // of the last good state and masters of the best one are on the host.
        let share = sizes.trained / max(sizes.processes, 1)
        let kept = Saturating.product([share, 16])
        hostBytes = sizes.device == .cpu ? 0 : kept
        let gradients = recomputes ? sizes.trained / max(layers.count, 1) : sizes.trained
        optimiserBytes = Saturating.sum([
            Saturating.product([sizes.trained, 4]), Saturating.product([share, 12]),
            Saturating.product([gradients, width]), sizes.device == .cpu ? kept : 0,
        ])
        activationBytes = Saturating.product([windows, sizes.context, perToken])
        // Both models' logits, their log-probabilities and what the gradient is made of.
        let rows = max(GradientChain.logitsPerChunk(sizes.device), sizes.vocabulary)
        let all = Saturating.product([windows, sizes.context, sizes.vocabulary])
        // Codes as int64, their levels, scales and products as float32, and the matrix.
        let head = Saturating.product([sizes.vocabulary, sizes.hidden, 8 + 3 * 4 + width])
        logitsBytes = Saturating.sum([
            Saturating.product([min(rows, all), 6 * 4]), sizes.expandsHead ? head : 0,
        ])
        windowsPerPass = windows
        self.recomputes = recomputes
    }

    /// Bytes that a decoder layer keeps of a token for its gradient: inputs and outputs of the linear
    /// layers, the outputs again after activation and rotation, and the stream around its two norms
    /// in float32.
    static func bytesPerToken(_ sites: [Site], hidden: Int, dtype: DType) -> Int {
        let linear = sites.map { site in
            Int((Double(site.inputs + 3 * site.outputs) * site.tokenShare).rounded(.up))
        }
        return Saturating.sum([
            Saturating.product([Saturating.sum(linear), dtype.byteCount]),
            Saturating.product([hidden, 8 * 4]),
        ])
    }
}
