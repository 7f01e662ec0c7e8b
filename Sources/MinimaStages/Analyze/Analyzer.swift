import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// Learns how a model may be compressed: calibrates it, lists the options of every site, measures the
/// true damage of a few, and predicts that of all.
///
/// Everything streams layer by layer. With a directory, a run that was ended starts again where it
/// was: calibrated statistics, surveyed layers and measured probes are kept there under a hash of all
/// that they depend on.
public struct Analyzer {
    /// What to do.
    public struct Request: Sendable {
        /// Calibration texts.
        public var sources: [CalibrationSource]
        /// How they are run.
        public var calibration: CalibrationSettings
        /// How weights are cut into patches, by their role (`q_proj`); the others as their family
        /// says.
        public var patches: [String: PatchGrid] = [:]
        /// Which options are listed.
        public var survey = SurveyOptions()
        /// Windows on which the damage of probes is measured.
        public var probeWindows: [[Int32]]
        /// Probes; 0 measures none.
        public var probes = 128
        /// The type that probes run in; `nil` takes the calibration's. Rounding differs between two
        /// runs of a model in bfloat16, which hides damages below about 1e-3.
        public var probeType: DType?
        /// A trained predictor to use in place of one trained here.
        public var predictor: String?
        /// Seed of the design of probes and of the networks.
        public var seed: UInt64 = 0
        /// Where unfinished work is kept; `nil` keeps it in memory.
        public var directory: String?
        /// Version of Minima, for the record.
        public var version: String

        /// A request.
        public init(
            sources: [CalibrationSource], calibration: CalibrationSettings,
            probeWindows: [[Int32]], version: String
        ) {
            self.sources = sources
            self.calibration = calibration
            self.probeWindows = probeWindows
            self.version = version
        }
    }

    private let source: any WeightSource
    private let request: Request
    private let sites: [Site]
    private let stored: DType
    /// The predictor of the request's file.
    private let given: SensitivityPredictor?

    /// Plans the analysis of `source`, a dense model; nothing is computed yet.
    ///
    /// - Throws: `StageError.alreadyCompressed`, `PredictorError` for a file that is no predictor,
    ///   `PatchError` for patches that do not suit the model.
    public init(_ source: any WeightSource, _ request: Request) throws {
        guard try CompressionManifest(source.config).modules.isEmpty else {
            throw StageError.alreadyCompressed(path: source.path)
        }
        self.source = source
        self.request = request
        sites = try source.sites().cut(request.patches)
        stored = try source.storedDType()
        given = try request.predictor.map { try SensitivityPredictor(path: $0) }
    }

    /// Calibrates, surveys, probes and predicts.
    ///
    /// - Returns: The account, and the predictor that was trained here, which
    ///   ``SensitivityPredictor/write(to:notes:)`` keeps for other models.
    public func run(progress: ProgressHandler = { _ in }) throws -> (
        analysis: Analysis, predictor: SensitivityPredictor?
    ) {
        var watch = Stopwatch()
        let fingerprints = try source.fingerprints { done, total in
            try progress(StageProgress(stage: "hash", done: done, total: total, unit: "files"))
        }
        watch.lap("hash")
        let calibrator = try Calibrator(
            source, sources: request.sources, settings: request.calibration,
            fingerprints: fingerprints, directory: request.directory)
        let design = try ProbeDesign(
            sites, count: request.probes, seed: request.seed, formats: request.survey.formats)
        let store = SurveyStore(
            directory: request.directory, key: key(calibrator.key, design))
        let surveying = try survey(calibrator, design, store, progress)
        watch.lap("calibrate", without: surveying)
        watch.add("survey", surveying)
        let layers = Set(sites.map(\.layer)).sorted()
        var found: [SiteAnalysis] = []
        for layer in layers { found += store.survey(layer: layer)?.sites ?? [] }
        let probes = try measure(store, layers, progress)
        watch.lap("probe")
        let judged = try PredictorEvaluation.judge(
            found, probes, given: given, file: request.predictor, seed: request.seed,
            progress: progress)
        found = try judged.model.applied(to: found)
        watch.lap("train")
        return (
            try analysis(found, judged, fingerprints, calibrator, watch.seconds),
            given == nil ? judged.predictor : nil
        )
    }

    /// What surveys and probes depend on.
    private func key(_ calibration: String, _ design: ProbeDesign) -> String {
        var hash = SHA256()
        func add(_ text: String) { Array(text.utf8).withUnsafeBytes { hash.update($0) } }
        add(
            "survey 3 \(calibration) \(request.survey) \(request.probeType.map { "\($0)" } ?? "")\n"
        )
        for site in sites { add("\(site.members.map(\.patches))\n") }
        for entry in design.entries {
            add("\(entry.site) \(entry.patch) \(entry.spec.json.text(indent: nil))\n")
        }
        for window in request.probeWindows {
            window.map(\.littleEndian).withUnsafeBytes { hash.update($0) }
            add("\n")
        }
        return hash.hexadecimalDigest()
    }

    /// Calibrates and surveys the layers that are not in `store`.
    ///
    /// - Returns: Seconds that the surveys took.
    private func survey(
        _ calibrator: Calibrator, _ design: ProbeDesign, _ store: SurveyStore,
        _ progress: ProgressHandler
    ) throws -> Double {
        let survey = Survey(request.survey, dtype: stored, sites: sites)
        let all = Set(sites.map(\.layer))
        let known = all.filter { store.survey(layer: $0) != nil }
        guard known.count < all.count else { return 0 }
        var (done, seconds) = (known.count, 0.0)
        try calibrator.run(isNeeded: { !known.contains($0) }, progress: progress) { layer, _ in
            var watch = Stopwatch()
            let (record, values) = try self.survey(
                layer, survey, design.entries(layer: layer.layer), key: store.key)
            try store.save(record, values, layer: layer.layer)
            watch.lap("layer")
            seconds += watch.seconds["layer"] ?? 0
            done += 1
            try progress(
                StageProgress(
                    stage: "survey", done: done, total: all.count, resumed: known.count,
                    unit: "layers"))
        }
        return seconds
    }

    private func survey(
        _ layer: LayerStatistics, _ survey: Survey, _ entries: [ProbeDesign.Entry], key: String
    ) throws -> (LayerSurvey, [Tensor]) {
        try withoutGradients {
            var record = LayerSurvey(key: key, sites: [], entries: [], errors: [])
            var values: [Tensor] = []
            for statistics in layer.sites {
                let site = try statistics.site.cut(request.patches)
                let weight = try source.stackedWeight(site, on: request.calibration.device)
                let metric = try statistics.metric()
                record.sites.append(
                    SiteAnalysis(
                        name: site.name, layer: site.layer, outputs: site.outputs,
                        inputs: site.inputs,
                        members: site.members.map { .init(name: $0.name, outputs: $0.outputs) },
                        patches: try PatchStatistics.measure(
                            site, weight: weight, input: metric.input, output: metric.output),
                        activations: statistics.activations,
                        cuts: try survey.cuts(site, weight: weight, metric: metric)))
                for entry in entries where entry.site == site.name {
                    let substitute = try PatchSubstitute(entry, weight: weight, metric: metric)
                    record.entries.append(entry)
                    record.errors.append(substitute.error)
                    values.append(try substitute.values.to(.cpu, dtype: .float32).contiguous())
                }
            }
            return (record, values)
        }
    }

    /// Probes that run through the model together: what a gigabyte of residual streams holds, on a
    /// GPU sixteen.
    private func groupSize(hidden: Int) -> Int {
        let tokens = request.probeWindows.reduce(0) { $0 + $1.count }
        let budget = (request.calibration.device == .cpu ? 1 : 16) << 30
        return max(budget / max(Saturating.product([tokens, hidden, 4]), 1), 1)
    }

    private func measure(
        _ store: SurveyStore, _ layers: [Int], _ progress: ProgressHandler
    ) throws -> [Probe] {
        guard request.probes > 0 else { return [] }
        var missing: [ProbeDesign.Entry] = []
        for layer in layers {
            missing += try (store.survey(layer: layer)?.entries ?? []).filter {
                try store.divergence($0) == nil
            }
        }
        if !missing.isEmpty {
            let runner = try ProbeRunner(
                source, windows: request.probeWindows, device: request.calibration.device,
                dtype: request.probeType ?? request.calibration.dtype)
            // Small enough that an ended run loses little.
            let group = min(groupSize(hidden: try source.config.int("hidden_size")), 64)
            for start in stride(from: 0, to: missing.count, by: group) {
                let part = try Self.substitutes(
                    missing[start..<min(start + group, missing.count)], store)
                let divergences = try runner.measure(part) { step in
                    var step = step
                    step.note = "probes \(start + 1) to \(start + part.count) of \(missing.count)"
                    try progress(step)
                }
                try store.save(zip(part, divergences).map { ($0.entry, $1) })
            }
        }
        var probes: [Probe] = []
        for layer in layers {
            guard let survey = store.survey(layer: layer) else { continue }
            for (entry, error) in zip(survey.entries, survey.errors) {
                guard let divergence = try store.divergence(entry) else { continue }
                probes.append(
                    Probe(
                        site: entry.site, patch: entry.patch, spec: entry.spec,
                        error: significant(error), divergence: significant(max(divergence, 0))))
            }
        }
        return probes
    }

    /// The values of some probes, which are read for one group at a time: at 32 billion parameters
    /// 128 of them take 8 GB.
    private static func substitutes(_ entries: ArraySlice<ProbeDesign.Entry>, _ store: SurveyStore)
        throws -> [PatchSubstitute]
    {
        let wanted = Set(entries)
        return try Set(entries.map(\.layer)).sorted().flatMap { layer in
            try store.substitutes(layer: layer, wanted)
        }
    }

    private func analysis(
        _ found: [SiteAnalysis], _ judged: PredictorEvaluation, _ fingerprints: [String: String],
        _ calibrator: Calibrator, _ seconds: [String: Double]
    ) throws -> Analysis {
        let requests = try source.checkModel()
        let parameters = Saturating.sum(requests.map { Saturating.product($0.shape) })
        // Keys and values are what these layers put out.
        let cached = sites.flatMap(\.members).filter { ["k_proj", "v_proj"].contains($0.role) }
        let settings = request.calibration
        var analysis = Analysis(
            version: request.version, model: source.path, fingerprints: fingerprints,
            family: try source.config.modelType, dtype: stored, parameters: parameters,
            bytes: Saturating.product([parameters, stored.byteCount]),
            cacheBytesPerToken: cached.reduce(0) { $0 + $1.outputs } * stored.byteCount,
            calibration: Calibration(
                sources: request.sources.map {
                    .init(name: $0.name, windows: $0.windows.count, weight: $0.weight)
                },
                context: request.sources.flatMap(\.windows).map(\.count).max() ?? 0,
                gradientWindows: settings.gradientWindows, seed: settings.seed,
                hash: calibrator.tokenHash),
            device: "\(settings.device)", seconds: seconds.mapValues { significant($0) },
            sites: found, probes: judged.probes, predictor: judged.summary)
        analysis.statisticsKey = calibrator.store?.key ?? ""
        return analysis
    }
}

/// Seconds by phase.
private struct Stopwatch {
    private(set) var seconds: [String: Double] = [:]
    private var last = ContinuousClock.now

    /// Ends a phase that began where the last one ended.
    mutating func lap(_ phase: String, without other: Double = 0) {
        let now = ContinuousClock.now
        add(phase, max((now - last).totalSeconds - other, 0))
        last = now
    }

    mutating func add(_ phase: String, _ time: Double) {
        seconds[phase, default: 0] += time
    }
}
