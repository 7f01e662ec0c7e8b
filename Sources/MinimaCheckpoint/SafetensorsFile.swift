import Glibc
import MinimaCore

/// A safetensors file, open for reading: its header is checked, its data stay on disk until asked
/// for.
///
/// See ``MappedFile`` for what happens when somebody changes the file meanwhile.
public final class SafetensorsFile: Sendable {
    /// The path it was opened by.
    public let path: String
    /// All tensors, in the order of their data.
    public let tensors: [TensorInfo]
    /// The strings of the header's `__metadata__`.
    public let metadata: [JSON.Name: String]

    let mapping: MappedFile
    private let indices: [JSON.Name: Int]

    /// Opens a file and checks all of its header, reading no tensor.
    ///
    /// - Throws: `CheckpointError.system` when the file cannot be read, and
    ///   `CheckpointError.safetensors` naming the tensor and the remedy when it is malformed.
    /// - Complexity: O(header); memory a small multiple of the header, whatever the file claims.
    public init(path: String) throws(CheckpointError) {
        (mapping, tensors, metadata) = try Self.open(path)
        self.path = path
        indices = Dictionary(
            zip(tensors.lazy.map { JSON.Name($0.name) }, tensors.indices),
            uniquingKeysWith: { first, _ in first })
    }

    private static func open(
        _ path: String
    ) throws(CheckpointError) -> (MappedFile, [TensorInfo], [JSON.Name: String]) {
        let (descriptor, status) = try wrapping { () throws(SystemError) in
            try Files.openForReading(path)
        }
        defer { close(descriptor) }
        let fileBytes = Int(status.st_size)
        let bytes = try headerBytes(descriptor, fileBytes: fileBytes, path: path)
        let header: SafetensorsHeader
        do throws(SafetensorsDefect) {
            header = try SafetensorsHeader(parsing: bytes, fileBytes: fileBytes)
        } catch {
            throw .safetensors(path: path, error)
        }
        let mapping = try wrapping { () throws(SystemError) in
            try MappedFile(descriptor: descriptor, status: status, path: path)
        }
        return (mapping, header.tensors, header.metadata)
    }

    /// The header's JSON.
    ///
    /// The length and the first byte are read before the rest, so that a wrong length is refused
    /// before anything is allocated for it.
    private static func headerBytes(
        _ descriptor: Int32, fileBytes: Int, path: String
    ) throws(CheckpointError) -> [UInt8] {
        let start = try wrapping { () throws(SystemError) in
            try Files.read(descriptor, count: 9, at: 0, path: path)
        }
        guard start.count >= 8 else {
            throw .safetensors(path: path, .tooShort(fileBytes: fileBytes))
        }
        let length = start[..<8].reversed().reduce(UInt64(0)) { $0 << 8 | UInt64($1) }
        guard length <= SafetensorsHeader.maxBytes else {
            throw .safetensors(path: path, .headerTooLong(headerBytes: length))
        }
        let count = Int(length)
        guard count <= fileBytes - 8 else {
            throw .safetensors(
                path: path, .headerBeyondFile(headerBytes: count, fileBytes: fileBytes))
        }
        guard count > 0, start.count == 9, start[8] == UInt8(ascii: "{") else {
            throw .safetensors(path: path, .headerNotObject)
        }
        let bytes = try wrapping { () throws(SystemError) in
            try Files.read(descriptor, count: count, at: 8, path: path)
        }
        // Shorter only when the file was cut while it was read.
        guard bytes.count == count else {
            throw .safetensors(
                path: path, .headerBeyondFile(headerBytes: count, fileBytes: 8 + bytes.count))
        }
        return bytes
    }

    /// What the header says about the tensor called `name`; `nil` when there is none.
    public func info(_ name: String) -> TensorInfo? {
        indices[JSON.Name(name)].map { tensors[$0] }
    }

    /// The bytes of the tensor called `name`, with the mapping that keeps them alive.
    public func bytes(of name: String) throws(CheckpointError) -> TensorBytes {
        guard let info = info(name) else {
            throw .noSuchTensor(path: path, name: name, count: tensors.count)
        }
        return TensorBytes(mapping: mapping, range: info.range)
    }

    /// Lends the bytes of the tensor called `name` to `body`.
    public func withUnsafeBytes<Result>(
        of name: String, _ body: (UnsafeRawBufferPointer) throws -> Result
    ) throws -> Result {
        try bytes(of: name).withUnsafeBytes(body)
    }

    /// Throws when the file at `path` is no longer the one that was opened.
    public func checkUnchanged() throws(CheckpointError) {
        guard mapping.isUnchanged else { throw .changed(path: path) }
    }
}
