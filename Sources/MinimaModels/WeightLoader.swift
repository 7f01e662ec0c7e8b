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
    private var claims: TensorClaims
    private var unused: Set<String>

    /// A loader of `checkpoint`'s tensors as `dtype` on `device`.
    public init(_ checkpoint: Checkpoint, device: Device, dtype: DType) throws(CheckpointError) {
        self.checkpoint = checkpoint
        self.device = device
        self.dtype = dtype
        manifest = try CompressionManifest(checkpoint.config)
        claims = checkpoint.claims()
        unused = Set(manifest.modules.keys)
    }

    /// The tensor called `name`, of exactly `shape`.
    public mutating func tensor(_ name: String, shape: [Int]) throws -> Tensor {
        guard claims.claim(name, shape: shape) != nil else {
            return try Tensor.zeros([1], dtype: dtype).expand(shape.isEmpty ? [1] : shape)
        }
        return try checkpoint.tensor(name).to(device, dtype: dtype)
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
            throw CheckpointError.value(
                path: checkpoint.config.path, key: "quantization_config.modules.\(name)",
                found: spec.json.text(indent: nil), expected: "a usable format: \(error)")
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
