import FoundationEssentials
import MinimaKernels
import MinimaTensor

/// The tool of compute-sanitizer that the tests run under, see Scripts/test-sanitizer.sh.
private let tool = ProcessInfo.processInfo.environment["MINIMA_CUDA_TOOL"]
private var isRacechecked: Bool { tool == "racecheck" }

/// `few` under racecheck, which takes processor seconds for each step of the smallest model: later steps launch
/// the same kernels again.
public func underRacecheck<Value>(_ few: Value, otherwise many: Value) -> Value {
    isRacechecked ? few : many
}

extension CUDAContext {
    /// The first GPU, with a cache that tests and runs share: they have most kernels in common, and each
    /// compiles for a second.
    ///
    /// Under a tool of compute-sanitizer kernels do not overlap: one that waits for the one ahead slows that
    /// one down. Racecheck has kernels of its own, see common.cuh. `MINIMA_CUDA_MULTIPROCESSORS` are the most
    /// that kernels are cut for.
    public static func forTests() throws -> CUDAContext {
        let cache = FileManager.default.temporaryDirectory.path + "/minima-test-kernels"
        let environment = ProcessInfo.processInfo.environment
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: cache,
            constants: isRacechecked ? ["RACECHECK": 1] : [:], kernelsOverlap: tool == nil,
            multiprocessors: environment["MINIMA_CUDA_MULTIPROCESSORS"].flatMap { Int($0) })
    }
}
