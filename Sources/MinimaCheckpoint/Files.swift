import Glibc

/// The few file operations this target needs, each with a typed error that names its path.
enum Files {
    /// A path C would cut short at a NUL byte is refused before it reaches the system.
    static func checkPath(_ path: String) throws(SystemError) {
        guard !path.isEmpty, !path.utf8.contains(0) else {
            throw SystemError(operation: "use", path: displayed(path), code: EINVAL)
        }
    }

    /// Opens a regular file for reading and returns its descriptor and size.
    ///
    /// `O_NONBLOCK` keeps a FIFO from blocking the open; it has no effect on regular files.
    static func openForReading(_ path: String) throws(SystemError) -> (Int32, stat) {
        try checkPath(path)
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .current("open", path) }
        var status = stat()
        guard fstat(descriptor, &status) == 0 else {
            let error = SystemError.current("inspect", path)
            close(descriptor)
            throw error
        }
        let kind = status.st_mode & S_IFMT
        guard kind == S_IFREG else {
            close(descriptor)
            throw SystemError(
                operation: "read as a file", path: path, code: kind == S_IFDIR ? EISDIR : EINVAL)
        }
        return (descriptor, status)
    }

    /// All bytes of a file that is no larger than `limit`.
    ///
    /// - Throws: `SystemError` with `EFBIG` when the file is larger; nothing is allocated for it.
    static func read(_ path: String, limit: Int) throws(SystemError) -> [UInt8] {
        let (descriptor, status) = try openForReading(path)
        defer { close(descriptor) }
        guard status.st_size <= limit else {
            throw SystemError(operation: "read", path: path, code: EFBIG)
        }
        return try read(descriptor, count: Int(status.st_size), at: 0, path: path)
    }

    /// Up to `count` bytes from `offset`; fewer when the file ends first.
    static func read(
        _ descriptor: Int32, count: Int, at offset: Int, path: String
    ) throws(SystemError) -> [UInt8] {
        var failure: SystemError?
        let bytes = [UInt8](unsafeUninitializedCapacity: count) { buffer, filled in
            while filled < count {
                let got = pread(
                    descriptor, buffer.baseAddress.map { $0 + filled }, count - filled,
                    offset + filled)
                if got < 0 && errno == EINTR { continue }
                if got < 0 { failure = .current("read", path) }
                if got <= 0 { return }
                filled += got
            }
        }
        if let failure { throw failure }
        return bytes
    }

    /// Writes all of `bytes` at `offset`.
    static func write(
        _ bytes: UnsafeRawBufferPointer, to descriptor: Int32, at offset: Int, path: String
    ) throws(SystemError) {
        var done = 0
        while done < bytes.count {
            let rest = UnsafeRawBufferPointer(rebasing: bytes[done...])
            let put = pwrite(descriptor, rest.baseAddress, rest.count, offset + done)
            if put < 0 && errno == EINTR { continue }
            guard put > 0 else {
                throw put < 0
                    ? .current("write", path)
                    : SystemError(operation: "write", path: path, code: EIO)
            }
            done += put
        }
    }

    /// Writes all of `bytes` at `offset`.
    static func write(
        _ bytes: [UInt8], to descriptor: Int32, at offset: Int, path: String
    ) throws(SystemError) {
        try bytes.withUnsafeBufferPointer { (buffer) throws(SystemError) in
            try write(UnsafeRawBufferPointer(buffer), to: descriptor, at: offset, path: path)
        }
    }

    /// Forces a file's or directory's content to the disk.
    static func synchronise(_ path: String) throws(SystemError) {
        let descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK)
        guard descriptor >= 0 else { throw .current("open", path) }
        defer { close(descriptor) }
        // Some file systems cannot flush a directory and say EINVAL; the rename is atomic anyway.
        guard fsync(descriptor) == 0 || errno == EINVAL else { throw .current("flush", path) }
    }

    /// Names in a directory without "." and "..", in byte order.
    static func names(in path: String) throws(SystemError) -> [String] {
        try checkPath(path)
        guard let directory = opendir(path) else { throw .current("list", path) }
        defer { closedir(directory) }
        var names: [String] = []
        while let entry = readdir(directory) {
            let name = withUnsafePointer(to: &entry.pointee.d_name) { tuple in
                tuple.withMemoryRebound(to: CChar.self, capacity: 256) { String(cString: $0) }
            }
            if name != "." && name != ".." { names.append(name) }
        }
        return names.sorted { $0.utf8.lexicographicallyPrecedes($1.utf8) }
    }

    /// The kind of what `path` names (`S_IFDIR`, …), or `nil` when nothing is there.
    static func kind(of path: String, followingLinks: Bool = true) -> mode_t? {
        var status = stat()
        let found = followingLinks ? stat(path, &status) : lstat(path, &status)
        return found == 0 ? status.st_mode & S_IFMT : nil
    }

    /// Removes a file or a directory with all it holds; links are removed, never followed.
    static func removeTree(_ path: String) throws(SystemError) {
        guard kind(of: path, followingLinks: false) == S_IFDIR else {
            guard unlink(path) == 0 || errno == ENOENT else { throw .current("remove", path) }
            return
        }
        // Directories are listed before what they hold, so removing from the end empties each.
        var directories = [path]
        var next = 0
        while next < directories.count {
            let directory = directories[next]
            next += 1
            for name in try names(in: directory) {
                let child = "\(directory)/\(name)"
                if kind(of: child, followingLinks: false) == S_IFDIR {
                    directories.append(child)
                } else if unlink(child) != 0 && errno != ENOENT {
                    throw .current("remove", child)
                }
            }
        }
        for directory in directories.reversed() where rmdir(directory) != 0 && errno != ENOENT {
            throw .current("remove", directory)
        }
    }

    /// Swaps what two paths name in one step; false where the system cannot.
    ///
    /// Swift's Glibc module does not show `renameat2`, so it is looked up by name.
    static func exchange(_ left: String, _ right: String) -> Bool {
        typealias RenameAt2 =
            @convention(c) (
                Int32, UnsafePointer<CChar>, Int32, UnsafePointer<CChar>, UInt32
            ) -> Int32
        let exchangeFlag: UInt32 = 1 << 1
        guard let symbol = dlsym(nil, "renameat2") else { return false }
        let renameAt2 = unsafeBitCast(symbol, to: RenameAt2.self)
        return renameAt2(AT_FDCWD, left, AT_FDCWD, right, exchangeFlag) == 0
    }

    /// The absolute path with every link resolved; `nil` when it does not exist.
    static func resolved(_ path: String) -> String? {
        guard let resolved = realpath(path, nil) else { return nil }
        defer { free(resolved) }
        return String(cString: resolved)
    }

    /// Bytes free to this user on the file system that holds `path`, when it says.
    static func freeBytes(at path: String) -> Int? {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { return nil }
        let (bytes, overflow) = Int(clamping: status.f_bavail)
            .multipliedReportingOverflow(by: Int(clamping: status.f_frsize))
        return overflow ? Int.max : bytes
    }
}

/// Text from a file made safe to print: control characters escaped, long text cut.
func displayed(_ text: String, limit: Int = 200) -> String {
    var output = ""
    var count = 0
    for scalar in text.unicodeScalars {
        guard count < limit else { return output + "…" }
        count += 1
        if scalar.properties.generalCategory == .control
            || scalar.properties.generalCategory == .format
        {
            output += "\\u{\(String(scalar.value, radix: 16))}"
        } else {
            output.unicodeScalars.append(scalar)
        }
    }
    return output
}

/// `displayed` text between quotation marks.
func quoted(_ text: String) -> String { "\"\(displayed(text))\"" }

/// A byte count in the units people use, beside its exact value when it is large.
func bytesInWords(_ count: Int) -> String {
    switch count {
    case ..<10_000: return "\(count) bytes"
    case ..<10_000_000: return "\(count / 1000) kB"
    case ..<10_000_000_000: return "\(count / 1_000_000) MB"
    default: return "\(count / 1_000_000_000) GB"
    }
}
