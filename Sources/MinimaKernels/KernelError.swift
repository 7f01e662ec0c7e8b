import MinimaTensor

/// What can go wrong between a kernel's source and its run.
public enum KernelError: Error, CustomStringConvertible {
    /// The CUDA driver could not be opened.
    case driverNotFound(reason: String)
    /// NVRTC, the run-time compiler, could not be opened; `tried` says where and why.
    case compilerNotFound(tried: [(path: String, reason: String)])
    /// The device is none that the kernels can run on.
    case unsupportedDevice(Device, reason: String)
    /// No embedded file has this name.
    case noSuchSource(name: String, known: [String])
    /// A constant that cannot be handed to the compiler.
    case invalidConstant(name: String, value: String, reason: String)
    /// NVRTC refused a source; `log` is its own.
    case compilationFailed(source: String, options: [String], reason: String, log: String)
    /// A call of the CUDA driver failed; `name` and `text` are the driver's.
    case driverFailed(call: String, code: Int32, name: String, text: String)
    /// A call of NVRTC failed that is not about a source.
    case compilerFailed(call: String, reason: String)
    /// A kernel asks for more than the device has.
    case exceedsDevice(kernel: String, reason: String)
    /// A launch whose arguments are not the kernel's parameters.
    case invalidLaunch(kernel: String, reason: String)
    /// The folder of compiled kernels cannot be used.
    case cacheUnusable(path: String, reason: String)
    /// A graph that cannot be captured or used as asked.
    case graph(reason: String)
    /// libtorch refused.
    case tensor(TensorError)

    /// What was asked, what was found, and what to do.
    public var description: String {
        switch self {
        case .driverNotFound(let reason):
            """
            the CUDA driver could not be opened: \(reason). Install an NVIDIA driver of version 580 or \
            newer (CUDA 13), or compute on the CPU.
            """
        case .compilerNotFound(let tried):
            """
            NVRTC, which compiles the GPU kernels, could not be opened \
            (\(tried.map { "\($0.path): \($0.reason)" }.joined(separator: "; "))). Install it beside \
            torch with `pip install nvidia-cuda-nvrtc==13.0.88`, or name its folder in LD_LIBRARY_PATH.
            """
        case .unsupportedDevice(let device, let reason):
            "the kernels cannot run on \(device): \(reason)"
        case .noSuchSource(let name, let known):
            "there is no kernel file \(name); there are \(known.joined(separator: ", "))"
        case .invalidConstant(let name, let value, let reason):
            "the kernel constant \(name) = \(value) cannot be used: \(reason)"
        case .compilationFailed(let source, let options, let reason, let log):
            """
            \(source) did not compile with \(options.joined(separator: " ")) (\(reason)):
            \(log.isEmpty ? "the compiler gave no message" : log)
            """
        case .driverFailed(let call, let code, let name, let text):
            "\(call) failed: \(name) (\(code)), \(text)\(Self.remedy(name))"
        case .compilerFailed(let call, let reason):
            "NVRTC's \(call) failed: \(reason)"
        case .exceedsDevice(let kernel, let reason):
            "\(kernel) does not fit on the device: \(reason)"
        case .invalidLaunch(let kernel, let reason):
            "\(kernel) cannot be launched so: \(reason)"
        case .cacheUnusable(let path, let reason):
            """
            compiled kernels cannot be kept in \(path): \(reason). Name another folder, or none to \
            compile at each start.
            """
        case .graph(let reason):
            "the CUDA graph cannot be made: \(reason)"
        case .tensor(let error):
            "\(error)"
        }
    }

    private static func remedy(_ name: String) -> String {
        switch name {
        case "CUDA_ERROR_OUT_OF_MEMORY":
            "; free device memory or use a smaller batch or context"
        case "CUDA_ERROR_ILLEGAL_ADDRESS", "CUDA_ERROR_LAUNCH_FAILED",
            "CUDA_ERROR_MISALIGNED_ADDRESS", "CUDA_ERROR_ILLEGAL_INSTRUCTION":
            """
            ; a kernel that ran before is at fault and the device takes no more work in this process; \
            compute-sanitizer names the kernel
            """
        case "CUDA_ERROR_STREAM_CAPTURE_UNSUPPORTED", "CUDA_ERROR_STREAM_CAPTURE_INVALIDATED",
            "CUDA_ERROR_STREAM_CAPTURE_IMPLICIT":
            """
            ; what runs inside a capture may neither allocate device memory nor wait for the device: run \
            it once before, and write results into existing tensors
            """
        case "CUDA_ERROR_NO_BINARY_FOR_GPU", "CUDA_ERROR_INVALID_IMAGE":
            "; the cubin was compiled for another architecture"
        case "CUDA_ERROR_LAUNCH_OUT_OF_RESOURCES":
            "; the kernel needs too many registers or too much shared memory for its block size"
        default: ""
        }
    }

    /// Runs `body`, whose errors become `.tensor`.
    static func wrapping<Result>(
        _ body: () throws(TensorError) -> Result
    ) throws(KernelError) -> Result {
        do throws(TensorError) {
            return try body()
        } catch {
            throw .tensor(error)
        }
    }
}
