import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// Where a model's tensors come from: a checkpoint's files, or a seed.
public protocol WeightSource: Sendable {
    /// The model's directory.
    var path: String { get }
    /// `config.json`.
    var config: ModelConfig { get }
    /// Whether there is a tensor called `name`.
    func holds(_ name: String) -> Bool
    /// The type that weights are stored in, as they are read.
    ///
    /// - Throws: `CheckpointError` for a configuration that names an unknown one.
    func storedDType() throws -> DType
    /// An empty list of claims on the tensors; `nil` where any name and shape can be had.
    func claims() -> TensorClaims?
    /// The stored values of `name`, in memory of their own on `device`.
    ///
    /// - Parameter shape: The shape that was claimed.
    func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor
    /// What stands for all weights in records and caches: another whenever one of them is.
    ///
    /// - Parameter onProgress: Called between files and every 64 MiB; throws to cancel.
    func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
}

extension WeightSource {
    /// The type that the configuration names, or bfloat16; also where it names one of a byte.
    public func storedDType() throws -> DType { try config.weightDType() ?? .bfloat16 }
}

extension Checkpoint: WeightSource {
    /// Whether a file holds it.
    public func holds(_ name: String) -> Bool { info(name) != nil }

    /// Claims on the files' tensors.
    public func claims() -> TensorClaims? { TensorClaims(self) }

    /// Reads the file's bytes; `shape` was compared when the tensor was claimed.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        try tensor(name, on: device)
    }

    /// SHA-256 of each file of weights, by its name.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        var hashes: [String: String] = [:]
        for (index, file) in files.enumerated() {
            let name = file.path.split(separator: "/").last.map(String.init) ?? file.path
            hashes[name] = try file.sha256 { try onProgress(index, files.count) }
            try onProgress(index + 1, files.count)
        }
        return hashes
    }

    /// The stored values of `name` as a CPU tensor of the stored dtype, in memory of its own; of a
    /// weight in blocks of float8 (``Float8Blocks``) the numbers that it stands for, in
    /// ``storedDType()``.
    public func tensor(_ name: String) throws -> Tensor {
        try tensor(name, on: .cpu)
    }

    private func tensor(_ name: String, on device: Device) throws -> Tensor {
        let bytes = try bytes(of: name)
        guard let info = info(name) else {
            throw CheckpointError.noSuchTensor(path: path, name: name, count: tensors.count)
        }
        let tensor = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
            try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype).to(device)
        }
        bytes.mapping.release(bytes.range)
        guard Float8Blocks.describes(info), let blocks = try Float8Blocks(config) else {
            return tensor
        }
        return try expanded(tensor, name: name, blocks)
    }
}
