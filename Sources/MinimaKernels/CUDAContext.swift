import CMinimaCUDA
import MinimaTensor
import Synchronization

/// A CUDA device as the kernels see it: its limits and its compiled kernels.
///
/// Kernels run in the device's primary context, which libtorch uses too, so tensors and streams are
/// common to both. Every method may be called from any thread and leaves the thread's current
/// device as it was.
public final class CUDAContext: Sendable {
    /// The driver's name of the device, such as `NVIDIA H200`.
    public let name: String
    /// What kernels are compiled for, such as `sm_90a`.
    public let architecture: String
    /// Multiprocessors that kernels are cut for, the device's or fewer.
    public let multiprocessors: Int
    /// The most bytes of shared memory that one block can have.
    public let sharedPerBlock: Int
    /// Bytes of shared memory of a multiprocessor; each block takes 1 KiB more than it asks for.
    public let sharedPerMultiprocessor: Int
    /// Where compiled kernels are kept on disk; `nil` when each process compiles anew.
    public let cache: KernelCache?

    let primary: PrimaryContext
    let kernelsOverlap: Bool
    private let compiler = Mutex<KernelCompiler?>(nil)
    private let kernels = Mutex<[Request: KernelPlace]>([:])
    private let constants: [String: KernelConstant]

    private struct Request: Hashable {
        let source: KernelSource
        let entry: String
        let constants: [String: KernelConstant]
        let sharedBytes: Int
        let registers: Int?
    }

    /// Opens a device.
    ///
    /// - Parameters:
    ///   - device: A CUDA device.
    ///   - cacheDirectory: Where compiled kernels are kept; `nil` to compile in each process. It is
    ///     made when it is absent.
    ///   - constants: Preprocessor definitions for all kernels, beside their own.
    ///   - kernelsOverlap: Whether kernels whose launch asks for it start before the one ahead of them ends.
    ///   - multiprocessors: The most multiprocessors to cut kernels for, 1 or more; `nil` for all that there
    ///     are.
    /// - Throws: `KernelError` when the driver, the device or the folder cannot be used.
    public init(
        device: Device, cacheDirectory: String?, constants: [String: KernelConstant] = [:],
        kernelsOverlap: Bool = true, multiprocessors: Int? = nil
    ) throws(KernelError) {
        precondition(multiprocessors ?? 1 > 0, "kernels need a multiprocessor")
        let primary = try PrimaryContext(device: device)
        let major = try primary.attribute(MINIMA_CUDA_CAPABILITY_MAJOR)
        let minor = try primary.attribute(MINIMA_CUDA_CAPABILITY_MINOR)
        guard major >= 8 else {
            throw .unsupportedDevice(
                device,
                reason: """
                    its compute capability is \(major).\(minor), the kernels need 8.0 (A100) or newer; \
                    compute through libtorch
                    """)
        }
        if let cacheDirectory {
            cache = try KernelCache(directory: cacheDirectory)
        } else {
            cache = nil
        }
        name = try primary.name()
        architecture = Self.architecture(major: major, minor: minor)
        let present = try primary.attribute(MINIMA_CUDA_MULTIPROCESSORS)
        self.multiprocessors = min(multiprocessors ?? present, present)
        sharedPerBlock = try primary.attribute(MINIMA_CUDA_SHARED_PER_BLOCK)
        sharedPerMultiprocessor = try primary.attribute(MINIMA_CUDA_SHARED_PER_MULTIPROCESSOR)
        self.primary = primary
        self.constants = constants
        self.kernelsOverlap = kernelsOverlap
    }

    /// The device.
    public var device: Device { primary.device }

    /// The compiler's name of a compute capability. From 9.0 on, kernels use the instructions of
    /// that very architecture (`a`).
    static func architecture(major: Int, minor: Int) -> String {
        "sm_\(major)\(minor)\(major >= 9 ? "a" : "")"
    }

    /// Compiles a kernel, or finds it compiled in this object or in the cache on disk.
    ///
    /// - Parameters:
    ///   - source: An embedded file, or a text of one's own.
    ///   - entry: The name of an `extern "C" __global__` function in it.
    ///   - constants: Preprocessor definitions that specialise it.
    ///   - sharedBytes: Dynamic shared memory of each block.
    ///   - registers: The most registers a thread may have; `nil` leaves it to the source.
    /// - Throws: `KernelError`, with the compiler's log where it refuses the source.
    public func kernel(
        _ source: KernelSource, entry: String, constants: [String: KernelConstant] = [:],
        sharedBytes: Int = 0, registers: Int? = nil
    ) throws(KernelError) -> Kernel {
        let constants = self.constants.merging(constants) { $1 }
        let request = Request(
            source: source, entry: entry, constants: constants, sharedBytes: sharedBytes,
            registers: registers)
        let place = kernels.withLock { kernels in
            if let place = kernels[request] { return place }
            let place = KernelPlace()
            kernels[request] = place
            return place
        }
        return try place.kernel { () throws(KernelError) in
            let cubin = try openCompiler().cubin(
                source, architecture: architecture, constants: constants, registers: registers,
                cache: cache)
            return try Kernel(
                cubin, name: "\(entry) of \(source.name)", entry: entry,
                sharedBytes: sharedBytes, context: self)
        }
    }

    private func openCompiler() throws(KernelError) -> KernelCompiler {
        try compiler.withLock { compiler -> Result<KernelCompiler, KernelError> in
            if let compiler { return .success(compiler) }
            do throws(KernelError) {
                let opened = try KernelCompiler()
                compiler = opened
                return .success(opened)
            } catch {
                return .failure(error)
            }
        }.get()
    }
}

/// A kernel that threads ask for: the first compiles it, the others wait for it.
private final class KernelPlace: Sendable {
    private let found = Mutex<Kernel?>(nil)

    func kernel(_ make: () throws(KernelError) -> Kernel) throws(KernelError) -> Kernel {
        try found.withLock { found -> Result<Kernel, KernelError> in
            if let found { return .success(found) }
            do throws(KernelError) {
                let kernel = try make()
                found = kernel
                return .success(kernel)
            } catch {
                return .failure(error)
            }
        }.get()
    }
}
