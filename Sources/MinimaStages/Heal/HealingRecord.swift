import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// What a healing has done so far, `healing.json` in its work directory.
struct HealingRecord: StageResult {
    static let kind = "healing-progress"

    /// A phase whose tensors are `end-to-end.safetensors` in the work directory.
    struct Part: Codable, Sendable {
        var phase: HealingResult.Phase
        /// What it depends on.
        var key: String
        /// Formats of linear modules that have changed.
        var specs: [String: FormatSpec] = [:]
        /// Names of tensors that are no longer there.
        var removed: [String] = []

        static func path(in work: WorkDirectory) -> String {
            "\(work.path)/end-to-end.safetensors"
        }

        /// Writes a phase's tensors, which appear at once.
        init(
            _ phase: HealingResult.Phase, _ stored: TrainableModelParts.Stored, key: String,
            in work: WorkDirectory, isWriter: Bool
        ) throws {
            self.phase = phase
            self.key = key
            specs = stored.specs
            removed = stored.removed
            guard isWriter else { return }
            let writer = try SafetensorsWriter(
                file: Self.path(in: work),
                tensors: stored.tensors.map {
                    TensorDescription(
                        name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
                }, metadata: SafetensorsWriter.defaultMetadata)
            for (name, tensor) in stored.tensors {
                try tensor.withBytes { (bytes) throws(CheckpointError) in
                    try writer.write(bytes, to: name)
                }
            }
            try writer.finish()
        }

        /// The model with this phase's tensors.
        func applied(to source: HealedWeights, _ work: WorkDirectory) throws -> HealedWeights {
            try HealedWeights(
                source, files: [Self.path(in: work)], specs: specs, removed: Set(removed))
        }
    }

    /// A held-out measurement of a model, and its teacher's perplexity there.
    struct Measurement: Codable, Sendable {
        var model: HealingResult.Measurement
        var teacherPerplexity: Double
    }

    /// Before healing.
    var before: Measurement?
    /// Blocks that were healed.
    var blocks: [HealingResult.Phase] = []
    /// The end-to-end phase.
    var endToEnd: Part?
    /// Where the first process has written the healed model, for the others to read it.
    var written: String?
    /// Wall-clock seconds of all runs beside the phases, which keep their own.
    var seconds = 0.0

    /// The record in `work`; an empty one where there is none.
    static func load(_ work: WorkDirectory) throws -> HealingRecord {
        let path = "\(work.path)/healing.json"
        guard FileManager.default.fileExists(atPath: path) else { return HealingRecord() }
        let bytes = try readFile(path, limit: 64 << 20)
        return try HealingRecord(json: String(decoding: bytes, as: UTF8.self))
    }

    func save(_ work: WorkDirectory) throws {
        try AtomicFile.write(json(), to: "\(work.path)/healing.json")
    }
}
