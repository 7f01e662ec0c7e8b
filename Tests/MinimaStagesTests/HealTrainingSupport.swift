import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport

@testable import MinimaStages

/// The example model, one that was compressed from it, and text that the first one wrote.
final class HealCase: Sendable {
    /// Made once for all tests.
    static let shared = Result { try HealCase() }

    let teacher: any LanguageModel
    let text: HealingText
    /// The compressed model.
    let source: any WeightSource
    let sites: [Site]

    private init() throws {
        let dense = try exampleModel()
        teacher = try dense.loadModel()
        // Eight of the 42 modules, some of them quantised.
        var plan = try CompressionPlan.uniform(
            dense, ratio: 0.6, format: LowRank.name, version: "test")
        plan.modules = plan.modules.filter { module in
            [1, 4].contains { module.name.hasPrefix("model.layers.\($0).") }
                && ["q_proj", "o_proj", "down_proj", "up_proj"].contains {
                    module.name.hasSuffix($0)
                }
        }
        plan.modules[3].spec = FormatSpec(
            format: "quantized", bits: 3, parts: [FormatSpec(format: Dense.name)])
        // What is open stays when its directory goes.
        let scratch = try Scratch()
        _ = try Compressor(dense, compression(dense, plan)).run(output: "\(scratch.path)/small")
        source = try Checkpoint(path: "\(scratch.path)/small")
        sites = try source.sites()
        let written = try sampledText(teacher, windows: 16, length: 64, seed: 1)
        var settings = HealingText.Settings(context: 16)
        settings.heldOutShare = 0.1
        text = try HealingText(
            [TokenizedText(name: "own", documents: 16, tokens: written.flatMap(\.self))],
            settings: settings)
    }

    func heldOut(_ group: ProcessGroup? = nil) throws -> HeldOutText {
        try HeldOutText(text.heldOut, teacher: teacher, tokensPerPass: 64, group: group)
    }

    /// A compressed model with leaves.
    func objective(
        _ options: TrainingOptions = TrainingOptions(), teacher: EndToEnd.Teacher? = nil,
        group: ProcessGroup? = nil, _ change: (inout EndToEnd.Settings) -> Void = { _ in }
    ) throws -> EndToEnd {
        let parts = TrainableModelParts(options)
        let student = try source.loadModel(adapter: parts)
        var settings = EndToEnd.Settings(batch: 4)
        settings.loss.crossEntropyWeight = 0.1
        settings.checkpointing = .off
        change(&settings)
        return try EndToEnd(
            student: student, parameters: parts.tensors, sites: sites,
            teacher: teacher ?? .model(self.teacher), text: text, heldOut: heldOut(group),
            settings: settings, group: group)
    }
}
