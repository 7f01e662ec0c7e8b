import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Collects second moments of every site's inputs, and of the gradients at its outputs, with one
/// layer on the device at a time.
///
/// Without gradients one sweep goes forward and visits each layer as it comes. With gradients a
/// forward sweep keeps every layer's inputs, in memory or in files, and a backward sweep visits the
/// layers last to first: their gradients come from the layer behind, C and H exist for one layer.
///
/// A run that was ended starts again where its directory lets it: statistics of finished layers,
/// spilled inputs and the last gradients are read instead of computed. On the CPU the result is the
/// same to the last bit; a GPU's attention sums gradients in no fixed order.
public final class Calibrator {
    /// What stands behind the statistics: batches in the order in which they run.
    public let batches: [TokenBatch]
    /// SHA-256 of the windows' lengths and token ids.
    public let tokenHash: String
    /// What a run will take.
    public let memory: CalibrationMemory
    /// Statistics of finished layers; `nil` without a directory.
    public let store: StatisticsStore?
    /// Content of this calibration: weights, tokens and settings, 64 hexadecimal digits.
    public let key: String

    let source: any WeightSource
    let settings: CalibrationSettings
    let dtype: DType
    let sites: [Int: [Site]]
    let layers: Int
    let directory: String?
    let labels: LabelSampler

    /// Plans a calibration; nothing is computed yet.
    ///
    /// - Parameters:
    ///   - source: A dense model.
    ///   - sources: The texts.
    ///   - fingerprints: `source.fingerprints`.
    ///   - directory: Where statistics and spilled activations go; it is made when it is not there.
    ///     `nil` keeps everything in memory and leaves nothing behind.
    ///   - labels: Chooses labels in place of the model's own distribution. It is no part of the
    ///     key.
    /// - Throws: `StageError.tooLittleText` without a token, `CalibrationError.badWeight`, and what
    ///   `WeightSource.checkModel` throws.
    public init(
        _ source: any WeightSource, sources: [CalibrationSource], settings: CalibrationSettings,
        fingerprints: [String: String], directory: String? = nil, labels: LabelSampler? = nil
    ) throws {
        for text in sources where !(text.weight > 0 && text.weight.isFinite) {
            throw CalibrationError.badWeight(source: text.name, weight: text.weight)
        }
        self.source = source
        self.settings = settings
        self.directory = directory
        dtype = try settings.dtype ?? source.defaultDType(on: settings.device)
        batches = TokenBatch.batches(
            sources, tokensPerPass: settings.forwardTokens,
            gradientWindows: settings.gradientWindows,
            tokensPerGradientPass: settings.gradientTokens)
        guard !batches.isEmpty else {
            throw StageError.tooLittleText(tokens: 0, needed: 1, purpose: "calibration")
        }
        tokenHash = TokenBatch.hash(sources)
        let all = try source.sites()
        sites = Dictionary(grouping: all, by: \.layer)
        let sizes = try Self.sizes(source, all, settings, dtype, batches, directory != nil)
        layers = sizes.layers
        let free = HostMemory.available() ?? .max
        memory = CalibrationMemory(sizes, hostBudget: settings.hostBudget ?? free / 2)
        key = Self.key(source.config, fingerprints, batches, settings, dtype)
        store = directory.map { [key] in StatisticsStore(directory: $0, key: key, sites: all) }
        self.labels =
            labels ?? SampledLabels.sampler(seed: settings.seed, device: settings.device)
    }

    /// Whether all layers' input moments are stored, not only H.
    var storesMoments: Bool {
        CalibrationMemory.momentBytes(sites.values.flatMap(\.self)) <= settings.momentBudget
    }

    /// Tokens of one sweep through a layer.
    var tokens: Int { batches.reduce(0) { $0 + $1.tokens } }

    /// What the statistics depend on; anything else may change between runs.
    private static func key(
        _ config: ModelConfig, _ fingerprints: [String: String], _ batches: [TokenBatch],
        _ settings: CalibrationSettings, _ dtype: DType
    ) -> String {
        var hash = SHA256()
        func add(_ text: String) { Array(text.utf8).withUnsafeBytes { hash.update($0) } }
        add("calibration 3 \(settings.device.isCUDA) \(dtype) \(settings.fullMetricLimit)\n")
        // Random weights' sizes, and what weights do not say: rotary angles, the norms' ε.
        add(config.json.text(sortedKeys: true) + "\n")
        if settings.gradientWindows > 0 { add("seed \(settings.seed)\n") }
        for (name, value) in fingerprints.sorted(by: { $0.key < $1.key }) {
            add("\(name.utf8.count) \(name) \(value)\n")
        }
        for batch in batches {
            add("\(batch.windows.count) \(batch.length) \(batch.weight) \(batch.hasGradients)\n")
            for window in batch.windows {
                window.map(\.littleEndian).withUnsafeBytes { hash.update($0) }
            }
        }
        return hash.hexadecimalDigest()
    }

    private static func sizes(
        _ source: any WeightSource, _ sites: [Site], _ settings: CalibrationSettings,
        _ dtype: DType, _ batches: [TokenBatch], _ hasDirectory: Bool
    ) throws -> CalibrationMemory.Sizes {
        let family = try FamilyRegistry.family(source.config)
        let layers = (sites.map(\.layer).max() ?? -1) + 1
        var perLayer = Array(repeating: 0, count: layers)
        var ends = 0
        let prefixes = (0..<layers).map { family.layerPrefix($0) }
        let owners = Dictionary(zip(prefixes, prefixes.indices)) { first, _ in first }
        for request in try source.checkModel() {
            let count = Saturating.product(request.shape)
            // Prefixes end with a dot, as `model.layers.10.` does.
            let dots = request.name.indices.filter { request.name[$0] == "." }
            let owner = dots.lazy.compactMap { owners[String(request.name[...$0])] }.first
            if let owner {
                perLayer[owner] = Saturating.sum([perLayer[owner], count])
            } else {
                ends = Saturating.sum([ends, count])
            }
        }
        let config = source.config
        return CalibrationMemory.Sizes(
            settings: settings, dtype: dtype, sites: sites, layers: layers,
            hidden: try config.int("hidden_size"), vocabulary: try config.int("vocab_size"),
            parameters: (perLayer.max() ?? 0, ends), batches: batches, hasDirectory: hasDirectory)
    }

    /// The second moments of a layer's inputs, one batch at a time.
    final class InputSums {
        private var moments: [String: MomentSum] = [:]
        private var activations: [String: ActivationSum] = [:]

        /// Adds what goes into `site`.
        func add(_ batch: TokenBatch, _ site: String, _ input: Tensor, _ outputs: [Tensor]) throws {
            try moments[site, default: MomentSum()].add(input, weight: batch.weight)
            try activations[site, default: ActivationSum()].add(input, site: site)
        }

        /// The statistics of `sites`; moments are released as their means are taken.
        func statistics(_ layer: Int, _ sites: [Site], _ metrics: [String: OutputMetric]) throws
            -> LayerStatistics
        {
            var result: [SiteStatistics] = []
            var unreached = UnreachedExperts()
            for site in sites {
                let sum = moments.removeValue(forKey: site.name)
                let mean = try sum?.mean()
                guard mean != nil || site.tokenShare < 1 else {
                    throw StageError.tooLittleText(
                        tokens: 0, needed: 1, purpose: "the calibration of \(site.name)")
                }
                let summary = try mean.flatMap { try activations[site.name]?.summary(moment: $0) }
                try unreached.add(site, mean, metrics[site.name], tokens: sum?.tokens ?? 0)
                result.append(
                    SiteStatistics(
                        site: site, input: try mean ?? .zeros([1]), output: metrics[site.name],
                        activations: summary
                            ?? ActivationSummary(
                                rms: 0, largest: 0, outlierChannels: [], massiveTokens: 0),
                        tokens: sum?.tokens ?? 0))
            }
            let device = result.first { $0.tokens > 0 }?.input.device ?? .cpu
            return LayerStatistics(
                layer: layer,
                sites: try result.map {
                    try unreached.completed($0, hasMetrics: !metrics.isEmpty, on: device)
                })
        }
    }
}
