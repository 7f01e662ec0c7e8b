import ArgumentParser
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaStages

struct Plan: ParsableCommand {
    static let configuration = CommandConfiguration(
        abstract: "Chooses a format for every part of a model, within a limit.",
        discussion: """
            Reads what `minima analyze` learned and writes plan.json, which a person can edit and \
            `minima compress --plan` executes. Give one target: --ratio, --total-ratio, --bytes, \
            --bits-per-weight, or --vram with --context and --requests. Decoding times that \
            `minima bench` measured can limit what it chooses: --costs with --no-slower, \
            --linear-us or --speed-up.
            """)

    @Argument(help: "Directory that `minima analyze` wrote.", completion: .directory)
    var analysis: String

    @Option(help: "Plan to write.", completion: .file())
    var out: String

    @OptionGroup var target: TargetOptions
    @OptionGroup var choices: ChoiceOptions
    @OptionGroup var speed: SpeedOptions

    @Flag(help: "Show where the budget went and why.")
    var explain = false

    @Flag(help: "Print JSON: the plan's explanation.")
    var json = false

    func run() throws {
        let analysis = try readResult(Analysis.self, analysisFile(analysis))
        let planner = try Planner(analysis, head: choices.plannedHead(analysis))
        var request = try choices.request(target.planTarget(), analysis)
        request.speed = try speed.demands(requests: target.requests)
        let (plan, explanation) = try planner.plan(request)
        try AtomicFile.write(plan.json() + "\n", to: out)
        if json { return try explanation.printJSON() }
        let before = Double(plan.linearParametersBefore)
        try Terminal.output(
            """
            \(out): \(plan.modules.count) modules for \(plan.target)
            linear layers  \(grouped(plan.linearParametersBefore)) → \
            \(grouped(plan.linearParametersAfter)) numbers \
            (−\(fixed(100 * (1 - Double(plan.linearParametersAfter) / before), 1))%), \
            \(byteText(plan.linearBytesBefore)) → \(byteText(plan.linearBytesAfter)) \
            (\(fixed(Double(plan.linearBytesAfter) * 8 / before, 2)) bits per weight)
            predicted      \(fixed(explanation.damage, 4)) nats per token; no choice of these \
            options does less than \(fixed(explanation.bound, 4))
            """)
        if let head = plan.modules.last(where: { $0.name == LinearShape.headName }) {
            try Terminal.output(
                "\(head.name)        \(head.spec.title), \(byteText(head.bytes)), beside these")
        }
        if let decoding = explanation.decoding { try Terminal.output(decoding.line) }
        guard explain else { return }
        try Terminal.output("\n" + explanation.text(frontier: frontier(planner, request)))
    }

    /// What neighbouring targets would cost, so that a person sees what the limit is worth.
    private func frontier(_ planner: Planner, _ request: Planner.Request) throws
        -> [PlanExplanation]
    {
        try target.neighbours().compactMap { target in
            var request = request
            request.target = target
            do {
                return try planner.plan(request).explanation
            } catch {
                // A neighbour that cannot be met is no error of this plan.
                guard case .infeasible? = error as? StageError else { throw error }
                return nil
            }
        }
    }
}

/// How small a plan has to be.
struct TargetOptions: ParsableArguments {
    @Option(help: "Share of the linear layers' parameters to remove, between 0 and 1.")
    var ratio: Double?

    @Option(help: "Share of all parameters to remove, between 0 and 1.")
    var totalRatio: Double?

    @Option(help: "Bytes of the whole model's weights.")
    var bytes: Int?

    @Option(help: "Bits per weight of the linear layers, scales and indices included.")
    var bitsPerWeight: Double?

    @Option(help: "Memory of the serving card, GiB.")
    var vram: Double?

    @Option(help: "With --vram: tokens of each request.")
    var context = 8192

    @Option(help: "With --vram or --costs: requests at once.")
    var requests = 1

    func validate() throws {
        let given = [
            ratio != nil, totalRatio != nil, bytes != nil, bitsPerWeight != nil, vram != nil,
        ].count { $0 }
        guard given == 1 else {
            throw ValidationError(
                "give one of --ratio, --total-ratio, --bytes, --bits-per-weight and --vram, "
                    + "found \(given == 0 ? "none" : "\(given)")")
        }
        for (name, value) in [("--ratio", ratio), ("--total-ratio", totalRatio)] {
            if let value, !(value > 0 && value < 1) {
                throw ValidationError("\(name) must be between 0 and 1, found \(value)")
            }
        }
        if let bytes, !(1...1 << 60).contains(bytes) {
            throw ValidationError("--bytes must be between 1 and \(1 << 60)")
        }
        if let bitsPerWeight, !(bitsPerWeight > 0 && bitsPerWeight <= 64) {
            throw ValidationError("--bits-per-weight must be between 0 and 64")
        }
        if let vram, !(vram > 0 && vram < 1e6) {
            throw ValidationError("--vram must be a positive number of GiB")
        }
        guard (1...1 << 24).contains(context), (1...1 << 20).contains(requests) else {
            throw ValidationError("--context and --requests must be positive")
        }
    }

    func planTarget() -> PlanTarget {
        if let ratio { return .ratio(ratio) }
        if let totalRatio { return .totalRatio(totalRatio) }
        if let bytes { return .bytes(bytes) }
        if let bitsPerWeight { return .bitsPerWeight(bitsPerWeight) }
        return .memory(
            bytes: Int((vram ?? 0) * Double(1 << 30)), context: context, requests: requests)
    }

    /// Targets around the given one.
    func neighbours() -> [PlanTarget] {
        let steps = [-2.0, -1, 1, 2]
        switch planTarget() {
        case .ratio(let value):
            return steps.map { value + 0.05 * $0 }.filter { $0 > 0 && $0 < 1 }.map { .ratio($0) }
        case .totalRatio(let value):
            return steps.map { value + 0.05 * $0 }.filter { $0 > 0 && $0 < 1 }
                .map { .totalRatio($0) }
        case .bytes(let value): return steps.map { .bytes(Int(Double(value) * (1 + 0.1 * $0))) }
        case .bitsPerWeight(let value):
            return steps.map { .bitsPerWeight(value * (1 + 0.1 * $0)) }
        case .memory(let bytes, let context, let requests):
            return steps.map {
                .memory(
                    bytes: Int(Double(bytes) * (1 + 0.1 * $0)), context: context,
                    requests: requests)
            }
        }
    }
}

/// What a plan may choose from.
struct ChoiceOptions: ParsableArguments {
    @Option(
        parsing: .upToNextOption,
        help: """
            Formats to choose from: registered names, `tn` (tucker, tt, tr) or `factored`. Default: \
            all.
            """)
    var formats: [String] = []

    @Option(
        parsing: .upToNextOption,
        help: "Modules that stay dense: names, or endings such as down_proj.")
    var protect: [String] = []

    @Option(
        parsing: .upToNextOption,
        help: "Ways to cut sites: stacked, members, patches. Default: all.")
    var cuts: [String] = []

    @Option(help: "Least share of its uniform budget that any piece keeps.")
    var floor = 0.0

    @Option(help: "Most predicted damage of one piece, nats per token.")
    var damageCap: Double?

    @Option(help: "Ranks are multiples of this.")
    var align = 1

    @Option(
        help: """
            Store the output projection as codes in groups of 64: int8, int4…, with a u behind it \
            at equally spaced levels, or fp8. It counts for --total-ratio, --bytes and --vram. \
            Default: as it is.
            """)
    var head: CodeChoice?

    func validate() throws {
        for cut in cuts where !["stacked", "members", "patches"].contains(cut) {
            throw ValidationError("--cuts takes stacked, members and patches, found \(cut)")
        }
        guard (0...1).contains(floor) else {
            throw ValidationError("--floor must be between 0 and 1")
        }
        if let damageCap, !(damageCap >= 0) {
            throw ValidationError("--damage-cap must not be negative, found \(damageCap)")
        }
        try head?.check(for: "--head")
        guard align >= 1 else { throw ValidationError("--align must be at least 1") }
    }

    /// What ``head`` names, of the sizes in the model's config.json.
    func plannedHead(_ analysis: Analysis) throws -> PlannedHead? {
        try head.map {
            try PlannedHead(
                bits: $0.bits, levels: $0.levels,
                of: ModelConfig(path: analysis.model + "/config.json"),
                dtype: analysis.dtype)
        }
    }

    func request(_ target: PlanTarget, _ analysis: Analysis) throws -> Planner.Request {
        Planner.Request(
            target: target, formats: try FormatFilter(formats), protected: protect, cuts: cuts,
            floor: floor, damageCap: damageCap ?? .infinity, alignment: align,
            version: Minima.versionNumber)
    }
}

/// What measured decoding times ask of a plan.
struct SpeedOptions: ParsableArguments {
    @Option(
        help: "Decoding times that `minima bench` measured: show what the plan takes.",
        completion: .file())
    var costs: String?

    @Flag(help: "With --costs: nothing that decodes slower than the dense layer in its place.")
    var noSlower = false

    @Option(
        help: "With --costs: microseconds that all linear layers may take for a decode step.")
    var linearUs: Double?

    @Option(help: "With --costs: how many times as fast as dense all linear layers decode.")
    var speedUp: Double?

    func validate() throws {
        guard costs != nil || !noSlower && linearUs == nil && speedUp == nil else {
            throw ValidationError("--no-slower, --linear-us and --speed-up need --costs")
        }
        guard linearUs == nil || speedUp == nil else {
            throw ValidationError("give one of --linear-us and --speed-up")
        }
        if let linearUs, !(linearUs > 0 && linearUs < 1e12) {
            throw ValidationError("--linear-us must be positive, found \(linearUs)")
        }
        if let speedUp, !(speedUp > 0 && speedUp < 1e6) {
            throw ValidationError("--speed-up must be positive, found \(speedUp)")
        }
    }

    func demands(requests: Int) throws -> PlanSpeed? {
        guard let costs else { return nil }
        let times: DecodeTimes
        do {
            times = try DecodeTimes(readResult(DecodeCosts.self, costs))
        } catch let error as DecodeCostsError {
            throw FileError(path: costs, reason: "\(error)")
        }
        let limit =
            linearUs.map { PlanSpeed.Limit.nanoseconds(Int(($0 * 1000).rounded())) }
            ?? speedUp.map { .speedUp($0) }
        return PlanSpeed(times: times, tokens: requests, noSlower: noSlower, limit: limit)
    }
}

/// The analysis in a directory that `minima analyze` wrote, or the file itself.
func analysisFile(_ path: String) -> String {
    path.hasSuffix(".json") ? path : path + "/analysis.json"
}

/// Reads a result that another command wrote.
func readResult<Result: StageResult>(_ type: Result.Type, _ path: String) throws -> Result {
    let text = try readText(path)
    do {
        return try Result(json: text)
    } catch {
        throw FileError(path: path, reason: "\(error)")
    }
}

/// A file whose content is no use.
struct FileError: Error, CustomStringConvertible {
    let path: String
    let reason: String

    var description: String { "\(path): \(reason)" }
}

extension PlanExplanation {
    /// Tables for a terminal.
    func text(frontier: [PlanExplanation]) -> String {
        var lines = ["where the budget went:"]
        for role in roles {
            let formats = role.formats.sorted { ($1.value, $0.key) < ($0.value, $1.key) }
                .map { "\($0.value) × \($0.key)" }.joined(separator: ", ")
            lines.append(
                "  \(role.name.padded(14)) \(role.compressed)/\(role.count) compressed, "
                    + "\(fixed(100 * role.kept, 1))% of the bytes, "
                    + "\(fixed(role.damage, 4)) nats: \(formats.isEmpty ? "dense" : formats)")
        }
        lines.append("what costs most:")
        for module in worst {
            let kept = Double(module.parameters) / Double(module.outputs * module.inputs)
            lines.append(
                "  \(module.name.padded(36)) \(fixed(module.damage ?? 0, 4)) nats as "
                    + "\(module.spec.title), \(fixed(100 * kept, 0))% of the numbers")
        }
        if let excluded = decoding?.excluded, !excluded.isEmpty {
            lines.append("options that decoding times rule out:")
            for entry in excluded { lines.append("  \(entry.format.padded(24)) \(entry.reason)") }
        }
        if !frontier.isEmpty {
            lines.append("what neighbouring targets would cost:")
            for other in frontier {
                lines.append("  \(other.target.padded(24)) \(fixed(other.damage, 4)) nats")
            }
        }
        return lines.joined(separator: "\n")
    }
}

extension PlanExplanation.Decoding {
    /// What the linear layers take, in a line.
    fileprivate var line: String {
        let dense = Double(denseNanoseconds)
        let own =
            nanoseconds.map {
                "\(microseconds(dense)) → \(microseconds(Double($0))) µs "
                    + "(\(fixed(dense / Double(max($0, 1)), 2)) times as fast)"
            }
            ?? "\(microseconds(dense)) µs dense, the plan has \(unmeasured) pieces of unknown time"
        return "decoding       \(own), linear layers with --requests \(tokens) on \(card)"
    }

    private func microseconds(_ nanoseconds: Double) -> String { fixed(nanoseconds / 1000, 1) }
}

extension PlanExplanation.Excluded {
    /// Why these options were none.
    fileprivate var reason: String {
        var parts: [String] = []
        if let least, let most {
            parts.append(
                "\(slower) slower than dense (\(fixed(least, 2)) to \(fixed(most, 2)) times "
                    + "its time)")
        }
        if inSlowCuts > 0 { parts.append("\(inSlowCuts) in cuts slower than the whole") }
        if unmeasured > 0 { parts.append("\(unmeasured) not measured") }
        return parts.joined(separator: ", ")
    }
}

extension String {
    /// This text with spaces up to `width`.
    fileprivate func padded(_ width: Int) -> String {
        self + String(repeating: " ", count: max(width - count, 0))
    }
}
