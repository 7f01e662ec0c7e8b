import Glibc

/// A new directory that appears complete at its destination or not at all.
///
/// Files are written into a hidden sibling of the destination. ``commit()`` flushes them to the
/// disk and renames the sibling; an error, the end of this object or ``discard()`` removes it. A
/// run that is killed leaves the sibling behind, and the next run for the same destination removes
/// it.
public final class AtomicDirectory {
    /// What to do with a destination that exists and is not empty.
    public enum Existing: Sendable, Hashable {
        /// Refuse it.
        case refuse
        /// Replace it, provided it holds a file called `marker` ("config.json"): a mistyped path
        /// must not cost somebody's home directory.
        case replace(marker: String)
    }

    /// Where the directory will appear, absolute.
    public let destination: String
    /// Where its files are to be written until then.
    public let path: String

    private let place: OutputPlace
    private let existing: Existing
    private var lock: Int32

    /// What ``destination`` will be for an output path; nothing is created.
    ///
    /// - Throws: `CheckpointError.destination` when the place has no parent directory.
    public static func place(of destination: String) throws(CheckpointError) -> String {
        try OutputPlace(destination).path
    }

    /// Creates the hidden sibling, after removing those that killed runs left.
    ///
    /// - Throws: `CheckpointError.destination` when the place is taken or has no parent directory.
    public init(
        destination: String, existing: Existing = .refuse
    ) throws(CheckpointError) {
        let place = try OutputPlace(destination)
        try Self.check(place, existing)
        PartialName.sweep(for: place.name, in: place.parent)
        (path, lock) = try wrapping { () throws(SystemError) in
            try PartialName.create(for: place.name, in: place.parent) {
                (path) throws(SystemError) in
                if mkdir(path, 0o777) == 0 { return true }
                guard errno == EEXIST else { throw .current("create", path) }
                return false
            }
        }
        self.place = place
        self.existing = existing
        self.destination = place.path
    }

    deinit { discard() }

    /// Writes a whole file into the directory.
    public func write(_ bytes: [UInt8], to name: String) throws(CheckpointError) {
        let path = "\(path)/\(name)"
        try wrapping { () throws(SystemError) in
            let descriptor = try Self.create(path)
            defer { close(descriptor) }
            try Files.write(bytes, to: descriptor, at: 0, path: path)
        }
    }

    /// Writes a whole text file into the directory.
    public func write(_ text: String, to name: String) throws(CheckpointError) {
        try write(Array(text.utf8), to: name)
    }

    /// Writes part of a file that is in the directory already.
    func overwrite(
        _ bytes: UnsafeRawBufferPointer, at offset: Int, of name: String
    ) throws(CheckpointError) {
        let path = "\(path)/\(name)"
        try wrapping { () throws(SystemError) in
            let descriptor = open(path, O_WRONLY | O_CLOEXEC)
            guard descriptor >= 0 else { throw .current("open", path) }
            defer { close(descriptor) }
            try Files.write(bytes, to: descriptor, at: offset, path: path)
        }
    }

    /// Copies a file into the directory, its bytes and nothing else.
    public func copy(_ source: String, to name: String) throws(CheckpointError) {
        let target = "\(path)/\(name)"
        try wrapping { () throws(SystemError) in
            let (input, _) = try Files.openForReading(source)
            defer { close(input) }
            let output = try Self.create(target)
            defer { close(output) }
            var offset = 0
            while true {
                let bytes = try Files.read(input, count: 1 << 20, at: offset, path: source)
                if bytes.isEmpty { return }
                try Files.write(bytes, to: output, at: offset, path: target)
                offset += bytes.count
            }
        }
    }

    /// Flushes all files and puts the directory at its destination, replacing what ``Existing``
    /// allows.
    public func commit() throws(CheckpointError) {
        precondition(lock >= 0, "a directory is committed once")
        try wrapping { () throws(SystemError) in try self.synchroniseTree() }
        try Self.check(place, existing)
        try wrapping { () throws(SystemError) in
            if rename(self.path, self.destination) != 0 {
                guard errno == ENOTEMPTY || errno == EEXIST, case .replace = self.existing else {
                    throw .current("rename the finished output to", self.destination)
                }
                try self.exchange()
            }
            close(self.lock)
            self.lock = -1
            try Files.synchronise(self.place.parent)
        }
    }

    /// Removes everything written so far; does nothing after ``commit()``.
    public func discard() {
        guard lock >= 0 else { return }
        // Nothing more can be done about leftovers here; the next run sweeps them.
        try? Files.removeTree(path)
        close(lock)
        lock = -1
    }

    /// Puts the new directory where a full one is, then removes that one.
    private func exchange() throws(SystemError) {
        if Files.exchange(path, destination) {
            try? Files.removeTree(path)
            return
        }
        // Without an exchange there is a moment with nothing at the destination. A kill in it
        // leaves the old directory under this name, which no sweep removes.
        let old = "\(place.parent)/.\(place.name).replaced-\(getpid())"
        guard rename(destination, old) == 0 else { throw .current("move away", destination) }
        guard rename(path, destination) == 0 else {
            let error = SystemError.current("rename the finished output to", destination)
            rename(old, destination)
            throw error
        }
        try? Files.removeTree(old)
    }

    private func synchroniseTree() throws(SystemError) {
        var directories = [path]
        while let directory = directories.popLast() {
            for name in try Files.names(in: directory) {
                let child = "\(directory)/\(name)"
                switch Files.kind(of: child, followingLinks: false) {
                case S_IFDIR: directories.append(child)
                case S_IFREG: try Files.synchronise(child)
                default: break
                }
            }
            try Files.synchronise(directory)
        }
    }

    private static func create(_ path: String) throws(SystemError) -> Int32 {
        try Files.checkPath(path)
        let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
        guard descriptor >= 0 else { throw .current("create", path) }
        return descriptor
    }

    private static func check(
        _ place: OutputPlace, _ existing: Existing
    ) throws(CheckpointError) {
        guard let kind = Files.kind(of: place.path) else { return }
        guard kind == S_IFDIR else {
            throw .destination(
                path: place.path, reason: "a file is there already",
                remedy: "choose another output path")
        }
        let names = try wrapping { () throws(SystemError) in try Files.names(in: place.path) }
        if names.isEmpty { return }
        switch existing {
        case .refuse:
            throw .destination(
                path: place.path, reason: "the directory exists and is not empty",
                remedy: "choose another output path or remove it first")
        case .replace(let marker):
            guard names.contains(where: { $0.utf8.elementsEqual(marker.utf8) }) else {
                throw .destination(
                    path: place.path,
                    reason: "the directory is not empty and holds no \(marker), so it is not "
                        + "something Minima wrote",
                    remedy: "choose another output path or remove it first")
            }
        }
    }
}
