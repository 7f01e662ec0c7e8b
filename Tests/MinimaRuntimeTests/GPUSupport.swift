import FoundationEssentials
import MinimaKernels
import MinimaTensor

extension CUDAContext {
    /// The first GPU, with a cache that tests share: they have most kernels in common, and each compiles for
    /// a second.
    static func forTests() throws -> CUDAContext {
        let cache = FileManager.default.temporaryDirectory.path + "/minima-test-kernels"
        // See common.cuh, Scripts/test-sanitizer.sh.
        let isRacecheck = ProcessInfo.processInfo.environment["MINIMA_RACECHECK"] != nil
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: cache,
            constants: isRacecheck ? ["RACECHECK": 1] : [:])
    }
}
