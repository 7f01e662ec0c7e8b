import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// The folder of the package, from the path of this file.
func packageFolder(_ file: String = #filePath) -> String {
    "/" + file.split(separator: "/").dropLast(3).joined(separator: "/")
}

/// A tiny random checkpoint of `Tests/Goldens/models`.
func goldenModel(_ name: String) throws -> Checkpoint {
    try Checkpoint(path: "\(packageFolder())/Tests/Goldens/models/\(name)")
}

/// A directory that ends with the test.
final class Scratch {
    let path: String

    init() throws {
        path =
            FileManager.default.temporaryDirectory
            .appending(path: "minima-\(UUID().uuidString)").path
        try FileManager.default.createDirectory(
            atPath: path, withIntermediateDirectories: true)
    }

    deinit {
        try? FileManager.default.removeItem(atPath: path)
    }

    var entries: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }
}

/// Reproducible token ids below `vocabulary`.
func someTokens(_ count: Int, vocabulary: Int, seed: UInt64 = 1) -> [Int32] {
    var state = seed
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int32(state >> 33) % Int32(vocabulary)
    }
}
