import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor

/// An EAGLE-3 draft's weights in memory: one that is about to train, or one to be written.
public struct DraftWeights: WeightSource {
    /// What stands for them in messages: the draft's directory, or the target's.
    public let path: String
    /// The draft's `config.json`.
    public private(set) var config: ModelConfig
    /// All tensors, on the host, by their names in the checkpoint.
    public internal(set) var tensors: [String: Tensor]

    /// The weights of a draft's directory, all of them read: those in blocks of float8 as the
    /// numbers that they stand for, which the configuration then says, too.
    public init(_ checkpoint: Checkpoint) throws {
        path = checkpoint.path
        config = checkpoint.config
        tensors = [:]
        for item in try checkpoint.contents() {
            tensors[item.name] = try checkpoint.tensor(item.name)
        }
        guard try Float8Blocks(config) != nil else { return }
        var members = try config.json(storing: checkpoint.storedDType()).object ?? [:]
        members.removeValue(forKey: "quantization_config")
        config = try ModelConfig(json: .object(members), path: config.path)
    }

    /// A draft that has not been trained.
    ///
    /// It begins near what the target itself makes of the last of its layers that is read: features
    /// are fused to that one, norm and output projection are the target's for the tokens that the
    /// draft knows, with smaller logits, and attention and feed-forward network add nothing yet.
    ///
    /// - Parameters:
    ///   - target: Loaded, at least with its ends.
    ///   - source: Where it came from.
    ///   - ids: The target's ids of the draft's tokens; any order.
    ///   - seed: Of the first random numbers.
    /// - Throws: `DraftError.badVocabulary` for ids that repeat or are not the target's.
    public init(
        for target: any LanguageModel, _ source: any WeightSource, vocabulary ids: [Int32],
        seed: UInt64 = 0
    ) throws {
        let ids = ids.sorted()
        let size = target.dimensions.vocabulary
        guard let first = ids.first, let last = ids.last, first >= 0, last < size,
            zip(ids, ids.dropFirst()).allSatisfy({ $0 < $1 })
        else {
            throw DraftError.badVocabulary(
                found: """
                    \(ids.count) ids, \(Set(ids).count) different ones, of a vocabulary of \(size)
                    """)
        }
        let sizes = try EagleConfiguration(target: source.config, draftVocabulary: ids.count)
        path = source.path
        config = try ModelConfig(
            json: sizes.json(target: source.config), path: source.path + "/config.json")
        tensors = [:]
        let generator = try RandomGenerator(seed: seed)
        for site in try EagleDraft.sites(self) {
            for member in site.members {
                let shape = [member.outputs, member.inputs]
                // Of what is added to the stream, nothing at first.
                tensors["\(member.name).weight"] =
                    site.addsToResidual
                    ? try .zeros(shape)
                    : try Tensor.randn(shape, generator: generator)
                        * (1 / Double(member.inputs).squareRoot())
            }
        }
        let width = sizes.targetHidden
        tensors["fc.weight"] = try .cat(
            [.zeros([width, (EagleConfiguration.featureCount - 1) * width]), .identity(width)],
            dim: 1)
        for norm in ["input_layernorm", "hidden_norm", "post_attention_layernorm"] {
            tensors["\(EagleDraft.layerName).\(norm).weight"] = try .ones([width])
        }
        // What it says at first is mostly wrong: sharper, the loss begins at 9.9 nats per guess
        // instead of 6.5 (example model), and ends no lower.
        tensors["norm.weight"] = try Self.scale(of: target) * 0.3
        tensors["lm_head.weight"] = try Self.head(of: target, ids)
        let numbers = try Tensor(ids.map(Int64.init))
        tensors[EagleDraft.offsetsName] = try numbers - .arange(0..<ids.count)
        var isKnown = [UInt8](repeating: 0, count: size)
        for id in ids { isKnown[Int(id)] = 1 }
        tensors[EagleDraft.membershipName] = try Tensor(isKnown).to(dtype: .bool)
    }

    /// What the target's final norm multiplies by: its value for a stream of ones, whose root mean
    /// square is 1.
    private static func scale(of target: any LanguageModel) throws -> Tensor {
        let ones = try Tensor.ones(
            [1, 1, target.dimensions.hidden], dtype: target.dtype, device: target.device)
        return try withoutGradients {
            try target.normed(ones).reshape([-1]).to(.cpu, dtype: .float32)
        }
    }

    /// The rows of the target's output projection for `ids`, `[ids, hidden]`.
    private static func head(of target: any LanguageModel, _ ids: [Int32]) throws -> Tensor {
        let rows = try Tensor(ids.map(Int64.init)).to(target.device)
        return try withoutGradients {
            try target.head.weight.reconstruct().selecting(0, rows).to(.cpu, dtype: .float32)
        }
    }

    /// These weights with what training has changed.
    public func replacing(_ stored: TrainableModelParts.Stored) throws -> DraftWeights {
        var draft = self
        for name in stored.removed { draft.tensors[name] = nil }
        for (name, tensor) in stored.tensors { draft.tensors[name] = try tensor.to(.cpu) }
        try draft.setFormats(CompressionManifest(config).modules.merging(stored.specs) { $1 })
        return draft
    }

    /// These weights with another weight for the linear module called `name`.
    ///
    /// - Parameters:
    ///   - name: As in `EagleDraft.sites(_:)`: a layer's, or that of layers that read one input,
    ///     whose weights the stacked one replaces.
    ///   - weight: On the host, of the module's size.
    public func replacing(_ name: String, with weight: any LinearWeight) throws -> DraftWeights {
        var draft = self
        var modules = try CompressionManifest(config).modules
        // A stacked weight takes the place of its members'.
        let members = try EagleDraft.sites(self).first { $0.name == name }?.members.map(\.name)
        for module in Set((members ?? []) + [name]) {
            for other in tensors.keys
            where other.hasPrefix("\(module).") && other != "\(module).bias" {
                draft.tensors[other] = nil
            }
            modules[module] = nil
        }
        for (part, tensor) in weight.tensors { draft.tensors["\(name).\(part)"] = tensor }
        if weight.spec.format != Dense.name { modules[name] = weight.spec }
        try draft.setFormats(modules)
        return draft
    }

    private mutating func setFormats(_ modules: [String: FormatSpec]) throws {
        var members = config.json.object ?? [:]
        members["quantization_config"] = CompressionManifest(modules: modules).json
        if modules.isEmpty { members.removeValue(forKey: "quantization_config") }
        config = try ModelConfig(json: .object(members), path: config.path)
    }

    // MARK: Source

    /// Whether it is among the tensors.
    public func holds(_ name: String) -> Bool { tensors[name] != nil }

    /// The type that the configuration names, or that of most numbers in memory.
    public func storedDType() throws -> DType {
        try config.weightDType()
            ?? .commonest(tensors.values.map { ($0.dtype, $0.shape.reduce(1, *)) })
    }

    /// Whatever is missing shows when it is read.
    public func claims() -> TensorClaims? { nil }

    /// A copy of the tensor called `name`.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        guard let tensor = tensors[name] else { throw DraftError.noTensor(name: name) }
        return try tensor.clone().to(device)
    }

    /// SHA-256 of all names and values, by itself.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        var hash = SHA256()
        for (index, name) in tensors.keys.sorted().enumerated() {
            Array(name.utf8).withUnsafeBytes { hash.update($0) }
            try tensors[name]?.contiguous().withBytes { hash.update($0) }
            try onProgress(index + 1, tensors.count)
        }
        return ["draft": hash.hexadecimalDigest()]
    }

    // MARK: Writing

    /// Writes `config.json` and `model.safetensors` in the public EAGLE-3 layout.
    ///
    /// - Parameters:
    ///   - directory: Still to be committed.
    ///   - dtype: The type of values that no format has a type for; `nil`: ``storedDType()``.
    /// - Throws: `CheckpointError`, as where the disk has too little room.
    public func write(to directory: AtomicDirectory, dtype: DType? = nil) throws {
        let dtype = try dtype ?? storedDType()
        let fixed = try typedNames()
        var stored: [(name: String, tensor: Tensor)] = []
        for (name, tensor) in tensors.sorted(by: { $0.key < $1.key }) {
            let isPlain = tensor.dtype.isFloatingPoint && !fixed.contains(name)
            stored.append((name, isPlain ? try tensor.to(dtype: dtype) : tensor))
        }
        let writer = try SafetensorsWriter(
            in: directory,
            tensors: stored.map {
                TensorDescription(name: $0.name, dtype: $0.tensor.dtype, shape: $0.tensor.shape)
            }, maxShardBytes: .max)
        for (name, tensor) in stored {
            try tensor.contiguous().withBytes { (bytes) throws(CheckpointError) in
                try writer.write(bytes, to: name)
            }
        }
        try writer.finish()
        try directory.write(config.json.text() + "\n", to: "config.json")
    }

    /// Names of the tensors that a format stores in a type of its own.
    private func typedNames() throws -> Set<String> {
        let specs = try CompressionManifest(config).modules
        var names: Set<String> = []
        for site in try EagleDraft.sites(self) {
            let group = site.members.count > 1 ? [(site.name, site.outputs)] : []
            for (name, outputs) in group + site.members.map({ ($0.name, $0.outputs) }) {
                guard let spec = specs[name] else { continue }
                let layout = try FormatRegistry.format(spec.format).layout(
                    spec, outputs: outputs, inputs: site.inputs)
                names.formUnion(layout.filter { $0.dtype != nil }.map { "\(name).\($0.name)" })
            }
        }
        return names
    }
}
