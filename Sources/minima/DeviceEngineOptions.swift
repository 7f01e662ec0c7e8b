import ArgumentParser
import FoundationEssentials
import MinimaKernels
import MinimaTensor

/// How the decode engine on a GPU is made.
struct DeviceEngineOptions: ParsableArguments {
    @Option(help: "Type of stored keys and values on a GPU: bfloat16 or float8.")
    var kvDtype = CacheChoice.bfloat16

    @Option(
        help: """
            GiB that weights, keys and values and everything between the layers may take together. \
            Default: what is free.
            """)
    var vram: Double?

    @Option(
        help: "Where compiled kernels are kept. Default: minima/kernels in the user's cache.",
        completion: .directory)
    var kernelCache: String?

    func validate() throws {
        if let vram, !(vram > 0 && vram <= 1_048_576) {
            throw ValidationError("--vram must be above 0 and at most 1048576 GiB, found \(vram)")
        }
    }

    /// Bytes of ``vram``.
    var limit: Int? { vram.map { Int($0 * Double(1 << 30)) } }

    /// The kernels of a GPU.
    func kernels(on device: Device) throws -> CUDAContext {
        try CUDAContext(device: device, cacheDirectory: kernelCache ?? Self.userDirectory())
    }

    /// As the XDG base directory specification places it; `nil` without a home.
    private static func userDirectory() -> String? {
        let environment = ProcessInfo.processInfo.environment
        let cache = environment["XDG_CACHE_HOME"].flatMap { $0.hasPrefix("/") ? $0 : nil }
        let home = environment["HOME"].flatMap { $0.isEmpty ? nil : $0 + "/.cache" }
        return (cache ?? home).map { $0 + "/minima/kernels" }
    }
}

/// The types that keys and values can have.
enum CacheChoice: String, ExpressibleByArgument, CaseIterable, CustomStringConvertible {
    case bfloat16, float8

    var description: String { rawValue }

    var format: KeyValueFormat {
        switch self {
        case .bfloat16: .bfloat16
        case .float8: .float8
        }
    }
}
