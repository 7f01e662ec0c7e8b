import CMinimaTorchAPI
import Glibc
import MinimaCore
import Synchronization

/// libtorch as this process found it.
///
/// Minima's C++ layer over libtorch is a shared library of its own (`libMinimaTorch.so`), opened
/// when the first tensor is made: a program that only reads headers or tokenises starts without
/// libtorch's 200 ms and 150 MB, and a missing libtorch is an error with a remedy instead of a
/// refusal of the dynamic linker.
public enum Torch {
    /// The only version that works; its C++ interface changes from one to the next.
    public static let neededVersion = "2.11.0"

    private static let library = "libMinimaTorch.so"
    /// The address of the table; 0 while libtorch is closed.
    private static let opened = Atomic<UInt>(0)
    private static let opening = Mutex<Void>(())

    /// Opens libtorch; later calls do nothing.
    ///
    /// - Parameter package: A torch package's folder (with `lib/libtorch_cpu.so`). Without it the
    ///   library's own run path and the dynamic linker's (`LD_LIBRARY_PATH`) are searched.
    /// - Throws: `TensorError.libraryNotFound` or `.wrongVersion`.
    public static func open(package: String? = nil) throws(TensorError) {
        _ = try table(package: package)
    }

    /// Threads that an operator on the CPU may use.
    public static func threads() throws(TensorError) -> Int {
        Int(try table().pointee.threads())
    }

    /// Sets the threads that an operator on the CPU may use, for the whole process.
    public static func setThreads(_ count: Int) throws(TensorError) {
        let table = try table()
        try check({ "set_num_threads(\(count))" }) {
            table.pointee.set_threads(Int32(clamping: count), $0)
        }
    }

    /// The folder of the libtorch that is open, where its NVIDIA libraries are looked for too.
    package static func libraryFolder() throws(TensorError) -> String {
        let table = try table()
        var folder: UnsafeMutablePointer<CChar>?
        defer { free(folder) }
        try check({ "library folder" }) { table.pointee.library_folder(&folder, $0) }
        return folder.map { String(cString: $0) } ?? ""
    }

    /// The folder that holds the torch package, where others are looked for too.
    package static func packageFolder() throws(TensorError) -> String {
        try libraryFolder() + "/../.."
    }

    typealias Table = UnsafePointer<minima_torch_table>

    /// Makes the CPU allocator keep freed memory and use huge pages, for the whole process.
    ///
    /// By default malloc returns large blocks to the kernel, which faults every page in again for
    /// the next layer's activations. Measured on evaluation of a 20 M model, two cores: 582,000 page
    /// faults become 63,000, and the time a tenth less. Call before the first tensor is made.
    public static func tuneAllocator() throws(TensorError) {
        try table().pointee.tune_allocator()
    }

    static func table(package: String? = nil) throws(TensorError) -> Table {
        if let table = Table(bitPattern: opened.load(ordering: .acquiring)) { return table }
        let result = opening.withLock { _ -> Result<UInt, TensorError> in
            if opened.load(ordering: .acquiring) != 0 {
                return .success(opened.load(ordering: .acquiring))
            }
            do throws(TensorError) {
                let address = UInt(bitPattern: try load(package: package))
                opened.store(address, ordering: .releasing)
                return .success(address)
            } catch {
                return .failure(error)
            }
        }
        guard let table = Table(bitPattern: try result.get()) else {
            throw .libraryNotFound(reason: "its table is empty")
        }
        return table
    }

    private static func load(package: String?) throws(TensorError) -> Table {
        if let package {
            // Opened first, so that the library below finds it by name already loaded.
            let path = "\(package)/lib/libtorch_cpu.so"
            guard let handle = dlopen(path, RTLD_NOW | RTLD_GLOBAL) else {
                throw .libraryNotFound(reason: lastError())
            }
            try checkVersion(of: handle)
        }
        let beside = executableFolder().map { "\($0)/\(library)" }
        var reasons: [String] = []
        for path in [beside, library].compactMap(\.self) {
            guard let handle = dlopen(path, RTLD_NOW | RTLD_LOCAL) else {
                let reason = lastError()
                try checkRefused(path, reason: reason)
                reasons.append(reason)
                continue
            }
            try checkVersion(of: handle)
            guard let symbol = dlsym(handle, MINIMA_TORCH_ENTRY) else {
                throw .libraryNotFound(reason: lastError())
            }
            return unsafeBitCast(symbol, to: minima_torch_entry.self)()
        }
        try checkRefused("libtorch_cpu.so", reason: reasons.first ?? "no path to try")
        // The first place is where the library belongs; the second says no more when it is absent.
        let exists = beside.map { access($0, F_OK) == 0 } ?? false
        throw .libraryNotFound(reason: (exists ? reasons.first : reasons.last) ?? "no path to try")
    }

    /// Asks the libtorch behind `handle`, or among what it needs, for its version.
    ///
    /// Nothing else may be called before: another version may well open, and compute nonsense.
    static func checkVersion(of handle: UnsafeMutableRawPointer) throws(TensorError) {
        guard let symbol = dlsym(handle, MINIMA_TORCH_VERSION) else {
            throw .libraryNotFound(reason: lastError())
        }
        let version = unsafeBitCast(symbol, to: minima_torch_version.self)()
        let found = "\(version >> 56).\(version >> 48 & 0xFF).\(version >> 40 & 0xFF)"
        guard found == neededVersion else {
            throw .wrongVersion(found: found, needed: neededVersion)
        }
    }

    /// Throws when `library` opens lazily, with `.wrongVersion` where that explains `reason`.
    ///
    /// Another version of libtorch lacks functions, and the linker reports the first of them. A lazy
    /// opening forgives that, so that the version can be asked for; nothing else may be called.
    private static func checkRefused(_ library: String, reason: String) throws(TensorError) {
        guard let handle = dlopen(library, RTLD_LAZY | RTLD_LOCAL) else { return }
        if dlsym(handle, MINIMA_TORCH_VERSION) != nil { try checkVersion(of: handle) }
        throw .libraryNotFound(reason: reason)
    }

    private static func lastError() -> String {
        dlerror().map { String(cString: $0) } ?? "the dynamic linker gave no reason"
    }

    private static func executableFolder() -> String? {
        var buffer = [CChar](repeating: 0, count: Int(PATH_MAX))
        let count = readlink("/proc/self/exe", &buffer, buffer.count - 1)
        guard count > 0 else { return nil }
        let path = buffer[..<count].map { UInt8(bitPattern: $0) }
        guard let slash = path.lastIndex(of: UInt8(ascii: "/")) else { return nil }
        return String(decoding: path[..<slash], as: UTF8.self)
    }

    /// Runs a call of the C table; its message becomes an error that starts with `name`.
    static func check(
        _ name: () -> String,
        _ body: (UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>) -> Int32
    ) throws(TensorError) {
        var message: UnsafeMutablePointer<CChar>?
        guard body(&message) != 0 else { return }
        let reason = message.map { String(cString: $0) } ?? "no reason given"
        free(message)
        throw .operatorFailed(call: name(), reason: reason)
    }
}
