import MinimaCore
import MinimaFormats
import MinimaTensor

/// Makes leaves of a model's tensors while it is loaded, or adapters beside its linear layers, and
/// says afterwards what to store.
///
/// Given as `adapter` to ``WeightSource/loadModel(device:dtype:adapter:onTensor:)`` or to one or more
/// calls of ``WeightSource/loadPart(_:device:dtype:adapter:onTensor:)``. What does not train is handed
/// on as it is and records nothing. An output projection that is the embedding stays one tensor.
public final class TrainableModelParts: WeightAdapter {
    /// What changes in a checkpoint.
    public struct Stored {
        /// Specifications of the changed linear modules that are not dense, for the manifest.
        public var specs: [String: FormatSpec] = [:]
        /// What has changed, and whatever else changed linear modules consist of. Without gradients;
        /// values that are not packed are in the model's type and share the leaves' storage.
        public var tensors: [(name: String, tensor: Tensor)] = []
        /// Names that are no longer there: changed modules in other formats have other tensors.
        public var removed: [String] = []
        /// ‖merged − (W + A·B)‖ / ‖W + A·B‖ of each module that an adapter was merged into.
        public var mergeErrors: [String: Double] = [:]
    }

    /// The leaves in the order in which the model was loaded, by their names in the checkpoint.
    public private(set) var tensors: [TrainedTensor] = []

    private let options: TrainingOptions
    private let originals: (String) throws -> Tensor?
    private var modules: [(name: String, weight: TrainedModule)] = []
    /// Leaves that are no linear layer's.
    private var others: [TrainedTensor] = []
    /// The type that the model computes in, as its tensors tell.
    private var dtype: DType?

    private enum TrainedModule {
        case leaves(TrainableWeight)
        case adapter(LowRankAdapter, beside: any LinearWeight)
    }

    /// Nothing is made before a model is loaded.
    ///
    /// - Parameter originals: The dense weight `[outputs, inputs]` that the module of a name was
    ///   quantised from, where it is known; see `TrainableWeight`.
    public init(
        _ options: TrainingOptions, originals: @escaping (String) throws -> Tensor? = { _ in nil }
    ) {
        self.options = options
        self.originals = originals
    }

    /// A leaf, where tensors of this kind train: vectors are biases by their name or norms, matrices
    /// embeddings, output projections and routers.
    public func adapt(_ tensor: Tensor, name: String) throws -> Tensor {
        dtype = tensor.dtype
        let role: TrainedTensor.Role =
            tensor.rank > 1 ? .embedding : name.hasSuffix(".bias") ? .bias : .norm
        guard options.adapterRank == nil, options.roles.contains(role) else { return tensor }
        let leaf = TrainedTensor(name: name, tensor: try tensor.leaf(), role: role)
        others.append(leaf)
        tensors.append(leaf)
        return leaf.tensor
    }

    /// The weight with leaves, or with an adapter beside it.
    public func adapt(_ weight: any LinearWeight, name: String) throws -> any LinearWeight {
        guard let rank = options.adapterRank else {
            let trained = try TrainableWeight(
                weight, roles: options.roles, original: try originals(name))
            guard !trained.tensors.isEmpty else { return weight }
            add(.leaves(trained), trained.tensors, name)
            return trained.weight
        }
        let adapter = try LowRankAdapter(
            beside: weight, rank: rank, dtype: computeType(of: weight),
            seed: seed(of: name))
        if !options.mergesAdapters {
            // A sum that is too deep is better refused now than after training.
            _ = try Sum.layout(
                adapter.weight.spec, outputs: weight.outputs, inputs: weight.inputs)
        }
        add(.adapter(adapter, beside: weight), adapter.tensors, name)
        return adapter.weight
    }

    private func add(_ module: TrainedModule, _ leaves: [TrainedTensor], _ name: String) {
        modules.append((name, module))
        tensors += leaves.map { $0.under(name) }
    }

    /// The model's type; where no tensor has told it yet, that of the weight's own numbers.
    private func computeType(of weight: any LinearWeight) -> DType {
        dtype ?? weight.tensors.map(\.tensor.dtype).first { $0.isFloatingPoint } ?? .float32
    }

    /// Another for each module, whatever the order in which they are loaded.
    private func seed(of name: String) -> UInt64 {
        var hash = SHA256()
        Array("\(options.seed) \(name)".utf8).withUnsafeBytes { hash.update($0) }
        return UInt64(hash.hexadecimalDigest().prefix(16), radix: 16) ?? options.seed
    }

    /// What goes into the checkpoint in place of what training began with.
    ///
    /// - Throws: What decomposing throws, when adapters are merged into factored weights.
    public func stored() throws -> Stored {
        var stored = Stored()
        for leaf in others { stored.tensors.append((leaf.name, try leaf.tensor.detach())) }
        for (name, module) in modules {
            let (weight, before): (any LinearWeight, any LinearWeight)
            switch module {
            case .leaves(let trained):
                (weight, before) = (try trained.stored(), trained.weight)
            case .adapter(let adapter, let base) where options.mergesAdapters:
                let merged = try adapter.merged()
                stored.mergeErrors[name] = merged.error
                (weight, before) = (merged.weight, base)
            case .adapter(let adapter, let base):
                (weight, before) = (try adapter.kept(), base)
            }
            if weight.spec.format != Dense.name { stored.specs[name] = weight.spec }
            let tensors = weight.tensors.map { (name: "\(name).\($0.name)", tensor: $0.tensor) }
            stored.tensors += tensors
            let names = Set(tensors.map(\.name))
            stored.removed += before.tensors.map { "\(name).\($0.name)" }
                .filter { !names.contains($0) }
        }
        return stored
    }
}
