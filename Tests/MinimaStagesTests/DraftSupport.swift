import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor

@testable import MinimaStages

/// The example model, and text that it wrote.
final class DraftCase: Sendable {
    /// Made once for all tests.
    static let shared = Result { try DraftCase() }

    let source: Checkpoint
    let target: any LanguageModel
    let tokenized: TokenizedText
    /// Windows of 24 tokens.
    let text: HealingText
    let vocabulary: [Int32]

    private init() throws {
        source = try exampleModel()
        target = try source.loadModel()
        let written = try sampledText(target, windows: 48, length: 96, seed: 1)
        tokenized = TokenizedText(
            name: "own", documents: written.count, tokens: written.flatMap(\.self))
        var settings = HealingText.Settings(context: 24)
        settings.heldOutShare = 0.1
        text = try HealingText([tokenized], settings: settings)
        vocabulary = DraftVocabulary.mostFrequent(of: [tokenized], count: 512, vocabulary: 8192)
    }

    func request(_ change: (inout DraftSettings) -> Void = { _ in }) -> DraftTraining.Request {
        var settings = DraftSettings(tokens: 24 * 8 * 12, batch: 8)
        settings.unroll = 3
        settings.learningRate = 4e-3
        change(&settings)
        return DraftTraining.Request(
            text: text, vocabulary: vocabulary,
            coverage: DraftVocabulary.coverage(of: [tokenized], by: vocabulary),
            settings: settings, device: .cpu, version: "test")
    }

    /// An untrained draft with leaves, and what trains it.
    func objective(
        text: HealingText? = nil, on device: Device = .cpu,
        _ change: (inout DraftSettings) -> Void = { _ in }
    ) throws -> (objective: DraftObjective, draft: EagleDraft) {
        let target =
            device == .cpu ? target : try source.loadModel(device: device, dtype: .float32)
        let weights = try DraftWeights(for: target, source, vocabulary: vocabulary, seed: 3)
        let parts = TrainableModelParts(TrainingOptions(roles: [.dense, .norm]))
        let draft = try EagleDraft(weights, target: target, adapter: parts)
        let objective = try DraftObjective(
            draft, parameters: parts.tensors,
            sites: (draft: EagleDraft.sites(weights), target: source.sites()), target: target,
            text: text ?? self.text, settings: request(change).settings)
        return (objective, draft)
    }
}
