import Glibc

/// A file mapped read-only into memory; the mapping lives as long as this object.
///
/// Opening costs no memory: pages come from the disk when they are first read, and the kernel may
/// drop them again.
///
/// - Warning: A mapping shows the file as it is now, not as it was when opened. Whoever rewrites
///   the file in place changes what is read, and whoever shortens it makes the next read of a page
///   past the new end stop this process with SIGBUS; no library can turn that into an error.
///   Replace checkpoint files by renaming new ones over them, as ``AtomicDirectory`` does: the
///   mapping then keeps showing the old file.
public final class MappedFile: @unchecked Sendable {
    // Unchecked: the memory is never written through this object, and nothing else here changes.

    /// The path the file was opened by.
    public let path: String
    /// Bytes mapped: the file's size when it was opened.
    public let count: Int
    /// The first byte; valid while this object lives.
    let baseAddress: UnsafeRawPointer

    private let device: dev_t
    private let inode: ino_t
    private let modified: timespec

    /// Maps an open, non-empty regular file.
    init(descriptor: Int32, status: stat, path: String) throws(SystemError) {
        let count = Int(status.st_size)
        guard let address = mmap(nil, count, PROT_READ, MAP_PRIVATE, descriptor, 0),
            address != MAP_FAILED
        else { throw .current("map", path) }
        // A file that shrank between fstat and mmap would fault on its missing pages.
        var again = stat()
        guard fstat(descriptor, &again) == 0, again.st_size == status.st_size else {
            munmap(address, count)
            throw SystemError(
                operation: "map a file that is being written,", path: path, code: EBUSY)
        }
        self.path = path
        self.count = count
        self.baseAddress = UnsafeRawPointer(address)
        device = status.st_dev
        inode = status.st_ino
        modified = status.st_mtim
    }

    deinit {
        munmap(UnsafeMutableRawPointer(mutating: baseAddress), count)
    }

    /// All bytes; valid while this object lives.
    var bytes: UnsafeRawBufferPointer {
        UnsafeRawBufferPointer(start: baseAddress, count: count)
    }

    /// Whether the path still names the very file that was mapped, with its size and time unchanged.
    public var isUnchanged: Bool {
        var now = stat()
        return stat(path, &now) == 0 && now.st_dev == device && now.st_ino == inode
            && now.st_size == count && now.st_mtim.tv_sec == modified.tv_sec
            && now.st_mtim.tv_nsec == modified.tv_nsec
    }

    /// Tells the kernel that these bytes are not needed soon, so that reading a large file through
    /// once does not count as this process's memory. Reading them again still works.
    public func release(_ range: Range<Int>) {
        let page = Int(sysconf(Int32(_SC_PAGESIZE)))
        let start = range.lowerBound / page * page
        let end = Swift.min(range.upperBound, count)
        guard start >= 0, end > start else { return }
        madvise(
            UnsafeMutableRawPointer(mutating: baseAddress + start), end - start, MADV_DONTNEED)
    }
}

/// The bytes of one stored tensor, inside a mapping that stays alive with this value.
public struct TensorBytes: @unchecked Sendable {
    // Unchecked: the address points into `mapping`, which is read-only and Sendable.

    /// What keeps the bytes alive; retain it for as long as the address is used.
    public let mapping: MappedFile
    /// Where the bytes lie in the file.
    public let range: Range<Int>

    /// The first byte; valid while `mapping` lives. Not aligned to any element size: the format
    /// promises nothing, see ``isAligned(to:)``.
    var baseAddress: UnsafeRawPointer { mapping.baseAddress + range.lowerBound }

    /// How many bytes.
    public var count: Int { range.count }

    /// Whether elements of `byteCount` bytes can be loaded from the address directly.
    public func isAligned(to byteCount: Int) -> Bool {
        UInt(bitPattern: baseAddress) % UInt(byteCount) == 0
    }

    /// Lends the bytes to `body`.
    public func withUnsafeBytes<Result, Failure: Error>(
        _ body: (UnsafeRawBufferPointer) throws(Failure) -> Result
    ) throws(Failure) -> Result {
        let buffer = UnsafeRawBufferPointer(start: baseAddress, count: count)
        defer { withExtendedLifetime(mapping) {} }
        return try body(buffer)
    }
}
