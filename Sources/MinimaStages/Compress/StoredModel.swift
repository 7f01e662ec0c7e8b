import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels

/// A dense model as it is read from what is stored: its tensors by decoder layer, and its sites.
struct StoredModel {
    let source: any WeightSource
    /// All sites in forward order.
    let sites: [Site]
    /// Decoder layers.
    let layers: Int
    /// Tensors of each decoder layer, then the rest; in the checkpoint's order.
    let parts: [[TensorDescription]]
    private let tensors: [JSON.Name: TensorDescription]

    /// Reads names, types and shapes, no weight.
    ///
    /// - Throws: `StageError.alreadyCompressed`; `CheckpointError` for tensors that are not those
    ///   of the configuration's model.
    init(_ source: any WeightSource) throws {
        guard try CompressionManifest(source.config).modules.isEmpty else {
            throw StageError.alreadyCompressed(path: source.path)
        }
        self.source = source
        let requests = try source.checkModel()
        let tensors: [TensorDescription]
        if let checkpoint = source as? Checkpoint {
            tensors = try checkpoint.contents()
        } else {
            let dtype = try source.storedDType()
            tensors = requests.map {
                TensorDescription(name: $0.name, dtype: $0.dtype ?? dtype, shape: $0.shape)
            }
        }
        sites = try source.sites()
        let layers = (sites.map(\.layer).max() ?? -1) + 1
        let family = try FamilyRegistry.family(source.config)
        let prefixes = (0..<layers).map { family.layerPrefix($0) }
        var parts = Array(repeating: [TensorDescription](), count: layers + 1)
        for tensor in tensors {
            let layer = prefixes.firstIndex { tensor.name.hasPrefix($0) } ?? layers
            parts[layer].append(tensor)
        }
        self.layers = layers
        self.parts = parts
        self.tensors = Dictionary(
            tensors.map { (JSON.Name($0.name), $0) }, uniquingKeysWith: { first, _ in first })
    }

    /// The type that a linear layer's weight is read in; an output projection without a tensor is
    /// the embedding.
    func dtype(of member: LinearShape) -> DType {
        let embedding =
            member.name == LinearShape.headName
            ? tensors[JSON.Name("model.embed_tokens.weight")] : nil
        return (tensors[JSON.Name("\(member.name).weight")] ?? embedding)?.dtype ?? .float32
    }

    /// Bytes of a linear layer's weight in the files, with its scales where it is in blocks of
    /// float8.
    func storedBytes(of member: LinearShape) -> Int {
        let name = "\(member.name).weight"
        let dtype = dtype(of: member)
        if let checkpoint = source as? Checkpoint, let info = checkpoint.info(name),
            info.dtype != dtype
        {
            let scales = checkpoint.info(Float8Blocks.scaleName(of: name))
            return info.byteCount + (scales?.byteCount ?? 0)
        }
        return Saturating.product([member.outputs, member.inputs, dtype.byteCount])
    }

    /// Bytes of all tensors in the files; of a seed, those that they would take.
    var storedBytes: Int { (source as? Checkpoint)?.byteCount ?? size.bytes }

    /// Whether the output projection has a tensor of its own.
    var storesHead: Bool { tensors[JSON.Name("\(LinearShape.headName).weight")] != nil }

    /// Numbers and bytes of all tensors as they are read.
    var size: (parameters: Int, bytes: Int) { Self.size(parts.joined()) }

    /// Numbers and bytes of `tensors`.
    static func size(_ tensors: some Sequence<TensorDescription>) -> (parameters: Int, bytes: Int) {
        var (parameters, bytes) = (0, 0)
        for tensor in tensors {
            let count = Saturating.product(tensor.shape)
            parameters = Saturating.sum([parameters, count])
            bytes = Saturating.sum([bytes, Saturating.product([count, tensor.dtype.byteCount])])
        }
        return (parameters, bytes)
    }
}
