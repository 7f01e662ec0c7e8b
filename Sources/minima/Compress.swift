import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaStages
import MinimaTensor

struct Compress: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Writes a smaller model, as a plan says or every layer alike.",
        discussion: """
            With --plan, every module takes the format that the plan gives it, layer by layer, and \
            each makes up for the error of those before it. With --ratio, every linear layer loses \
            the same share of its parameters in one format. --head stores the output projection as \
            codes, beside either or alone. The output is a Hugging Face directory \
            that appears when it is complete; a run that was killed goes on where it was.
            """)

    @OptionGroup var source: SourceOptions

    @Option(help: "Directory to write; must not exist or be empty.", completion: .directory)
    var out: String

    @Option(help: "Plan that `minima plan` wrote or a person edited.", completion: .file())
    var plan: String?

    @Option(help: "Share of the linear layers' parameters to remove, between 0 and 1.")
    var ratio: Double?

    /// Formats that have a specification for every ratio.
    private static var formats: [String] {
        FormatRegistry.all.compactMap { $0 is any BudgetedFormat.Type ? $0.name : nil }
            .filter { $0 != Dense.name }
    }

    @Option(help: .init("With --ratio, one of: \(Compress.formats.joined(separator: ", "))."))
    var format = LowRank.name

    @Option(
        help: """
            Store the output projection as codes in groups of 64: int8, int4…, with a u behind it \
            at equally spaced levels, or fp8; in place of what a plan says of it. The embedding of a \
            tied model stays as it is.
            """)
    var head: CodeChoice?

    @Option(help: "How earlier layers' errors are made up for: off, auto or a share below 1.")
    var compensation: Compensation?

    @Option(
        help: "Directory that `minima analyze` wrote: gradients' moments, and the plan's own.",
        completion: .directory)
    var analysis: String?

    @OptionGroup var calibration: CalibrationOptions
    @OptionGroup var compute: ComputeOptions

    @Flag(help: "Print JSON.")
    var json = false

    func validate() throws {
        guard plan == nil || ratio == nil, plan != nil || ratio != nil || head != nil else {
            throw ValidationError("give either --plan or --ratio, or --head")
        }
        try head?.check(for: "--head")
        if let ratio, !(ratio > 0 && ratio < 1) {
            throw ValidationError("--ratio must be between 0 and 1, found \(ratio)")
        }
        guard Compress.formats.contains(format) else {
            throw ValidationError(
                "--format must be one of \(Compress.formats.joined(separator: ", ")), found \(format)"
            )
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let source = try source.open()
        let plan = try readPlan(source)
        // The plan and the output's place are checked before anything takes time.
        try plan.check(against: source)
        try AtomicDirectory(destination: out).discard()
        let progress = ProgressLine()
        let fingerprints = try source.fingerprints { done, total in
            try progress.show(
                StageProgress(stage: "hash", done: done, total: total, unit: "files"))
        }
        let (sources, _) = try calibration.read(source, compute, device, progress)
        let statistics = try analysis.map { try openStatistics($0, source, fingerprints) }
        let compressor = try Compressor(
            source,
            Compressor.Request(
                plan: plan, sources: sources, seed: calibration.seed,
                compensation: compensation ?? (self.plan == nil ? .off : .standard),
                statistics: statistics, device: device, dtype: compute.dtype,
                version: Minima.versionNumber))
        Terminal.write("minima: at its peak: \(compressor.requirements)")
        let result = try compressor.run(
            output: out, fingerprints: fingerprints, progress: progress.show)
        if json { return try result.printJSON() }
        try Terminal.output(result.summary(out))
    }

    private func readPlan(_ source: any WeightSource) throws -> CompressionPlan {
        let plan = try layerPlan(source)
        return try head.map {
            try plan.withHead(bits: $0.bits, levels: $0.levels, of: source)
        } ?? plan
    }

    private func layerPlan(_ source: any WeightSource) throws -> CompressionPlan {
        if plan == nil, ratio == nil {
            return .dense(source.path, version: Minima.versionNumber)
        }
        if let ratio {
            return try .uniform(
                source, ratio: ratio, format: format, version: Minima.versionNumber)
        }
        let path = plan ?? ""
        do {
            return try CompressionPlan(edited: readText(path))
        } catch let error as ResultError {
            throw FileError(path: path, reason: "\(error)")
        } catch let error as JSONError {
            throw FileError(path: path, reason: "\(error)")
        }
    }
}

extension CompressionResult {
    /// What a terminal shows.
    func summary(_ out: String) -> String {
        let removed =
            1 - Double(totals.linearParametersAfter) / Double(totals.linearParametersBefore)
        let bits =
            Double(totals.linearBytesAfter) * 8 / Double(max(totals.linearParametersBefore, 1))
        let errors = modules.map(\.outputError)
        var lines = [
            "\(out): \(modules.count) modules as \(formats.joined(separator: ", "))",
            "linear layers  \(grouped(totals.linearParametersBefore)) → "
                + "\(grouped(totals.linearParametersAfter)) parameters (−\(fixed(100 * removed, 1))%), "
                + "\(byteText(totals.linearBytesBefore)) → \(byteText(totals.linearBytesAfter)) "
                + "(\(fixed(bits, 2)) bits per weight)",
            "whole model    \(grouped(totals.parametersBefore)) → "
                + "\(grouped(totals.parametersAfter)) parameters, \(byteText(totals.bytesBefore)) → "
                + byteText(totals.bytesAfter),
            "output error   mean "
                + "\(fixed(100 * errors.reduce(0, +) / Double(max(errors.count, 1)), 1))%, "
                + "largest \(fixed(100 * (errors.max() ?? 0), 1))% of a layer's output",
            "took           \(duration(seconds))",
        ]
        let phases = phases.sorted { $0.key < $1.key }
            .map { "\($0.key) \(fixed($0.value, 1)) s" }
        if !phases.isEmpty { lines.append("phases         " + phases.joined(separator: ", ")) }
        if let peakDeviceBytes {
            lines.append("peak           \(byteText(peakDeviceBytes)) on the device")
        }
        return lines.joined(separator: "\n")
    }
}

extension Compensation: ExpressibleByArgument {
    /// `off`, `auto` or a number from 0 to less than 1.
    public init?(argument: String) {
        do {
            try self.init(argument)
        } catch {
            return nil
        }
    }
}
