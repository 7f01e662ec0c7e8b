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

extension Checkpoint: WeightSource {
    /// Whether a file holds it.
    public func holds(_ name: String) -> Bool { info(name) != nil }

    /// Claims on the files' tensors.
    public func claims() -> TensorClaims? { TensorClaims(self) }

    /// Reads the file's bytes; `shape` was compared when the tensor was claimed.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        try tensor(name).to(device)
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

    /// The stored values of `name` as a CPU tensor of the stored dtype, in memory of its own.
    public func tensor(_ name: String) throws -> Tensor {
        let bytes = try bytes(of: name)
        guard let info = info(name) else {
            throw CheckpointError.noSuchTensor(path: path, name: name, count: tensors.count)
        }
        let tensor = try bytes.withUnsafeBytes { (buffer) throws(TensorError) in
            try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype)
        }
        bytes.mapping.release(bytes.range)
        return tensor
    }
}

/// A model of given sizes with random weights: memory and time of a model without its files.
///
/// Matrices are normal with standard deviation 1/√columns, norms are 1, biases 0. A tensor depends
/// on the seed, its name and the kind of device it is made on.
public struct RandomWeights: WeightSource {
    /// The directory of `config.json`.
    public let path: String
    /// `config.json`, which alone decides the sizes.
    public let config: ModelConfig
    private let seed: UInt64
    private let dtype: DType

    /// A model with the sizes of the configuration in the directory at `path`.
    public init(path: String, seed: UInt64) throws {
        self.path = path
        self.seed = seed
        config = try ModelConfig(path: path + "/config.json")
        dtype = try config.dtype ?? .bfloat16
    }

    /// A tied head has no tensor of its own; everything else exists.
    public func holds(_ name: String) -> Bool {
        name != "lm_head.weight" || (try? config.tieWordEmbeddings) != true
    }

    /// Any name and shape can be had.
    public func claims() -> TensorClaims? { nil }

    /// Values from the seed and the name.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        guard shape.count > 1, let columns = shape.last else {
            let value = name.hasSuffix(".bias") ? 0.0 : 1.0
            return try .full(shape, value, dtype: dtype, device: device)
        }
        var hash = SHA256()
        Array("\(seed) \(name)".utf8).withUnsafeBytes { hash.update($0) }
        let digest = hash.hexadecimalDigest().prefix(16)
        let generator = try RandomGenerator(seed: UInt64(digest, radix: 16) ?? seed, device: device)
        let values = try Tensor.randn(
            shape, dtype: device == .cpu ? .float32 : dtype, device: device, generator: generator)
        return try (values * (1 / Double(columns).squareRoot())).to(dtype: dtype)
    }

    /// The seed.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        ["random weights": "seed \(seed)"]
    }
}
