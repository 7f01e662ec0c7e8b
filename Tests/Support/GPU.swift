import FoundationEssentials
import MinimaKernels
import MinimaTensor

extension CUDAContext {
    /// The first GPU, with a cache that tests and runs share: they have most kernels in common, and each
    /// compiles for a second.
    ///
    /// `MINIMA_CUDA_TOOL` names the tool of compute-sanitizer that the tests run under, see
    /// Scripts/test-sanitizer.sh. Kernels do not overlap then: under a tool one that waits for the one ahead
    /// slows that one down. Racecheck has kernels of its own, see common.cuh.
    public static func forTests() throws -> CUDAContext {
        let cache = FileManager.default.temporaryDirectory.path + "/minima-test-kernels"
        let tool = ProcessInfo.processInfo.environment["MINIMA_CUDA_TOOL"]
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: cache,
            constants: tool == "racecheck" ? ["RACECHECK": 1] : [:], kernelsOverlap: tool == nil)
    }
}
