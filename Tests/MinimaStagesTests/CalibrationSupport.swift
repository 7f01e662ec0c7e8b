import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

/// Names of all tiny checkpoints of `Tests/Goldens/models`.
let goldenModelNames: [String] = {
    let folder = "\(packageFolder())/Tests/Goldens/models"
    return ((try? FileManager.default.contentsOfDirectory(atPath: folder)) ?? [])
        .filter { FileManager.default.fileExists(atPath: "\(folder)/\($0)/golden.json") }.sorted()
}()

/// Windows of two lengths and two weights for a vocabulary of 64.
let smallSources = [
    CalibrationSource(
        name: "one", windows: (0..<3).map { someTokens(9, vocabulary: 64, seed: 10 + $0) }),
    CalibrationSource(
        name: "two",
        windows: [
            someTokens(9, vocabulary: 64, seed: 20), someTokens(5, vocabulary: 64, seed: 21),
        ],
        weight: 2.5),
]

/// Every number of a layer's statistics.
struct Numbers: Equatable {
    let layer: Int
    let values: [String: [Double]]
    let activations: [ActivationSummary]
    let tokens: [Int]

    init(_ statistics: LayerStatistics) throws {
        layer = statistics.layer
        var values: [String: [Double]] = [:]
        for site in statistics.sites {
            values["\(site.site.name) C"] = try site.input.values()
            for (index, run) in (site.output?.runs ?? []).enumerated() {
                values["\(site.site.name) H \(index)"] = try run.values()
            }
        }
        self.values = values
        activations = statistics.sites.map(\.activations)
        tokens = statistics.sites.map(\.tokens)
    }
}

extension Calibrator {
    /// All statistics, in the order of the visits.
    func collect(
        progress: ProgressHandler = { _ in }, isNeeded: (Int) -> Bool = { _ in true }
    ) throws -> [Numbers] {
        var all: [Numbers] = []
        try run(isNeeded: isNeeded, progress: progress) { statistics, _ in
            all.append(try Numbers(statistics))
        }
        return all
    }
}

/// A calibrator of small batches with gradients of three windows.
func smallCalibrator(
    _ name: String = "qwen3-gqa4-tied-v5", gradientWindows: Int = 3, directory: String? = nil,
    sources: [CalibrationSource] = smallSources, fingerprints: [String: String] = [:],
    change: (inout CalibrationSettings) -> Void = { _ in }
) throws -> Calibrator {
    var settings = CalibrationSettings(gradientWindows: gradientWindows, seed: 7)
    settings.tokensPerPass = 18
    settings.tokensPerGradientPass = 9
    change(&settings)
    return try Calibrator(
        goldenModel(name), sources: sources, settings: settings, fingerprints: fingerprints,
        directory: directory)
}

/// ‖a − b‖ / ‖b‖.
func relativeDistance(_ a: Tensor, _ b: Tensor) throws -> Double {
    let b = try b.to(dtype: .float64)
    return try (a.to(dtype: .float64) - b).norm().item() / b.norm().item()
}
