import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

/// Hands a model its tensors while it is built; building is loading, checked shape by shape.
///
/// Missing and misshapen tensors are noted and replaced by zeros without storage, so that
/// ``finish()`` names all of them at once.
public struct WeightLoader {
    private let checkpoint: Checkpoint
    private let manifest: CompressionManifest
    private let device: Device
    private let dtype: DType
    /// Called before a tensor is read; `nil` where none is read.
    private let onTensor: (() throws -> Void)?
    private var claims: TensorClaims
    private var unused: Set<String>

    /// A loader of `checkpoint`'s tensors as `dtype` on `device`.
    ///
    /// - Parameter onTensor: Called before each tensor is read; throws to stop.
    public init(
        _ checkpoint: Checkpoint, device: Device, dtype: DType,
        onTensor: @escaping () throws -> Void = {}
    ) throws(CheckpointError) {
        try self.init(checkpoint, device, dtype, onTensor)
    }

    /// A loader that only checks: every tensor is zeros without storage.
    init(checking checkpoint: Checkpoint) throws(CheckpointError) {
        try self.init(checkpoint, .cpu, .float32, nil)
    }

    private init(
        _ checkpoint: Checkpoint, _ device: Device, _ dtype: DType,
        _ onTensor: (() throws -> Void)?
    ) throws(CheckpointError) {
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        self.onTensor = onTensor
        manifest = try CompressionManifest(checkpoint.config)
        claims = checkpoint.claims()
        unused = Set(manifest.modules.keys)
    }

    /// The tensor called `name`, of exactly `shape`.
    public mutating func tensor(_ name: String, shape: [Int]) throws -> Tensor {
        guard claims.claim(name, shape: shape) != nil, let onTensor else {
            return try Tensor.zeros([1], dtype: dtype).expand(shape.isEmpty ? [1] : shape)
        }
        try onTensor()
        return try checkpoint.tensor(name).to(device, dtype: dtype)
    }

    /// The output projection `[vocabulary, hidden]` of a model whose configuration says whether it
    /// is `embedding`.
    ///
    /// A checkpoint that stores other values under `lm_head.weight` is not tied, whatever its
    /// configuration says; transformers 5 decides so, too.
    public mutating func head(tied: Bool, embedding: Tensor) throws -> Tensor {
        let name = "lm_head.weight"
        guard tied else { return try tensor(name, shape: embedding.shape) }
        guard checkpoint.info(name) != nil else { return embedding }
        let head = try tensor(name, shape: embedding.shape)
        let isSame = try onTensor == nil || head.isIdentical(to: embedding)
        return isSame ? embedding : head
    }

    /// The linear layer called `name` in whatever format the checkpoint stores it.
    public mutating func linear(_ name: String, outputs: Int, inputs: Int, bias: Bool) throws
        -> Linear
    {
        let spec = manifest.modules[name] ?? FormatSpec(format: Dense.name)
        unused.remove(name)
        let format: any LinearWeight.Type
        let layout: [(name: String, shape: [Int])]
        do {
            format = try FormatRegistry.format(spec.format)
            layout = try format.layout(spec, outputs: outputs, inputs: inputs)
        } catch {
            throw unusable(spec, of: name, error)
        }
        var tensors: [Tensor] = []
        for item in layout {
            tensors.append(try tensor("\(name).\(item.name)", shape: item.shape))
        }
        let weight = try format.init(
            spec: spec, outputs: outputs, inputs: inputs, tensors: tensors)
        return Linear(
            name: name, weight: weight,
            bias: bias ? try tensor("\(name).bias", shape: [outputs]) : nil)
    }

    /// The error for a format that does not suit the module called `name`: the manifest's if that
    /// chose it, the configuration's sizes otherwise.
    private func unusable(_ spec: FormatSpec, of name: String, _ error: FormatError) -> any Error {
        guard manifest.modules[name] != nil else { return error }
        return CheckpointError.value(
            path: checkpoint.config.path, key: "quantization_config.modules.\(name)",
            found: spec.json.text(indent: nil), expected: "a usable format: \(error)")
    }

    /// Marks tensors as known and not needed.
    public mutating func ignore(where isNotNeeded: (String) -> Bool) {
        claims.ignore(where: isNotNeeded)
    }

    /// Throws one error with the names of all tensors that are missing, misshapen or left over.
    public func finish() throws(CheckpointError) {
        try claims.finish()
        guard unused.isEmpty else {
            throw .value(
                path: checkpoint.config.path, key: "quantization_config.modules",
                found: unused.sorted().prefix(3).joined(separator: ", "),
                expected: "names of the model's linear layers only")
        }
    }
}

extension Checkpoint {
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
