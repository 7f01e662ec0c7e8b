import ArgumentParser
import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaStages
import MinimaTensor

struct Analyze: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Learns where and how a model can be compressed.",
        discussion: """
            Streams the model layer by layer: moments of inputs and of output gradients, statistics \
            of every patch, what each format and rank would cost there, and the true damage of a few, \
            from which a small network learns to predict that of all. Writes analysis.json, which \
            `minima plan` reads, and predictor.safetensors, which --predictor reuses on another \
            model. A run that was killed goes on where it was.
            """)

    @OptionGroup var source: SourceOptions

    @Option(help: "Directory to write.", completion: .directory)
    var out: String

    @OptionGroup var calibration: CalibrationOptions

    @Option(help: "Windows of which gradients are taken, too. Default: half of --samples.")
    var gradients: Int?

    @Option(help: "Replaced patches whose true damage is measured; 0 trusts the closed form.")
    var probes = 128

    @Option(help: "Calibration windows that probes are measured on. Default: 8, or --samples.")
    var probeWindows: Int?

    @Option(help: "Type that probes are measured in. Default: float32.")
    var probeDtype = DType.float32

    @Option(help: "Predictor that another analysis wrote.", completion: .file())
    var predictor: String?

    @Option(
        parsing: .upToNextOption,
        help: "Formats to list options for, by their registered names. Default: all.")
    var formats: [String] = []

    @Option(
        help: """
            Levels of the codes that options are listed with: normal; uniform, which decode with \
            less arithmetic and leave more error; or float8, by which codes of 8 bits are e4m3 and \
            others normal.
            """)
    var levels = FormatSpec.Levels.normal

    @Option(
        parsing: .upToNextOption,
        help: .init(
            "Patches of a role's weights in place of the family's: q_proj=4; q_proj=inputs:4 cuts columns.",
            valueName: "role=count"))
    var patches: [PatchOverride] = []

    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON: the analysis.")
    var json = false

    func validate() throws {
        if let gradients, gradients < 0 || gradients > calibration.samples {
            throw ValidationError("--gradients must be between 0 and --samples")
        }
        guard (0...100_000).contains(probes) else {
            throw ValidationError("--probes must be between 0 and 100000")
        }
        if let probeWindows, !(1...calibration.samples).contains(probeWindows) {
            throw ValidationError("--probe-windows must be between 1 and --samples")
        }
        let known = FormatRegistry.all.map { $0.name }
        for format in formats where !known.contains(format) {
            throw ValidationError(
                "--formats takes \(known.joined(separator: ", ")), found \(format)")
        }
        if let twice = Dictionary(grouping: patches, by: \.role).values.first(where: {
            $0.count > 1
        }) {
            throw ValidationError("--patches names \(twice[0].role) twice")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let source = try source.open()
        let progress = ProgressLine()
        let (sources, _) = try calibration.read(source, compute, device, progress)
        var settings = CalibrationSettings(
            device: device, dtype: compute.dtype,
            gradientWindows: gradients ?? max(calibration.samples / 2, 1), seed: calibration.seed)
        settings.fullMetricLimit = 4096
        let windows = sources.flatMap(\.windows)
        var request = Analyzer.Request(
            sources: sources, calibration: settings,
            probeWindows: TokenWindows.spread(
                windows, count: probeWindows ?? min(8, calibration.samples)),
            version: Minima.versionNumber)
        request.probes = probes
        request.probeType = probeDtype
        request.predictor = predictor
        request.seed = calibration.seed
        request.survey.formats = formats
        request.survey.levels = levels
        for item in patches { request.patches[item.role] = try item.grid(in: source.sites()) }
        request.directory = out + "/statistics"
        try FileManager.default.createDirectory(
            atPath: out + "/statistics", withIntermediateDirectories: true)
        let (analysis, trained) = try Analyzer(source, request).run(progress: progress.show)
        if let trained {
            try trained.write(to: out + "/predictor.safetensors", notes: analysis.notes)
        }
        try AtomicFile.write(analysis.json() + "\n", to: out + "/analysis.json")
        if json { return try analysis.printJSON() }
        try Terminal.output(analysis.summary(out))
    }
}

/// `ROLE=COUNT` or `ROLE=outputs:COUNT`, `ROLE=inputs:COUNT`.
struct PatchOverride: ExpressibleByArgument {
    let role: String
    private let axis: PatchGrid.Axis?
    private let count: Int

    init?(argument: String) {
        let halves = argument.split(separator: "=", omittingEmptySubsequences: false)
        guard halves.count == 2, !halves[0].isEmpty else { return nil }
        let value = halves[1].split(separator: ":", omittingEmptySubsequences: false)
        guard value.count <= 2, let count = value.last.flatMap({ Int($0) }), count > 0 else {
            return nil
        }
        axis = value.count == 2 ? PatchGrid.Axis(rawValue: String(value[0])) : nil
        guard value.count == 1 || axis != nil else { return nil }
        role = String(halves[0])
        self.count = count
    }

    /// The side that the family cuts, unless another is named.
    func grid(in sites: [Site]) -> PatchGrid {
        let own = sites.lazy.flatMap(\.members).first { $0.role == role }?.patches.axis
        return PatchGrid(axis ?? own ?? .outputs, count: count)
    }
}

extension Analysis {
    /// What a predictor's file says of its training.
    fileprivate var notes: [String: String] {
        var notes = ["model": model, "minima": version, "seed": "\(calibration.seed)"]
        notes["probes"] = predictor.map { "\($0.trainingProbes)" }
        notes["spearman"] = predictor?.spearman.map { "\($0)" }
        return notes
    }

    /// What a terminal shows.
    fileprivate func summary(_ out: String) -> String {
        let patches = sites.reduce(0) { $0 + $1.patches.count }
        let options = sites.flatMap(\.cuts).flatMap(\.pieces).reduce(0) { $0 + $1.options.count }
        let seconds = seconds.sorted { $0.key < $1.key }
            .map { "\($0.key) \(fixed($0.value, 1)) s" }.joined(separator: ", ")
        var lines = [
            "\(out): \(sites.count) sites, \(patches) patches, \(options) options",
            "took           \(seconds)",
        ]
        if let predictor {
            func number(_ value: Double?) -> String { value.map { fixed($0, 3) } ?? "–" }
            lines.append(
                "rank correlation with the true damage of \(predictor.heldOutProbes) held-out probes: "
                    + "network \(number(predictor.spearman)), closed form "
                    + "\(number(predictor.closedFormSpearman)); used: \(predictor.used)")
        }
        let fragile = sites.flatMap(\.patches).sorted { $0.sensitivity > $1.sensitivity }.prefix(5)
        for patch in fragile {
            lines.append(
                "most fragile   \(patch.module) patch \(patch.index): "
                    + "\(fixed(patch.sensitivity, 2)) ± \(fixed(patch.uncertainty, 2))")
        }
        return lines.joined(separator: "\n")
    }
}
