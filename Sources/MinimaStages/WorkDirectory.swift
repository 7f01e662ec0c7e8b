import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore

/// Progress of a long run on disk: `OUT.minima-work` beside the output.
///
/// Nothing is taken from a directory that was begun with another key, and one run works in it at a
/// time. What is in it by name: finished parts (``WorkParts``), the state of a training.
final class WorkDirectory {
    let path: String
    /// What all results depend on.
    let key: String
    private let lock: Int32

    /// Opens or creates the directory and locks it for as long as this object lives.
    ///
    /// - Throws: `WorkDirectoryError.foreign` for another key's progress, `.inUse` while another
    ///   run holds the lock, `CheckpointError.system` where it cannot be made or opened.
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
            throw WorkDirectoryError.inUse(path: path)
        }
        let names = try FileManager.default.contentsOfDirectory(atPath: path)
        if names.contains("key") {
            try checkKey()
        } else {
            guard names.allSatisfy({ $0.hasPrefix(".key.partial-") }) else {
                throw WorkDirectoryError.foreign(path: path)
            }
            try AtomicFile.write(key, to: "\(path)/key")
        }
    }

    /// Opens the directory that another process of this run has opened and keeps locked.
    ///
    /// - Throws: `WorkDirectoryError.foreign` for another key's progress.
    init(joining path: String, key: String) throws {
        self.path = path
        self.key = key
        lock = -1
        try checkKey()
    }

    deinit {
        if lock >= 0 { close(lock) }
    }

    private func checkKey() throws {
        let found = try readFile("\(path)/key", limit: 1024)
        guard found.elementsEqual(key.utf8) else {
            throw WorkDirectoryError.foreign(path: path)
        }
    }

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

    private static func failure(_ operation: String, _ path: String) -> CheckpointError {
        .system(SystemError(operation: operation, path: path, code: errno))
    }
}

/// Parts of a work that are done in turn, such as decoder layers: for every finished one its tensors
/// and its record, and for the next one the activations that it starts from.
///
/// A record is written after all that it stands for, and each file appears at once: a run that was
/// killed goes on after its last finished part and writes the same bytes.
struct WorkParts<Record: StageResult> {
    let directory: WorkDirectory
    /// What the files' names begin with.
    let name: String

    /// The parts in `directory` whose files' names begin with `name`.
    init(in directory: WorkDirectory, _ name: String = "part") {
        self.directory = directory
        self.name = name
    }

    /// Records of the finished parts, from the first on.
    func records() throws -> [Record] {
        var records: [Record] = []
        while exists(recordPath(records.count)) {
            let bytes = try readFile(recordPath(records.count), limit: 64 << 20)
            records.append(try Record(json: String(decoding: bytes, as: UTF8.self)))
        }
        return records
    }

    /// The file with the tensors of part `index`.
    func tensorsPath(_ index: Int) -> String { path(name, index, "safetensors") }

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

    /// The activations saved as `name` at layer `boundary`, or at the last one before it.
    func chain(_ name: String, boundary: Int, batches: [TokenBatch]) throws -> ActivationChain? {
        let saved = (0...boundary).last { exists(chainPath(name, $0)) }
        guard let saved else { return nil }
        return try ActivationChain(
            file: chainPath(name, saved), boundary: saved, batches: batches, key: directory.key)
    }

    /// Saves the activations that the next part starts from, which are kept until ``forget(before:)``.
    func save(_ chains: [(name: String, chain: ActivationChain)]) throws {
        for (name, chain) in chains where !exists(chainPath(name, chain.boundary)) {
            try chain.save(to: chainPath(name, chain.boundary), key: directory.key)
        }
    }

    /// Ends part `index`, of which everything else is written.
    func finish(_ index: Int, _ record: Record) throws {
        try AtomicFile.write(record.json(), to: recordPath(index))
    }

    /// Removes the activations at earlier boundaries than those of `chains`.
    func forget(before chains: [(name: String, chain: ActivationChain)]) {
        for (name, chain) in chains {
            for boundary in 0..<chain.boundary { unlink(chainPath(name, boundary)) }
        }
    }

    private func recordPath(_ index: Int) -> String { path(name, index, "json") }

    private func chainPath(_ name: String, _ boundary: Int) -> String {
        path(name, boundary, "safetensors")
    }

    private func path(_ name: String, _ index: Int, _ suffix: String) -> String {
        "\(directory.path)/\(name)-\(index.zeroPadded(5)).\(suffix)"
    }

    private func exists(_ path: String) -> Bool { access(path, F_OK) == 0 }
}

/// Why a work directory cannot be used.
public enum WorkDirectoryError: Error, Hashable, CustomStringConvertible {
    case foreign(path: String)
    case inUse(path: String)

    /// What was found, what to do.
    public var description: String {
        switch self {
        case .foreign(let path):
            """
            \(path) holds the progress of another run (of another model, plan, text or option); \
            remove it, or choose another output path
            """
        case .inUse(let path):
            "another run is working in \(path); wait for it, or choose another output path"
        }
    }
}
