import MinimaCheckpoint
import MinimaCore
import MinimaTensor

/// The model families that Minima loads.
public enum FamilyRegistry {
    /// Every family, one line each.
    public static let all: [any LanguageModel.Type] = [
        Llama.self,
        Qwen3.self,
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

extension Checkpoint {
    /// Loads the model: dense, compressed or healed alike.
    ///
    /// - Parameters:
    ///   - device: Where the weights go.
    ///   - dtype: The type to compute in; `nil` takes float32 on the CPU and the stored type
    ///     elsewhere.
    public func loadModel(device: Device = .cpu, dtype: DType? = nil) throws -> any LanguageModel {
        let family = try FamilyRegistry.family(config)
        let stored = try config.dtype ?? .float32
        let dtype = dtype ?? (device == .cpu ? .float32 : stored)
        var weights = try WeightLoader(self, device: device, dtype: dtype)
        let model = try family.init(config, device: device, dtype: dtype, weights: &weights)
        try weights.finish()
        return model
    }
}
