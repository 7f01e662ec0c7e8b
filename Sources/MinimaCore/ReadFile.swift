import Glibc

/// Why a file cannot be read.
public struct ReadError: Error, Hashable {
    /// The reason in words: "No such file or directory", "it is a directory", …
    public let reason: String
}

/// All bytes of a file or pipe.
///
/// - Parameter limit: Bytes beyond which reading stops with an error, so that an endless device
///   cannot fill the memory.
public func readFile(_ path: String, limit: Int) throws(ReadError) -> [UInt8] {
    let descriptor = open(path, O_RDONLY | O_CLOEXEC)
    guard descriptor >= 0 else { throw ReadError(reason: String(cString: strerror(errno))) }
    defer { close(descriptor) }
    var status = stat()
    if fstat(descriptor, &status) == 0, status.st_mode & S_IFMT == S_IFREG {
        guard Int(status.st_size) <= limit else {
            throw ReadError(reason: "it has \(status.st_size) bytes, at most \(limit) are read")
        }
    }
    var bytes: [UInt8] = []
    var chunk = [UInt8](repeating: 0, count: 1 << 20)
    while true {
        let count = chunk.withUnsafeMutableBytes { read(descriptor, $0.baseAddress, $0.count) }
        if count < 0 && errno == EINTR { continue }
        guard count >= 0 else { throw ReadError(reason: String(cString: strerror(errno))) }
        if count == 0 { return bytes }
        bytes += chunk.prefix(count)
        guard bytes.count <= limit else {
            throw ReadError(reason: "it has more than the \(limit) bytes that are read")
        }
    }
}
