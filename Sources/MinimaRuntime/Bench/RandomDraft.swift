import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

/// An EAGLE-3 head of a target's sizes with random weights: memory and time of a head without its
/// files. It guesses nothing.
public struct RandomDraft: WeightSource {
    /// Tokens that public heads of large vocabularies propose.
    public static let usualVocabulary = 32_000

    /// What it stands for in messages.
    public let path: String
    /// The draft's `config.json`.
    public let config: ModelConfig
    private let weights: RandomWeights

    /// A head for the model of `target`.
    ///
    /// - Parameters:
    ///   - spec: How its linear layers are stored; `nil`: in bfloat16.
    ///   - vocabulary: Tokens that it can propose, at most the target's.
    public init(
        for target: any WeightSource, spec: FormatSpec? = nil, vocabulary: Int = usualVocabulary,
        seed: UInt64
    ) throws {
        path = "random draft for \(target.path)"
        let sizes = try EagleConfiguration(target: target.config, draftVocabulary: vocabulary)
        let plain = try ModelConfig(json: sizes.json(target: target.config), path: path)
        let dense = try RandomWeights(plain, path: path, seed: seed)
        guard let spec else {
            (config, weights) = (plain, dense)
            return
        }
        let sites = try EagleDraft.sites(Named(path: path, config: plain, weights: dense))
        weights = try RandomWeights(
            plain, path: path, seed: seed,
            plan: sites.map {
                CompressionPlan.Module(
                    name: $0.name, outputs: $0.outputs, inputs: $0.inputs, spec: spec,
                    parameters: $0.outputs * $0.inputs, bytes: 0, damage: nil)
            }, sites: sites)
        config = weights.config
    }

    /// What every head has and no more: the target's embedding, the first tokens of its vocabulary.
    public func holds(_ name: String) -> Bool { Self.holds(name) }

    fileprivate static func holds(_ name: String) -> Bool {
        !["embed_tokens.weight", "t2d"].contains(name)
    }

    /// Any shape can be had.
    public func claims() -> TensorClaims? { nil }

    /// Values from the seed and the name.
    public func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        if name == "d2t" { return try .zeros(shape, dtype: .int64, device: device) }
        return try weights.tensor(name, shape: shape, on: device)
    }

    /// The seed.
    public func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        try weights.fingerprints(onProgress: onProgress)
    }

    /// Names and sizes before weights have their formats.
    private struct Named: WeightSource {
        let path: String
        let config: ModelConfig
        let weights: RandomWeights

        func holds(_ name: String) -> Bool { RandomDraft.holds(name) }
        func claims() -> TensorClaims? { nil }
        func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
            try weights.tensor(name, shape: shape, on: device)
        }
        func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
            -> [String: String]
        { [:] }
    }
}
