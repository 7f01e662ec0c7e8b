import CMinimaCUDA
import Glibc
import MinimaCore
import MinimaTensor

/// Machine code of one kernel source for one architecture.
public struct Cubin: Sendable {
    /// Where machine code came from.
    public enum Origin: Sendable {
        /// Compiled by another process, or by this one before.
        case cache
        /// Compiled now; and stored, where there is a cache.
        case compiler
        /// Compiled now; the cache did not take it, so the next process compiles again.
        case compilerOnly(KernelError)
    }

    /// An ELF file.
    public let bytes: [UInt8]
    /// Where it came from.
    public let origin: Origin
}

/// NVRTC, which compiles CUDA C++ in this process. It needs neither a GPU nor a driver.
public final class KernelCompiler: Sendable {
    /// Major and minor version, such as `13.0`.
    public let version: String
    /// Architectures that it compiles for, ascending: 80, 86, …
    public let architectures: [Int]

    // Filled once, never written again; NVRTC takes calls from any thread.
    private nonisolated(unsafe) let table: UnsafeMutablePointer<minima_nvrtc>

    static let fileName = "libnvrtc.so.13"

    /// Opens NVRTC: beside the torch package in use, as pip lays it there, or by the dynamic
    /// linker's search path.
    public convenience init() throws(KernelError) {
        let folder = try KernelError.wrapping { () throws(TensorError) in
            try Torch.libraryFolder()
        }
        try self.init(libraries: [
            "\(folder)/../../nvidia/cu13/lib/\(Self.fileName)",
            "\(folder)/\(Self.fileName)",
            Self.fileName,
        ])
    }

    /// Opens the first of these files that opens.
    public init(libraries: [String]) throws(KernelError) {
        var tried: [(path: String, reason: String)] = []
        for path in libraries {
            var message: UnsafeMutablePointer<CChar>?
            guard let table = minima_cuda_open_nvrtc(path, &message) else {
                tried.append((path, message.map { String(cString: $0) } ?? "no reason given"))
                free(message)
                continue
            }
            self.table = table
            var (major, minor, count): (Int32, Int32, Int32) = (0, 0, 0)
            try Self.check("nvrtcVersion", table.pointee.version(&major, &minor), table)
            try Self.check(
                "nvrtcGetNumSupportedArchs", table.pointee.architecture_count(&count), table)
            var known = [Int32](repeating: 0, count: Int(max(count, 0)))
            try Self.check("nvrtcGetSupportedArchs", table.pointee.architectures(&known), table)
            version = "\(major).\(minor)"
            // NVRTC opens it by name alone, which finds what is open already.
            if let slash = path.lastIndex(of: "/") {
                let folder = path[..<slash]
                _ = dlopen("\(folder)/libnvrtc-builtins.so.\(version)", RTLD_NOW | RTLD_LOCAL)
            }
            architectures = known.map(Int.init).sorted()
            return
        }
        throw .compilerNotFound(tried: tried)
    }

    deinit { free(table) }

    /// Compiles a source.
    ///
    /// - Parameters:
    ///   - architecture: Such as `sm_90a`.
    ///   - constants: Preprocessor definitions.
    ///   - registers: The most registers a thread may have.
    ///   - report: Asks the assembler for registers, spills and shared memory of each kernel.
    /// - Returns: An ELF file, and what the compiler had to say: warnings, and the report.
    public func compile(
        _ source: KernelSource, architecture: String, constants: [String: KernelConstant] = [:],
        registers: Int? = nil, report: Bool = false
    ) throws(KernelError) -> (cubin: [UInt8], log: String) {
        var options = try Self.options(architecture, constants, registers)
        if report { options.append("--ptxas-options=-v") }
        return try compile(source, options)
    }

    /// The machine code of a source, from the cache where it has it.
    public func cubin(
        _ source: KernelSource, architecture: String, constants: [String: KernelConstant] = [:],
        registers: Int? = nil, cache: KernelCache? = nil
    ) throws(KernelError) -> Cubin {
        let options = try Self.options(architecture, constants, registers)
        guard let cache else {
            return Cubin(bytes: try compile(source, options).cubin, origin: .compiler)
        }
        let key = Self.key(source, options, version)
        if let bytes = cache.cubin(key) { return Cubin(bytes: bytes, origin: .cache) }
        let bytes = try compile(source, options).cubin
        do throws(KernelError) {
            try cache.store(bytes, for: key)
        } catch {
            return Cubin(bytes: bytes, origin: .compilerOnly(error))
        }
        return Cubin(bytes: bytes, origin: .compiler)
    }

    /// The constants come sorted, so equal requests have equal options.
    private static func options(
        _ architecture: String, _ constants: [String: KernelConstant], _ registers: Int?
    ) throws(KernelError) -> [String] {
        // Functions without a mark are for the device; NVRTC's own cache would be a second one; with
        // lines profilers and compute-sanitizer say where, and the instructions are the same.
        var options = [
            "--gpu-architecture=\(architecture)", "--std=c++17",
            "--device-as-default-execution-space", "--no-cache", "--generate-line-info",
        ]
        if let registers { options.append("--maxrregcount=\(registers)") }
        return try options + KernelConstant.definitions(constants)
    }

    /// A hash of everything that decides about the machine code.
    private static func key(
        _ source: KernelSource, _ options: [String], _ version: String
    ) -> String {
        var hash = SHA256()
        let headers = KernelSource.headers.flatMap { [$0.name, $0.text] }
        for part in [version, source.name, source.text] + options + headers {
            // With its length ahead, no two lists of parts give the same bytes.
            withUnsafeBytes(of: UInt64(part.utf8.count).littleEndian) { hash.update($0) }
            Array(part.utf8).withUnsafeBytes { hash.update($0) }
        }
        return hash.hexadecimalDigest()
    }

    private func compile(
        _ source: KernelSource, _ options: [String]
    ) throws(KernelError) -> (cubin: [UInt8], log: String) {
        let headers = KernelSource.headers
        var program: minima_nvrtc_program?
        let created = withCStrings(headers.map(\.text)) { texts in
            withCStrings(headers.map(\.name)) { names in
                table.pointee.create(
                    &program, source.text, source.name, Int32(headers.count), texts, names)
            }
        }
        try Self.check("nvrtcCreateProgram(\(source.name))", created, table)
        guard let made = program else {
            throw .compilerFailed(call: "nvrtcCreateProgram(\(source.name))", reason: "no program")
        }
        defer { _ = table.pointee.destroy(&program) }
        let compiled = withCStrings(options) {
            table.pointee.compile(made, Int32(options.count), $0)
        }
        var size = 0
        try Self.check("nvrtcGetProgramLogSize", table.pointee.log_size(made, &size), table)
        var log = [CChar](repeating: 0, count: size + 1)
        try Self.check("nvrtcGetProgramLog", table.pointee.log(made, &log), table)
        let words = String(
            decoding: log.prefix { $0 != 0 }.map { UInt8(bitPattern: $0) }, as: UTF8.self)
        guard compiled == 0 else {
            throw .compilationFailed(
                source: source.name, options: options, reason: Self.text(compiled, table),
                log: words)
        }
        try Self.check("nvrtcGetCUBINSize", table.pointee.cubin_size(made, &size), table)
        var cubin = [CChar](repeating: 0, count: size)
        try Self.check("nvrtcGetCUBIN", table.pointee.cubin(made, &cubin), table)
        return (cubin.map { UInt8(bitPattern: $0) }, words)
    }

    private static func check(
        _ call: @autoclosure () -> String, _ code: Int32,
        _ table: UnsafeMutablePointer<minima_nvrtc>
    ) throws(KernelError) {
        guard code != 0 else { return }
        throw .compilerFailed(call: call(), reason: text(code, table))
    }

    private static func text(
        _ code: Int32, _ table: UnsafeMutablePointer<minima_nvrtc>
    ) -> String {
        table.pointee.error_string(code).map { String(cString: $0) } ?? "error \(code)"
    }
}

/// Lends texts as C strings.
private func withCStrings<Result>(
    _ texts: [String], _ body: (UnsafePointer<UnsafePointer<CChar>?>?) -> Result
) -> Result {
    let copies = texts.map { strdup($0) }
    defer { copies.forEach { free($0) } }
    return copies.map { $0.map { UnsafePointer($0) } }.withUnsafeBufferPointer {
        body($0.baseAddress)
    }
}
