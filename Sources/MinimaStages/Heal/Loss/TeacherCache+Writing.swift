import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

extension TeacherCache {
    /// Writes what is missing of a cache.
    ///
    /// A file appears when it is complete: a run that was killed goes on after its last one, and
    /// files that were cut short are written again. Of several processes, number `rank` writes the
    /// files whose number modulo `processes` is `rank`. Before anything is computed, progress says
    /// how many bytes are to come.
    ///
    /// - Parameters:
    ///   - key: Made from `text` and the teacher.
    ///   - text: Whose tokens are in the teacher's vocabulary.
    /// - Throws: `TeacherCacheError.foreign` where the directory holds another cache, `.badCount`,
    ///   `CheckpointError.noSpace` where the disk has less room than all files that are missing need.
    static func write(
        _ key: Key, text: HealingText, teacher: any LanguageModel, to directory: String,
        rank: Int = 0, of processes: Int = 1, progress: ProgressHandler = { _ in }
    ) throws {
        precondition(key.text == text.hash, "a key of another text")
        try key.check()
        try FileManager.default.createDirectory(
            atPath: directory, withIntermediateDirectories: true)
        let missing = try (0..<key.files).filter { try !isWritten(key, $0, in: directory) }
        let needed = Saturating.sum(missing.map(key.byteCount(ofFile:)))
        if let free = WorkDirectory.freeBytes(directory), needed > free {
            throw CheckpointError.noSpace(path: directory, neededBytes: needed, freeBytes: free)
        }
        let own = missing.filter { $0 % processes == rank }
        let total = own.reduce(0) { $0 + key.windows(inFile: $1).count }
        var done = 0
        func report() throws {
            try progress(
                StageProgress(
                    stage: "teacher", done: done, total: total, unit: "windows",
                    note: "\(key.byteCount >> 20) MiB in \(directory)"))
        }
        guard total > 0 else { return }
        try report()
        for file in own {
            let tensors = key.tensors(inFile: file)
            let rows = try distributions(key, key.windows(inFile: file), text, teacher) { count in
                done += count
                try report()
            }
            let writer = try SafetensorsWriter(
                file: path(file, in: directory), tensors: tensors,
                metadata: Dictionary(
                    key.metadata(ofFile: file).map { ($0.name, $0.value) },
                    uniquingKeysWith: { first, _ in first }))
            for (tensor, value) in zip(tensors, [rows.logProbabilities, rows.ids, rows.tail]) {
                try value.withBytes { try writer.write($0, to: tensor.name) }
            }
            try writer.finish()
        }
    }

    private static func isWritten(_ key: Key, _ file: Int, in directory: String) throws -> Bool {
        do {
            _ = try open(key, file, in: directory)
            return true
        } catch is CheckpointError {
            return false
        }
    }

    /// The distributions of `windows` as they are stored, on the host.
    private static func distributions(
        _ key: Key, _ windows: Range<Int>, _ text: HealingText, _ teacher: any LanguageModel,
        onWindows: (Int) throws -> Void
    ) throws -> TeacherRows {
        let device = teacher.device
        let perPass = max((device == .cpu ? 4096 : 32768) / key.context, 1)
        let step = max(GradientChain.logitsPerChunk(device) / key.vocabulary, 1)
        var parts: [TeacherRows] = []
        for start in stride(from: windows.lowerBound, to: windows.upperBound, by: perPass) {
            let some = start..<min(start + perPass, windows.upperBound)
            try withoutGradients {
                let hidden = try teacher.run(text.batch(Array(some)).inputs.to(device))
                    .reshape([-1, teacher.dimensions.hidden])
                for first in stride(from: 0, to: hidden.shape[0], by: step) {
                    let range = first..<min(first + step, hidden.shape[0])
                    let rows = try TeacherRows(
                        logits: teacher.logits(hidden.narrow(0, range)),
                        temperature: key.temperature, count: key.count)
                    parts.append(
                        TeacherRows(
                            logProbabilities: try rows.logProbabilities.clamp(min: leastLog)
                                .to(.cpu, dtype: .float16),
                            ids: try rows.ids.to(.cpu, dtype: key.idType),
                            tail: try rows.tail.to(.cpu)))
                }
            }
            try onWindows(some.count)
        }
        return TeacherRows(
            logProbabilities: try .cat(parts.map(\.logProbabilities)),
            ids: try .cat(parts.map(\.ids)), tail: try .cat(parts.map(\.tail)))
    }
}
