import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor

/// A healed model as it is stored: the compressed checkpoint with healed tensors in place of its
/// own.
struct HealedModel {
    private let source: any WeightSource
    private let student: Checkpoint
    /// In the checkpoint's order; what is new comes after.
    private let tensors: [TensorDescription]

    /// - Parameters:
    ///   - source: The healed model; its values are of any floating-point type.
    ///   - student: The checkpoint that was healed.
    init(_ source: any WeightSource, _ student: Checkpoint) throws {
        self.source = source
        self.student = student
        let needed = try source.checkModel()
        let names = Set(needed.map { JSON.Name($0.name) })
        let before = Set(try student.checkModel().map { JSON.Name($0.name) })
        // What no model takes, such as stored frequencies, stays; what the healed one does not take
        // any more goes.
        let copy = try Self.copyOfTiedEmbedding(student)
        let kept = student.tensors.filter {
            let isNeeded =
                names.contains(JSON.Name($0.name)) || !before.contains(JSON.Name($0.name))
            return isNeeded && $0.name != copy
        }
        let stored = Set(kept.map { JSON.Name($0.name) })
        let dtype = try student.storedDType()
        tensors =
            kept.map { TensorDescription(name: $0.name, dtype: $0.dtype, shape: $0.shape) }
            + needed.filter { !stored.contains(JSON.Name($0.name)) && $0.name != copy }.map {
                TensorDescription(name: $0.name, dtype: $0.dtype ?? dtype, shape: $0.shape)
            }
    }

    /// The output projection of a tied model that stores its embedding twice: once that trains, the
    /// copy would be taken for a projection of its own.
    private static func copyOfTiedEmbedding(_ student: Checkpoint) throws -> String? {
        let (head, embedding) = ("lm_head.weight", "model.embed_tokens.weight")
        guard try student.config.tieWordEmbeddings == true, student.holds(head),
            student.holds(embedding),
            try student.tensor(head).isIdentical(to: student.tensor(embedding))
        else { return nil }
        return head
    }

    /// Writes weights, configuration and every file beside them.
    func write(to directory: AtomicDirectory, largestFile: Int, _ progress: ProgressHandler) throws
    {
        func report(_ done: Int) throws {
            try progress(
                StageProgress(stage: "write", done: done, total: tensors.count, unit: "tensors"))
        }
        try report(0)
        let writer = try SafetensorsWriter(
            in: directory, tensors: tensors, maxShardBytes: largestFile)
        for (index, item) in tensors.enumerated() {
            let tensor = try source.tensor(item.name, shape: item.shape, on: .cpu)
                .to(dtype: item.dtype).contiguous()
            try tensor.withBytes { (bytes) throws(CheckpointError) in
                try writer.write(bytes, to: item.name)
            }
            try report(index + 1)
        }
        try writer.finish()
        try directory.write(source.config.json.text() + "\n", to: "config.json")
        for name in try student.companionFiles() where name != "minima.json" {
            try directory.copy("\(student.path)/\(name)", to: name)
        }
    }
}

extension Checkpoint {
    /// The account of the compression that made this model, also where it was healed since; `nil`
    /// where there is none.
    func compression() throws -> CompressionResult? {
        let path = "\(path)/minima.json"
        guard let bytes = try? readFile(path, limit: 1 << 30) else { return nil }
        let text = String(decoding: bytes, as: UTF8.self)
        guard try JSON(parsing: text)["kind"]?.string == HealingResult.kind else {
            return try CompressionResult(json: text)
        }
        return try HealingResult(json: text).compression
    }
}
