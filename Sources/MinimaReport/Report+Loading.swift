import FoundationEssentials
import MinimaCore

extension Report {
    /// A report on stored results, each as `--json` printed it, in any order.
    ///
    /// A compressed or healed checkpoint's directory stands for the `minima.json` in it.
    ///
    /// - Throws: `ReportError`, which names the file.
    public static func load(files: [String]) throws -> Report {
        var inspections: [InspectionResult] = []
        var evaluations: [EvaluationResult] = []
        var compressions: [(result: CompressionResult, directory: String?)] = []
        var generations: [GenerationResult] = []
        var analyses: [Analysis] = []
        var plans: [CompressionPlan] = []
        var ablations: [AblationResult] = []
        var healings: [(result: HealingResult, directory: String?)] = []
        var benches: [BenchResult] = []
        var costs: [DecodeCosts] = []
        var speeds: [SpeedResult] = []
        for file in files {
            let (path, text) = try read(file)
            do {
                let kind = try JSON(parsing: text)["kind"]?.string
                switch kind {
                case InspectionResult.kind: inspections.append(try .init(json: text))
                case EvaluationResult.kind: evaluations.append(try .init(json: text))
                case CompressionResult.kind:
                    compressions.append((try .init(json: text), directory(ofRecord: path)))
                case GenerationResult.kind: generations.append(try .init(json: text))
                case Analysis.kind: analyses.append(try .init(json: text))
                case CompressionPlan.kind: plans.append(try .init(json: text))
                case AblationResult.kind: ablations.append(try .init(json: text))
                case HealingResult.kind:
                    healings.append((try .init(json: text), directory(ofRecord: path)))
                case BenchResult.kind: benches.append(try .init(json: text))
                case DecodeCosts.kind: costs.append(try .init(json: text))
                case SpeedResult.kind: speeds.append(try .init(json: text))
                default: throw ReportError.unknownKind(path: path, found: kind)
                }
            } catch let error as ReportError {
                throw error
            } catch {
                throw ReportError.malformed(path: path, reason: "\(error)")
            }
        }
        return Report(
            title: nil, inspections: inspections, evaluations: evaluations,
            compressions: compressions, generations: generations, analyses: analyses,
            plans: plans, ablations: ablations, healings: healings, benches: benches, costs: costs,
            speeds: speeds)
    }

    /// The largest file that can be a result; a weight file given by mistake is not read.
    ///
    /// An analysis of Qwen3-32B with 60 options in each of 18 pieces per site has 312 MB.
    static let maximumBytes = 1 << 30

    private static func read(_ file: String) throws -> (path: String, text: String) {
        let files = FileManager.default
        var isDirectory = false
        guard files.fileExists(atPath: file, isDirectory: &isDirectory) else {
            throw ReportError.unreadable(path: file, reason: "there is no such file")
        }
        let path = isDirectory ? "\(file)/\(record)" : file
        if isDirectory, !files.fileExists(atPath: path) {
            throw ReportError.unreadable(
                path: file, reason: "this directory has no \(record), so minima did not write it")
        }
        let bytes: [UInt8]
        do {
            bytes = try readFile(path, limit: maximumBytes)
        } catch {
            throw ReportError.unreadable(path: path, reason: error.reason)
        }
        guard let text = String(validating: bytes, as: UTF8.self) else {
            throw ReportError.malformed(path: path, reason: "not UTF-8")
        }
        return (path, text)
    }

    /// The name under which a compressed or healed checkpoint keeps its account.
    private static let record = "minima.json"

    private static func directory(ofRecord path: String) -> String? {
        path.hasSuffix("/\(record)") ? String(path.dropLast(record.count + 1)) : nil
    }
}

/// Why a file cannot be part of a report.
public enum ReportError: Error, Hashable, CustomStringConvertible {
    case unreadable(path: String, reason: String)
    case malformed(path: String, reason: String)
    case unknownKind(path: String, found: String?)

    /// The file, what is wrong with it and what belongs there.
    public var description: String {
        switch self {
        case .unreadable(let path, let reason):
            "\(path): \(reason); give files that minima wrote with --json, or a model that it compressed or healed"
        case .malformed(let path, let reason):
            "\(path): \(reason)"
        case .unknownKind(let path, let found):
            "\(path): \(found.map { "results of kind \"\($0)\" are unknown" } ?? "\"kind\" is missing"); "
                + "the kinds are \(Self.kinds.joined(separator: ", "))"
        }
    }

    private static let kinds = [
        InspectionResult.kind, EvaluationResult.kind, CompressionResult.kind, GenerationResult.kind,
        Analysis.kind, CompressionPlan.kind, AblationResult.kind, HealingResult.kind,
        BenchResult.kind, DecodeCosts.kind, SpeedResult.kind,
    ]
}
