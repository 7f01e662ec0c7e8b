import FoundationEssentials
import MinimaKernels
import MinimaTensor

extension CUDAContext {
    /// The first GPU, with a cache that tests and runs share: they have most kernels in common, and each
    /// compiles for a second. With `MINIMA_RACECHECK` kernels are those for compute-sanitizer's
    /// racecheck; see common.cuh and Scripts/test-sanitizer.sh.
    public static func forTests() throws -> CUDAContext {
        let cache = FileManager.default.temporaryDirectory.path + "/minima-test-kernels"
        let isRacecheck = ProcessInfo.processInfo.environment["MINIMA_RACECHECK"] != nil
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: cache,
            constants: isRacecheck ? ["RACECHECK": 1] : [:])
    }
}
