import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// One host tensor `[window, token, hidden]` per batch, in memory or in a safetensors file.
struct BatchTensors: Sendable {
    private enum Storage {
        case memory([Tensor])
        case file(SafetensorsFile)
    }

    private var storage: Storage

    /// Where tensors go.
    enum Place: Sendable {
        case memory
        case file(String)
    }

    /// What makes a file this calibration's: compared before a value is read.
    struct Label: Sendable {
        /// `activations` or `gradients`.
        let kind: String
        /// The layer whose inputs these belong to.
        let boundary: Int
        /// Content of the whole calibration.
        let key: String

        var metadata: [String: String] {
            ["minima": kind, "boundary": "\(boundary)", "key": key]
        }
    }

    /// Computes `make(batch)` for each batch in turn and keeps its values on the host.
    ///
    /// A file appears when all batches are in it; memory then holds one at a time.
    init(
        _ batches: [TokenBatch], hidden: Int, dtype: DType, in place: Place, _ label: Label,
        _ make: (Int) throws -> Tensor
    ) throws {
        switch place {
        case .memory:
            storage = .memory(try batches.indices.map { try make($0).to(.cpu) })
        case .file(let path):
            let writer = try Self.writer(batches, hidden, dtype, path, label)
            for index in batches.indices {
                try make(index).withBytes { try writer.write($0, to: "batch.\(index)") }
            }
            try writer.finish()
            storage = .file(try SafetensorsFile(path: path))
        }
    }

    /// Opens what was written for these batches under the same label.
    ///
    /// - Throws: `CheckpointError` for files that cannot be read, `CalibrationError.foreignFile`
    ///   for those of other batches or another key.
    init(file path: String, batches: [TokenBatch], _ label: Label) throws {
        let file = try SafetensorsFile(path: path)
        for (key, value) in label.metadata where file.metadata[JSON.Name(key)] != value {
            throw CalibrationError.foreignFile(path: path, reason: "its \(key) is another")
        }
        let first = file.info("batch.0")
        for (index, batch) in batches.enumerated() {
            let info = file.info("batch.\(index)")
            guard let info, let first, info.dtype == first.dtype,
                info.shape == [batch.windows.count, batch.length, first.shape.last ?? 0]
            else {
                throw CalibrationError.foreignFile(
                    path: path, reason: "batch \(index) has another shape")
            }
        }
        storage = .file(file)
    }

    /// Tensor `index`, on the host.
    func tensor(_ index: Int) throws -> Tensor {
        switch storage {
        case .memory(let tensors): return tensors[index]
        case .file(let file):
            let name = "batch.\(index)"
            let bytes = try file.bytes(of: name)
            guard let info = file.info(name) else {
                throw CalibrationError.foreignFile(path: file.path, reason: "\(name) is missing")
            }
            let tensor = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
                try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype)
            }
            bytes.mapping.release(bytes.range)
            return tensor
        }
    }

    /// Puts `tensor` in place of tensor `index`; all of a file's are read into memory first.
    mutating func replace(_ index: Int, by tensor: Tensor, count: Int) throws {
        var tensors: [Tensor]
        switch storage {
        case .memory(let present): tensors = present
        case .file: tensors = try (0..<count).map { try self.tensor($0) }
        }
        storage = .memory([])
        tensors[index] = try tensor.to(.cpu)
        storage = .memory(tensors)
    }

    /// Writes a copy to `path`.
    func save(_ batches: [TokenBatch], to path: String, _ label: Label) throws {
        guard let first = batches.isEmpty ? nil : try tensor(0) else { return }
        let writer = try Self.writer(batches, first.shape[2], first.dtype, path, label)
        for index in batches.indices {
            try tensor(index).withBytes { try writer.write($0, to: "batch.\(index)") }
        }
        try writer.finish()
    }

    private static func writer(
        _ batches: [TokenBatch], _ hidden: Int, _ dtype: DType, _ path: String, _ label: Label
    ) throws -> SafetensorsWriter {
        try SafetensorsWriter(
            file: path,
            tensors: batches.enumerated().map { index, batch in
                TensorDescription(
                    name: "batch.\(index)", dtype: dtype,
                    shape: [batch.windows.count, batch.length, hidden])
            }, metadata: label.metadata)
    }
}
