import ArgumentParser
import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaStages
import MinimaTensor
import MinimaTokenizer

struct Ablate: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Compares ways to make a model as small: step by step, and family by family.",
        discussion: """
            At equal parameters: uniform ranks, + sensitivity, + mixed families, + quantised cores, \
            and each family alone beside their mixture. At equal bytes: the same against plain \
            quantisation and everything together. Each is planned, compressed and measured.
            """)

    @Argument(help: "Dense model directory.", completion: .directory)
    var model: String

    @Option(help: "Directory that `minima analyze` wrote for it.", completion: .directory)
    var analysis: String

    @Option(help: "Share of the linear layers' parameters to remove, between 0 and 1.")
    var ratio = 0.35

    @Option(parsing: .upToNextOption, help: "Texts to measure on (UTF-8).", completion: .file())
    var text: [String]

    @Option(help: "Tokens per window of the measurement. Default: 1024, or the model's context.")
    var window: Int?

    @Option(help: "Measure only the first windows of each text, this many.")
    var windows: Int?

    @Option(help: "How earlier layers' errors are made up for: off, auto or a share below 1.")
    var compensation = Compensation.standard

    @OptionGroup var calibration: CalibrationOptions
    @OptionGroup var compute: ComputeOptions

    @Option(help: "Result to write (JSON).", completion: .file())
    var out: String

    @Option(help: "Keep the compressed models in this directory.", completion: .directory)
    var keep: String?

    func validate() throws {
        guard ratio > 0, ratio < 1 else {
            throw ValidationError("--ratio must be between 0 and 1, found \(ratio)")
        }
        guard !text.isEmpty else { throw ValidationError("--text needs at least one file") }
        if let windows, windows < 1 { throw ValidationError("--windows must be at least 1") }
        if let window, !(2...1 << 24).contains(window) {
            throw ValidationError("--window must be between 2 and \(1 << 24)")
        }
    }

    func run() throws {
        let device = try compute.open()
        catchInterrupts()
        let bench = try AblationBench(self, device)
        var rows: [AblationResult.Row] = []
        for way in AblationWay.all(ratio: ratio, dtype: bench.analysis.dtype) {
            guard let row = try bench.measure(way) else { continue }
            rows.append(row)
            try Terminal.output(bench.line(row))
            // Written after every row: what was measured is not lost with the rest.
            try AtomicFile.write(bench.result(rows).json() + "\n", to: out)
        }
    }
}
