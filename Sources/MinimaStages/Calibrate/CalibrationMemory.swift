import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What a calibration takes at most, known before it starts.
public struct CalibrationMemory: Sendable, Hashable, CustomStringConvertible {
    /// Bytes on the device: one layer, one batch's activations, one layer's statistics.
    public let deviceBytes: Int
    /// Bytes of host memory beside that.
    public let hostBytes: Int
    /// Bytes written to the calibration's directory, while it runs and for good.
    public let diskBytes: Int
    /// Whether layer inputs are kept in files.
    public let isSpilled: Bool
    /// The device that is meant.
    public let device: Device

    /// Sizes in MiB.
    public var description: String {
        """
        \(deviceBytes >> 20) MiB on \(device), \(hostBytes >> 20) MiB of host memory, \
        \(diskBytes >> 20) MiB of disk\(isSpilled ? " (activations in files)" : "")
        """
    }

    /// Throws `StageError.notEnoughMemory` or `CheckpointError.noSpace` when it cannot fit.
    ///
    /// - Parameters:
    ///   - free: Bytes free on the device and on the host; `nil` asks the machine.
    func check(
        directory: String?, free: (device: Int?, host: Int?)? = nil
    ) throws {
        let (onDevice, onHost) =
            try free ?? (device.memory()?.available, HostMemory.available())
        // The CPU's memory is the host's.
        let host = device == .cpu ? Saturating.sum([hostBytes, deviceBytes]) : hostBytes
        for (needed, available) in [(host, onHost), (device == .cpu ? 0 : deviceBytes, onDevice)] {
            guard let available, needed > available else { continue }
            throw StageError.notEnoughMemory(
                purpose: "calibration (\(self))", neededBytes: needed, availableBytes: available)
        }
        var status = statvfs()
        guard let directory, statvfs(directory, &status) == 0 else { return }
        let room = Saturating.product([
            Int(clamping: status.f_bavail), Int(clamping: status.f_frsize),
        ])
        guard diskBytes <= room else {
            throw CheckpointError.noSpace(
                path: directory, neededBytes: diskBytes, freeBytes: room)
        }
    }
}

extension CalibrationMemory {
    /// What a calibration is about to hold.
    struct Sizes {
        let settings: CalibrationSettings
        let dtype: DType
        let sites: [Site]
        let layers: Int
        let hidden: Int
        let vocabulary: Int
        /// Parameters of the largest layer, and of what stands around the layers.
        let parameters: (layer: Int, ends: Int)
        let batches: [TokenBatch]
        let hasDirectory: Bool
    }

    /// The account of a calibration whose layer inputs go to files when they exceed `hostBudget`.
    init(_ sizes: Sizes, hostBudget: Int) {
        let (settings, width) = (sizes.settings, sizes.dtype.byteCount)
        func tokens(_ hasGradients: Bool) -> Int {
            sizes.batches.filter { !hasGradients || $0.hasGradients }.map(\.tokens).max() ?? 0
        }
        let layers = Dictionary(grouping: sizes.sites, by: \.layer).values
        func largest(_ size: (Site) -> Int) -> Int {
            layers.map { Saturating.sum($0.map(size)) }.max() ?? 0
        }
        let moments = largest { Saturating.product([$0.inputs, $0.inputs, 8]) }
        let widest = sizes.sites.map(\.inputs).max() ?? 0
        // The product in float32 and the mean of the largest moment beside its sum.
        let product = Saturating.product([widest, widest, 12])
        let metricValues = largest { site in
            guard settings.gradientWindows > 0 else { return 0 }
            let runs = site.metricRuns(limit: settings.fullMetricLimit)
            return Saturating.sum(runs.map { Saturating.product([$0.outputs, $0.size]) })
        }
        // Sums, the products that are added to them, and the means that take their place.
        let metrics = Saturating.product([metricValues, 8 + 4 + 8])
        // Per token: every site's input and outputs, the residual stream and its norms; the widest
        // input in float32 and its magnitudes.
        let stream = Saturating.product([sizes.hidden, 6])
        let perToken = Saturating.sum([
            stream,
            // Over all experts, exact: a token reaches as many as are active.
            largest { Int((Double($0.inputs + $0.outputs) * $0.tokenShare).rounded(.up)) },
        ])
        let forward = Saturating.product([
            tokens(false),
            Saturating.sum([
                Saturating.product([perToken, width]), Saturating.product([widest, 4 + width]),
            ]),
        ])
        // With gradients: what is saved for them, the gradients, the largest of them joined and in
        // float32.
        let outputs = sizes.sites.map(\.outputs).max() ?? 0
        let backward = Saturating.product([
            tokens(true),
            Saturating.sum([
                Saturating.product([perToken, width, 3]),
                Saturating.product([outputs, 8 + width]),
            ]),
        ])
        let logits = Saturating.product([
            max(GradientChain.logitsPerChunk(settings.device), sizes.vocabulary), 4 * 5,
        ])
        let ends = Saturating.sum([
            Saturating.product([sizes.parameters.ends, width]),
            settings.gradientWindows > 0 ? logits : 0,
        ])
        let layer = Saturating.sum([
            Saturating.product([sizes.parameters.layer, width]), moments, product, metrics,
            max(forward, backward),
        ])
        let boundary = ActivationChain.byteCount(
            sizes.batches, hidden: sizes.hidden, dtype: sizes.dtype)
        let gradients = ActivationChain.byteCount(
            sizes.batches.filter(\.hasGradients), hidden: sizes.hidden, dtype: sizes.dtype)
        let kept = settings.gradientWindows > 0 ? sizes.layers + 1 : 1
        let history = Saturating.product([boundary, kept])
        let batch = Saturating.product([tokens(false), sizes.hidden, width])
        deviceBytes = max(ends, layer)
        device = settings.device
        isSpilled = sizes.hasDirectory && history > hostBudget
        hostBytes = Saturating.sum([
            isSpilled ? Saturating.product([batch, 2]) : history,
            Saturating.product([gradients, 2]),
        ])
        let allMoments = CalibrationMemory.momentBytes(sizes.sites)
        let stored = Saturating.sum([
            Saturating.product([metricValues, 4, sizes.layers]),
            allMoments <= settings.momentBudget ? allMoments : 0,
        ])
        let spilled = isSpilled ? Saturating.product([boundary, max(kept, 2)]) : 0
        diskBytes = sizes.hasDirectory ? Saturating.sum([stored, spilled, gradients]) : 0
    }

    /// Bytes of the input moments of all sites.
    static func momentBytes(_ sites: [Site]) -> Int {
        Saturating.sum(sites.map { Saturating.product([$0.inputs, $0.inputs, 8]) })
    }
}
