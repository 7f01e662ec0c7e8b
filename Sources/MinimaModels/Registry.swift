import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// The model families that Minima loads.
public enum FamilyRegistry {
    /// Every family, one line each.
    public static let all: [any LanguageModel.Type] = [
        Llama.self,
        Qwen3.self,
        Qwen3Moe.self,
    ]

    /// The family of a configuration.
    public static func family(_ config: ModelConfig) throws -> any LanguageModel.Type {
        let type = try config.modelType
        guard let family = all.first(where: { $0.modelTypes.contains(type) }) else {
            throw ModelError.unknownFamily(
                type, path: config.path, known: all.flatMap { $0.modelTypes })
        }
        return family
    }
}

extension WeightSource {
    /// Loads the model: dense, compressed or healed alike.
    ///
    /// - Parameters:
    ///   - device: Where the weights go.
    ///   - dtype: The type to compute in; `nil` takes ``defaultDType(on:)``.
    ///   - adapter: Puts others in place of the tensors that are read.
    ///   - onTensor: Called before each tensor is read; throws to stop.
    /// - Throws: `CheckpointError.tensors` for all tensors that are missing, misshapen or left
    ///   over, before any weight is read.
    public func loadModel(
        device: Device = .cpu, dtype: DType? = nil, adapter: (any WeightAdapter)? = nil,
        onTensor: () throws -> Void = {}
    ) throws -> any LanguageModel {
        try checkModel()
        return try load(device, dtype, adapter, where: { _ in true }, onTensor)
    }

    /// Loads one part of the model; `embed`, `normed`, `logits` or `layer` of other parts would
    /// compute with zeros.
    ///
    /// The tensors were checked by ``checkModel()``, which the caller runs once.
    public func loadPart(
        _ part: ModelPart, device: Device = .cpu, dtype: DType? = nil,
        adapter: (any WeightAdapter)? = nil, onTensor: () throws -> Void = {}
    ) throws -> any LanguageModel {
        let family = try FamilyRegistry.family(config)
        let layers = try Set(family.sites(config).map(\.layer))
        let prefixes = layers.map { family.layerPrefix($0) }
        switch part {
        case .layer(let index):
            let prefix = family.layerPrefix(index)
            return try load(device, dtype, adapter, where: { $0.hasPrefix(prefix) }, onTensor)
        case .ends:
            return try load(
                device, dtype, adapter,
                where: { name in !prefixes.contains { name.hasPrefix($0) } },
                onTensor)
        }
    }

    private func load(
        _ device: Device, _ dtype: DType?, _ adapter: (any WeightAdapter)?,
        where isWanted: @escaping (String) -> Bool, _ onTensor: () throws -> Void
    ) throws -> any LanguageModel {
        let family = try FamilyRegistry.family(config)
        let dtype = try dtype ?? defaultDType(on: device)
        return try withoutActuallyEscaping(onTensor) { onTensor in
            var weights = try WeightLoader(
                self, device: device, dtype: dtype, adapter: adapter, where: isWanted,
                onTensor: onTensor)
            let model = try family.init(config, device: device, dtype: dtype, weights: &weights)
            try weights.finish()
            return model
        }
    }

    /// Throws unless the tensors are those of the configuration's model; reads no weight.
    ///
    /// Builds the model from zeros without storage.
    ///
    /// - Returns: The tensors that the model takes, in the order in which it takes them.
    @discardableResult
    public func checkModel() throws -> [TensorRequest] {
        let family = try FamilyRegistry.family(config)
        var weights = try WeightLoader(checking: self)
        _ = try family.init(config, device: .cpu, dtype: .float32, weights: &weights)
        try weights.finish()
        return weights.requests
    }

    /// The type that a model computes in unless told: float32 on the CPU, elsewhere the stored one.
    public func defaultDType(on device: Device) throws -> DType {
        device == .cpu ? .float32 : try storedDType()
    }

    /// The linear layers that may be compressed, by the input they share.
    public func sites() throws -> [Site] {
        try FamilyRegistry.family(config).sites(config)
    }
}

/// What of a model is loaded when it is worked on piece by piece.
public enum ModelPart: Sendable, Hashable {
    /// Decoder layer `index`.
    case layer(Int)
    /// What stands around the layers: embedding, final norm, output projection.
    case ends
}
