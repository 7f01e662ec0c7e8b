import Glibc
import MinimaCore

/// Compiled kernels in a folder, shared by all processes that name it.
///
/// A file is named by the hash of everything its machine code depends on, so it is never stale. It
/// appears whole by a rename and carries the hash of its contents: what is damaged counts as absent
/// and is written again. Above the limit the files that were unused for longest go.
public struct KernelCache: Sendable {
    /// The folder.
    public let directory: String
    /// The most bytes that the files may take together.
    public let limit: Int

    /// 256 MiB: a thousand kernels and more, of 50 to 200 KB each.
    public static let defaultLimit = 256 << 20

    private static let suffix = ".cubin"
    private static let partial = ".partial-"
    /// What a file starts with; the hash of the contents, 64 digits, follows, then these.
    private static let header = Array("Minima cubin 1\n".utf8)
    /// Seconds after which a partial file belongs to no process that still writes it.
    private static let abandoned = 3600

    /// Opens a folder, which is made with those above it where absent.
    ///
    /// - Throws: `KernelError.cacheUnusable`.
    public init(directory: String, limit: Int = defaultLimit) throws(KernelError) {
        guard !directory.isEmpty, !directory.utf8.contains(0) else {
            throw .cacheUnusable(path: "\"\(directory)\"", reason: "this is no path")
        }
        self.directory = directory
        self.limit = limit
        for end in directory.indices.dropFirst() where directory[end] == "/" {
            // The last one below tells what is wrong with those above it.
            mkdir(String(directory[..<end]), 0o777)
        }
        guard mkdir(directory, 0o777) == 0 || errno == EEXIST else { throw failure("make it") }
        var status = stat()
        guard stat(directory, &status) == 0 else { throw failure("look at it") }
        guard status.st_mode & S_IFMT == S_IFDIR else {
            throw .cacheUnusable(path: directory, reason: "it is a file")
        }
    }

    private func failure(_ asked: String) -> KernelError {
        .cacheUnusable(
            path: directory, reason: "cannot \(asked), \(String(cString: strerror(errno)))")
    }

    private func path(_ key: String) -> String { "\(directory)/\(key)\(Self.suffix)" }

    /// The machine code stored under a key; `nil` when there is none, or it is damaged.
    func cubin(_ key: String) -> [UInt8]? {
        let descriptor = open(path(key), O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { return nil }
        defer { close(descriptor) }
        var status = stat()
        guard fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG,
            status.st_size > 0, status.st_size <= limit,
            let file = Self.read(descriptor, Int(status.st_size))
        else { return nil }
        let start = Self.header.count + 64
        guard file.count > start, file.starts(with: Self.header) else { return nil }
        let bytes = Array(file[start...])
        guard file[Self.header.count..<start].elementsEqual(Self.hash(bytes).utf8) else {
            return nil
        }
        // The time of the last use decides which files go first.
        _ = futimens(descriptor, nil)
        return bytes
    }

    /// Stores machine code under a key, in place of what is there.
    func store(_ bytes: [UInt8], for key: String) throws(KernelError) {
        let file = Self.header + Array(Self.hash(bytes).utf8) + bytes
        guard file.count <= limit else { return }
        let name = String(UInt64.random(in: 0 ... .max), radix: 16)
        let partial = "\(directory)/\(Self.partial)\(name)"
        let descriptor = open(partial, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw failure("make a file in it") }
        let written = file.withUnsafeBytes { Self.write($0, to: descriptor) }
        let problem = errno
        close(descriptor)
        guard written, rename(partial, path(key)) == 0 else {
            if !written { errno = problem }
            let error = failure(written ? "name a file in it" : "write a file in it")
            unlink(partial)
            throw error
        }
        trim(keeping: key)
    }

    /// Removes what killed processes left, and the files unused for longest above the limit.
    private func trim(keeping key: String) {
        guard let folder = opendir(directory) else { return }
        defer { closedir(folder) }
        var files: [(path: String, bytes: Int, used: timespec)] = []
        let now = time(nil)
        while let entry = readdir(folder) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) {
                $0.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            let path = "\(directory)/\(name)"
            var status = stat()
            guard name.hasSuffix(Self.suffix) || name.hasPrefix(Self.partial),
                lstat(path, &status) == 0, status.st_mode & S_IFMT == S_IFREG
            else { continue }
            if name.hasSuffix(Self.suffix) {
                files.append((path, Int(status.st_size), status.st_mtim))
            } else if now - status.st_mtim.tv_sec > Self.abandoned {
                unlink(path)
            }
        }
        var total = files.reduce(0) { $0 + $1.bytes }
        files.sort { ($0.used.tv_sec, $0.used.tv_nsec) < ($1.used.tv_sec, $1.used.tv_nsec) }
        for file in files where total > limit && file.path != path(key) {
            unlink(file.path)
            total -= file.bytes
        }
    }

    private static func hash(_ bytes: [UInt8]) -> String {
        var hash = SHA256()
        bytes.withUnsafeBytes { hash.update($0) }
        return hash.hexadecimalDigest()
    }

    private static func read(_ descriptor: Int32, _ size: Int) -> [UInt8]? {
        var failed = false
        let bytes = [UInt8](unsafeUninitializedCapacity: size) { buffer, filled in
            while filled < size, let base = buffer.baseAddress {
                let count = Glibc.read(descriptor, base + filled, size - filled)
                if count < 0 && errno == EINTR { continue }
                guard count > 0 else {
                    failed = true
                    return
                }
                filled += count
            }
        }
        return failed ? nil : bytes
    }

    /// False with `errno` set when not all could be written.
    private static func write(_ bytes: UnsafeRawBufferPointer, to descriptor: Int32) -> Bool {
        var rest = bytes
        while let base = rest.baseAddress, rest.count > 0 {
            let count = Glibc.write(descriptor, base, rest.count)
            if count < 0 && errno == EINTR { continue }
            guard count > 0 else { return false }
            rest = UnsafeRawBufferPointer(rebasing: rest[count...])
        }
        return true
    }
}
