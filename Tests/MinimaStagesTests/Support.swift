import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import MinimaTestSupport

/// A tiny random checkpoint of `Tests/Goldens/models`.
func goldenModel(_ name: String) throws -> Checkpoint {
    try Checkpoint(path: "\(packageFolder())/Tests/Goldens/models/\(name)")
}

/// Reproducible token ids below `vocabulary`.
func someTokens(_ count: Int, vocabulary: Int, seed: UInt64 = 1) -> [Int32] {
    var state = seed
    return (0..<count).map { _ in
        state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
        return Int32(state >> 33) % Int32(vocabulary)
    }
}
