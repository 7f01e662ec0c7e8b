import Glibc

/// A new file that appears complete at its destination, replacing what was there, or not at all.
///
/// It works as ``AtomicDirectory`` does, for one file.
public final class AtomicFile {
    /// Where the file will appear, absolute.
    public let destination: String
    /// Where it is until then.
    let path: String

    private let place: OutputPlace
    private let descriptor: Int32
    private var lock: Int32

    /// Creates the hidden sibling, after removing those that killed runs left.
    public init(destination: String) throws(CheckpointError) {
        let place = try OutputPlace(destination)
        guard Files.kind(of: place.path) != S_IFDIR else {
            throw .destination(
                path: place.path, reason: "this is a directory",
                remedy: "name the file to write in it")
        }
        guard [nil, S_IFREG].contains(Files.kind(of: place.path)) else {
            throw .destination(
                path: place.path, reason: "this is a device, pipe or socket",
                remedy: "name an ordinary file")
        }
        PartialName.sweep(for: place.name, in: place.parent)
        let (path, lock) = try wrapping { () throws(SystemError) in
            try PartialName.create(for: place.name, in: place.parent) {
                (path) throws(SystemError) in
                let descriptor = open(path, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o666)
                if descriptor < 0 && errno == EEXIST { return false }
                guard descriptor >= 0 else { throw .current("create", path) }
                close(descriptor)
                return true
            }
        }
        descriptor = open(path, O_WRONLY | O_CLOEXEC)
        guard descriptor >= 0 else {
            let error = SystemError.current("open", path)
            unlink(path)
            close(lock)
            throw .system(error)
        }
        self.path = path
        self.lock = lock
        self.place = place
        self.destination = place.path
    }

    deinit { discard() }

    /// Writes all of `bytes` at `offset`.
    public func write(
        _ bytes: UnsafeRawBufferPointer, at offset: Int
    ) throws(CheckpointError) {
        precondition(lock >= 0, "a committed file takes no more bytes")
        try wrapping { () throws(SystemError) in
            try Files.write(bytes, to: self.descriptor, at: offset, path: self.path)
        }
    }

    /// Flushes the file and puts it at its destination.
    public func commit() throws(CheckpointError) {
        precondition(lock >= 0, "a file is committed once")
        try wrapping { () throws(SystemError) in
            guard fsync(self.descriptor) == 0 else { throw .current("flush", self.path) }
            guard rename(self.path, self.destination) == 0 else {
                throw .current("rename the finished output to", self.destination)
            }
            self.release()
            try Files.synchronise(self.place.parent)
        }
    }

    /// Removes what was written so far; does nothing after ``commit()``.
    public func discard() {
        guard lock >= 0 else { return }
        unlink(path)
        release()
    }

    private func release() {
        close(descriptor)
        close(lock)
        lock = -1
    }

    /// Writes a whole file in one go.
    public static func write(
        _ bytes: [UInt8], to destination: String
    ) throws(CheckpointError) {
        let file = try AtomicFile(destination: destination)
        try bytes.withUnsafeBufferPointer { (buffer) throws(CheckpointError) in
            try file.write(UnsafeRawBufferPointer(buffer), at: 0)
        }
        try file.commit()
    }

    /// Writes a whole text file in one go.
    public static func write(_ text: String, to destination: String) throws(CheckpointError) {
        try write(Array(text.utf8), to: destination)
    }
}
