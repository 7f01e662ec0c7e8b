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
    /// one down. Racecheck has kernels of its own, see common.cuh.
    ///
    /// - Parameters:
    ///   - ofModels: Whether whole models are run, the small ones of tests: under a tool kernels are
    ///     cut for 16 multiprocessors then, so that processes beside this one find place on the device.
    ///   - cacheDirectory: Another cache.
    public static func forTests(
        ofModels: Bool = false, cacheDirectory: String? = nil
    ) throws -> CUDAContext {
        let shared = FileManager.default.temporaryDirectory.path + "/minima-test-kernels"
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: cacheDirectory ?? shared,
            constants: isRacechecked ? ["RACECHECK": 1] : [:], kernelsOverlap: tool == nil,
            multiprocessors: ofModels && tool != nil ? 16 : nil)
    }
}
