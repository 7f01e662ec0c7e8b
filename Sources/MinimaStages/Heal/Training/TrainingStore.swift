import FoundationEssentials
import Glibc
import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// What a training knows beside its tensors.
struct TrainingRecord: StageResult, Hashable {
    static let kind = "training"

    /// What the state depends on.
    var key = ""
    /// How it runs.
    var settings: TrainingSettings
    /// Processes that wrote the state.
    var processes = 1
    /// Steps that led to the state.
    var step = 0
    /// Steps that were taken in all, those that were gone back on counted.
    var taken = 0
    /// Seconds so far, of all runs.
    var seconds = 0.0
    /// Those of them in which steps were taken.
    var trainingSeconds = 0.0
    /// What the schedule's step sizes are multiplied by.
    var learningRateScale = 1.0
    /// Times that it went back to an earlier state.
    var stepBacks = 0
    /// Steps from one good state that is kept to the next.
    var markInterval: Int
    /// Judges the losses.
    var monitor = LossMonitor()
    /// Sum of the losses since the last point, and how many they are.
    var lossSum = 0.0
    var losses = 0
    /// The curve.
    var points: [HealingResult.Point] = []
    /// The best held-out measure, and the step that it was taken at.
    var best = Double.infinity
    var bestStep = 0
    /// Measurements in a row without a new best.
    var misses = 0
}

/// The state of one training on disk, in a directory that may hold other files, too.
///
/// Each process writes one safetensors file with its share, which appears when it is complete; then
/// process 0 writes the record, and only then is the checkpoint before removed. So the newest record
/// always has all that it stands for, whenever a process is killed. Two places take turns: a file
/// that was not finished is in the way of no later one.
final class TrainingStore {
    private let directory: String
    private let name: String
    private let key: String
    private let group: ProcessGroup?
    /// The place that holds the newest complete checkpoint.
    private var place: Place?

    private enum Place: String, CaseIterable {
        case a, b
        var other: Place { self == .a ? .b : .a }
    }

    /// A store.
    ///
    /// - Parameters:
    ///   - directory: An existing directory that all processes see.
    ///   - name: What the names of this training's files begin with; no other file's there do.
    ///   - key: What the state depends on; another key's state is an error.
    init(_ directory: String, name: String, key: String, group: ProcessGroup? = nil) {
        self.directory = directory
        self.name = name
        self.key = key
        self.group = group
    }

    /// A checkpoint.
    struct Saved {
        let record: TrainingRecord
        fileprivate let files: [SafetensorsFile]

        /// The tensors whose names begin with `prefix`, without it, as far as `isWanted`; on the
        /// host. The states of all processes are in them.
        func tensors(_ prefix: String, where isWanted: (String) -> Bool) throws -> [String: Tensor]
        {
            var tensors: [String: Tensor] = [:]
            for file in files {
                for info in file.tensors where info.name.hasPrefix(prefix) {
                    let name = String(info.name.dropFirst(prefix.count))
                    guard isWanted(name) else { continue }
                    let bytes = try file.bytes(of: info.name)
                    tensors[name] = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
                        try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype)
                    }
                }
            }
            return tensors
        }
    }

    /// The newest complete checkpoint, by whatever number of processes; `nil` where there is none.
    ///
    /// - Throws: `TrainingError.otherTraining`, `CheckpointError` for files that are damaged.
    func load() throws -> Saved? {
        var found: (place: Place, record: TrainingRecord)?
        for place in Place.allCases where access(recordPath(place), F_OK) == 0 {
            let bytes = try readFile(recordPath(place), limit: 64 << 20)
            let record = try TrainingRecord(json: String(decoding: bytes, as: UTF8.self))
            if record.step > found?.record.step ?? -1 { found = (place, record) }
        }
        if let group {
            // Process 0 chooses: the others may have looked while it cleaned up.
            let chosen = found.map { $0.place == .a ? 1.0 : 2 } ?? 0
            let place = try group.sum([group.rank == 0 ? chosen : 0])[0]
            guard place > 0 else { return nil }
            let wanted = place == 1 ? Place.a : .b
            if found?.place != wanted {
                let bytes = try readFile(recordPath(wanted), limit: 64 << 20)
                found = (wanted, try TrainingRecord(json: String(decoding: bytes, as: UTF8.self)))
            }
        }
        guard let (place, record) = found else { return nil }
        guard record.key == key else {
            throw TrainingError.otherTraining(
                path: recordPath(place), what: "another model, text or option")
        }
        let files = try (0..<record.processes).map {
            try SafetensorsFile(path: tensorsPath(place, $0, of: record.processes))
        }
        for file in files where file.metadata[JSON.Name("step")] != "\(record.step)" {
            throw TrainingError.otherTraining(path: file.path, what: "another step")
        }
        self.place = place
        return Saved(record: record, files: files)
    }

    /// Saves a checkpoint, then removes the one before. All processes call it.
    ///
    /// - Parameter tensors: This process's share, on the host.
    /// - Throws: `CheckpointError.noSpace` with the bytes that are needed where the disk has too
    ///   little room; the checkpoint before stays.
    func save(_ record: TrainingRecord, _ tensors: [(name: String, tensor: Tensor)]) throws {
        let next = place?.other ?? .a
        var record = record
        (record.key, record.processes) = (key, group?.size ?? 1)
        let isFirst = group == nil || group?.rank == 0
        // What an earlier run left here stands for nothing once its files are replaced.
        if isFirst { unlink(recordPath(next)) }
        try group?.barrier()
        try together("save its state") { try write(tensors, step: record.step, to: next) }
        try together("save the record") {
            guard isFirst else { return }
            try AtomicFile.write(record.json(), to: recordPath(next))
            clean(keeping: next, processes: record.processes)
        }
        place = next
    }

    /// Throws `CheckpointError.noSpace` where the disk has fewer than `bytes` free.
    func checkRoom(_ bytes: Int) throws {
        guard let free = WorkDirectory.freeBytes(directory), free < bytes else { return }
        throw CheckpointError.noSpace(path: directory, neededBytes: bytes, freeBytes: free)
    }

    /// Removes all of this training's files; process 0 does it for all.
    func remove() throws {
        place = nil
        if group == nil || group?.rank == 0 { clean(keeping: nil, processes: 0) }
        try group?.barrier()
    }

    private func write(
        _ tensors: [(name: String, tensor: Tensor)], step: Int, to place: Place
    ) throws {
        let writer = try SafetensorsWriter(
            file: tensorsPath(place, group?.rank ?? 0, of: group?.size ?? 1),
            tensors: tensors.map {
                TensorDescription(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
            }, metadata: ["step": "\(step)"])
        for (name, tensor) in tensors { try tensor.withBytes { try writer.write($0, to: name) } }
        try writer.finish()
    }

    /// Runs `body`; throws on all processes where it throws on one, so that none waits for another.
    private func together(_ operation: String, _ body: () throws -> Void) throws {
        let result = Result { try body() }
        if let group {
            var failures = 0.0
            if case .failure = result { failures = 1 }
            failures = try group.sum([failures])[0]
            if failures > 0, case .success = result {
                throw TrainingError.otherProcess(operation: operation)
            }
        }
        try result.get()
    }

    /// Removes this training's files, records first, but those of a place that `processes` wrote.
    private func clean(keeping place: Place?, processes: Int) {
        let kept = place.map { place in
            [recordPath(place)] + (0..<processes).map { tensorsPath(place, $0, of: processes) }
        }
        let names = (try? FileManager.default.contentsOfDirectory(atPath: directory)) ?? []
        let own = names.filter { $0.hasPrefix("\(name).state-") || $0.hasPrefix(".\(name).state-") }
        for name in own.sorted(by: {
            ($0.hasSuffix(".json") ? 0 : 1) < ($1.hasSuffix(".json") ? 0 : 1)
        })
        where kept?.contains("\(directory)/\(name)") != true {
            unlink("\(directory)/\(name)")
        }
    }

    private func recordPath(_ place: Place) -> String {
        "\(directory)/\(name).state-\(place.rawValue).json"
    }

    private func tensorsPath(_ place: Place, _ rank: Int, of count: Int) -> String {
        "\(directory)/\(name).state-\(place.rawValue)-\(rank)-of-\(count).safetensors"
    }
}
