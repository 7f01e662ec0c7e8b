import FoundationEssentials
import Glibc
import MinimaCore
import MinimaTensor
import MinimaTestSupport

@testable import MinimaKernels

/// NVRTC of this machine, or why there is none.
enum Compiler {
    static let found = Result { () throws(KernelError) in try KernelCompiler() }

    static var isThere: Bool { (try? found.get()) != nil }

    /// What a skipped suite says.
    static let remedy = """
        NVRTC is not installed: pip install --target .deps/site-packages --no-deps \
        nvidia-cuda-nvrtc==13.0.88
        """
}

/// The first CUDA device.
enum GPU {
    static let isThere = (try? Device.cudaCount()) ?? 0 > 0

    static let context = Result { try CUDAContext.forTests() }
}

/// The folder of the CUDA C++ files, in the checkout that these tests were compiled from.
enum SourceFolder {
    private static let path = packageFolder() + "/Sources/CMinimaCUDA/cuda"

    static var names: [String] {
        ((try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []).sorted()
    }

    static var isThere: Bool { !names.isEmpty }

    static func read(_ name: String) throws -> [UInt8] {
        try Array(Data(contentsOf: URL(filePath: "\(path)/\(name)")))
    }
}

extension Scratch {
    /// Names of what is in it and not hidden, sorted.
    var shown: [String] { entries.filter { !$0.hasPrefix(".") } }

    func read(_ name: String) throws -> [UInt8] {
        try Array(Data(contentsOf: URL(filePath: "\(path)/\(name)")))
    }

    /// Sets when a file was used last, `seconds` ago.
    func age(_ name: String, by seconds: Int) {
        let then = timespec(tv_sec: time(nil) - seconds, tv_nsec: 0)
        _ = [then, then].withUnsafeBufferPointer {
            utimensat(AT_FDCWD, "\(path)/\(name)", $0.baseAddress, 0)
        }
    }
}

/// y[i] = FACTOR · x[i] + shift, for i < count.
let scale = KernelSource(
    name: "scale.cu",
    text: """
        extern "C" __global__ void scale(
            float* y, const float* x, const float shift, const int count
        ) {
            const int i = blockIdx.x * blockDim.x + threadIdx.x;
            if (i < count) y[i] = FACTOR * x[i] + shift;
        }
        """)
