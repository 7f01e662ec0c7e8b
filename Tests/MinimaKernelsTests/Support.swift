import Glibc
import MinimaCore
import MinimaTensor

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

/// The first CUDA device, with a cache that runs share: each kernel compiles for a second.
enum GPU {
    static let isThere = (try? Device.cudaCount()) ?? 0 > 0

    static let context = Result { () throws(KernelError) in
        let folder = getenv("TMPDIR").map { String(cString: $0) } ?? "/tmp"
        return try CUDAContext(
            device: .cuda(0), cacheDirectory: folder + "/minima-test-kernels",
            constants: KernelConstant.racecheck)
    }
}

extension KernelConstant {
    /// For all kernels under compute-sanitizer's racecheck; see common.cuh, Scripts/test-sanitizer.sh.
    static var racecheck: [String: KernelConstant] {
        getenv("MINIMA_RACECHECK") == nil ? [:] : ["RACECHECK": 1]
    }
}

/// The folder of the CUDA C++ files, in the checkout that these tests were compiled from.
enum SourceFolder {
    private static let path: String = {
        let root = #filePath.split(separator: "/").dropLast(3).joined(separator: "/")
        return "/\(root)/Sources/CMinimaCUDA/cuda"
    }()

    static var isThere: Bool { access(path, R_OK) == 0 }

    static var names: [String] { MinimaKernelsTests.names(in: path) }

    static func read(_ name: String) throws -> [UInt8] { try bytes(of: "\(path)/\(name)") }
}

/// Names of what is in a folder, sorted.
private func names(in path: String) -> [String] {
    guard let folder = opendir(path) else { return [] }
    defer { closedir(folder) }
    var names: [String] = []
    while let entry = readdir(folder) {
        let name = withUnsafePointer(to: &entry.pointee.d_name) {
            $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
        }
        if name != ".", name != ".." { names.append(name) }
    }
    return names.sorted()
}

private func bytes(of path: String) throws -> [UInt8] {
    guard let file = fopen(path, "r") else { throw TemporaryFolder.Failure(reason: path) }
    defer { fclose(file) }
    var bytes: [UInt8] = []
    while case let byte = fgetc(file), byte >= 0 { bytes.append(UInt8(byte)) }
    return bytes
}

/// A folder that ends with its owner.
final class TemporaryFolder: Sendable {
    let path: String

    init() throws {
        var template = Array("/tmp/minima-kernels-XXXXXX".utf8CString)
        guard mkdtemp(&template) != nil else { throw Failure(reason: "mkdtemp failed") }
        path = String(decoding: template.dropLast().map { UInt8(bitPattern: $0) }, as: UTF8.self)
    }

    deinit {
        for name in names(in: path) { unlink("\(path)/\(name)") }
        rmdir(path)
    }

    struct Failure: Error {
        let reason: String
    }

    /// Names of its files, sorted.
    func files(hidden: Bool = false) -> [String] {
        names(in: path).filter { hidden || !$0.hasPrefix(".") }
    }

    func read(_ name: String) throws -> [UInt8] {
        try bytes(of: "\(path)/\(name)")
    }

    func write(_ bytes: [UInt8], to name: String) throws {
        guard let file = fopen("\(path)/\(name)", "w") else { throw Failure(reason: name) }
        defer { fclose(file) }
        guard fwrite(bytes, 1, bytes.count, file) == bytes.count else {
            throw Failure(reason: name)
        }
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
