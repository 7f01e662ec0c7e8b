import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore

/// What was found out while one decoder layer was compressed.
struct LayerRecord: StageResult {
    static let kind = "compressed-layer"

    /// Its compressed modules in forward order.
    var modules: [CompressionResult.Module] = []
    /// Seconds by phase.
    var phases: [String: Double] = [:]
    /// Most bytes in live tensors on the device so far.
    var peakDeviceBytes: Int?
}

/// Progress of a compression on disk: `OUT.minima-work` beside the output.
///
/// For every finished layer it holds the layer's tensors and its record, and for the next one the
/// activations of both models. A record is written after all that it stands for, each file appears
/// at once, and nothing is taken from a directory that was begun with another key: a run that was
/// killed goes on after its last finished layer and writes the same bytes.
final class WorkDirectory {
    let path: String
    /// What all results depend on.
    let key: String
    private let lock: Int32

    /// Opens or creates the directory and locks it for as long as this object lives.
    ///
    /// - Throws: `CompressionError.foreignWork` for another key's progress, `.workInUse` while
    ///   another run holds the lock.
    init(_ path: String, key: String) throws {
        self.path = path
        self.key = key
        guard mkdir(path, 0o777) == 0 || errno == EEXIST else {
            throw Self.failure("create", path)
        }
        lock = open(path, O_RDONLY | O_CLOEXEC | O_DIRECTORY)
        guard lock >= 0 else { throw Self.failure("open", path) }
        // A file system without locks leaves the directory unlocked.
        guard flock(lock, LOCK_EX | LOCK_NB) == 0 || errno != EWOULDBLOCK else {
            throw CompressionError.workInUse(path: path)
        }
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        if names.contains("key") {
            let found = try readFile("\(path)/key", limit: 1024)
            guard found.elementsEqual(key.utf8) else {
                throw CompressionError.foreignWork(path: path)
            }
        } else {
            guard names.allSatisfy({ $0.hasPrefix(".key.partial-") }) else {
                throw CompressionError.foreignWork(path: path)
            }
            try AtomicFile.write(key, to: "\(path)/key")
        }
    }

    deinit { close(lock) }

    /// Bytes of all files in the directory at `path`; 0 where there is none.
    static func byteCount(_ path: String) -> Int {
        let names = (try? FileManager.default.contentsOfDirectory(atPath: path)) ?? []
        return Saturating.sum(
            names.map { name in
                var status = stat()
                return stat("\(path)/\(name)", &status) == 0 ? Int(status.st_size) : 0
            })
    }

    /// Bytes that are free on the file system of `path`, when it says.
    static func freeBytes(_ path: String) -> Int? {
        var status = statvfs()
        guard statvfs(path, &status) == 0 else { return nil }
        return Saturating.product([Int(clamping: status.f_bavail), Int(clamping: status.f_frsize)])
    }

    /// Records of the finished layers, from the first on.
    func records() throws -> [LayerRecord] {
        var records: [LayerRecord] = []
        while exists(recordPath(records.count)) {
            let bytes = try readFile(recordPath(records.count), limit: 64 << 20)
            records.append(try LayerRecord(json: String(decoding: bytes, as: UTF8.self)))
        }
        return records
    }

    /// The file with the tensors of part `index`: a decoder layer, or the rest after them.
    func tensorsPath(_ index: Int) -> String { "\(path)/part-\(index.zeroPadded(5)).safetensors" }

    /// Writes the tensors of part `index`.
    func writeTensors(
        _ index: Int, _ tensors: [TensorDescription],
        _ body: (SafetensorsWriter) throws -> Void
    ) throws {
        let writer = try SafetensorsWriter(
            file: tensorsPath(index), tensors: tensors,
            metadata: SafetensorsWriter.defaultMetadata)
        try body(writer)
        try writer.finish()
    }

    /// The activations saved as `name` that `layers` finished layers left: those of the last
    /// boundary that was needed.
    func chain(_ name: String, layers: Int, batches: [TokenBatch]) throws -> ActivationChain? {
        guard let boundary = (0...layers).last(where: { exists(chainPath(name, $0)) }) else {
            return nil
        }
        return try ActivationChain(
            file: chainPath(name, boundary), boundary: boundary, batches: batches, key: key)
    }

    /// Ends layer `index`: saves the activations that the next one starts from, then the record,
    /// and forgets the activations before.
    func finish(
        _ index: Int, _ record: LayerRecord, chains: [(name: String, chain: ActivationChain?)]
    ) throws {
        for (name, chain) in chains {
            guard let chain, !exists(chainPath(name, chain.boundary)) else { continue }
            try chain.save(to: chainPath(name, chain.boundary), key: key)
        }
        try AtomicFile.write(record.json(), to: recordPath(index))
        for (name, chain) in chains {
            for boundary in 0..<(chain?.boundary ?? 0) { unlink(chainPath(name, boundary)) }
        }
    }

    /// Removes the directory with all it holds.
    func remove() throws {
        try FileManager.default.removeItem(atPath: path)
    }

    /// Gives a finished file another name in `directory`, without copying it where the file system
    /// can.
    func link(_ file: String, into directory: AtomicDirectory, as name: String) throws {
        guard Glibc.link(file, "\(directory.path)/\(name)") != 0 else { return }
        try directory.copy(file, to: name)
    }

    private func recordPath(_ index: Int) -> String { "\(path)/part-\(index.zeroPadded(5)).json" }

    private func chainPath(_ name: String, _ layers: Int) -> String {
        "\(path)/\(name)-\(layers.zeroPadded(5)).safetensors"
    }

    private func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }

    private static func failure(_ operation: String, _ path: String) -> CompressionError {
        .system(operation: operation, path: path, reason: String(cString: strerror(errno)))
    }
}
