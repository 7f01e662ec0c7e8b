import Glibc

/// A file operation the operating system refused.
public struct SystemError: Error, Sendable, Hashable, CustomStringConvertible {
    /// What was tried, as a verb: "open", "write".
    public let operation: String
    /// The file or directory it was tried on.
    public let path: String
    /// The `errno` value.
    public let code: Int32

    /// A failure with a given `errno`.
    public init(operation: String, path: String, code: Int32) {
        self.operation = operation
        self.path = path
        self.code = code
    }

    /// The failure that `errno` reports now.
    static func current(_ operation: String, _ path: String) -> SystemError {
        SystemError(operation: operation, path: path, code: errno)
    }

    /// What was tried, the system's answer and what to do.
    public var description: String {
        "cannot \(operation) \(path): \(String(cString: strerror(code)))\(remedy)"
    }

    private var remedy: String {
        switch code {
        case ENOSPC, EDQUOT: "; free some space or choose an output path on another disk"
        case EACCES, EPERM: "; check that you own it and that its permissions allow this"
        case EROFS: "; the file system is read-only, choose another path"
        case ENOENT: "; check the path"
        case EMFILE, ENFILE: "; raise the limit on open files (ulimit -n)"
        case EFBIG: "; the file system does not take files this large, write smaller shards"
        case EIO: "; the disk reports a fault, check its health and the system log"
        default: ""
        }
    }
}
