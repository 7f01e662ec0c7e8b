import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport

@testable import MinimaStages

/// A dense model with random weights, one that was compressed from it, and windows to heal on.
struct BlockCase {
    private let scratch: Scratch
    let teacher: any WeightSource
    let student: Checkpoint
    let windows: [[Int32]]
    let heldOut: [[Int32]]

    var path: String { scratch.path }

    /// - Parameters:
    ///   - layers: Decoder layers, those of the golden model where `nil`.
    ///   - change: Changes the uniform plan at −35%.
    init(
        _ golden: String = "qwen3-gqa4-tied-v5", layers: Int? = nil, format: String = LowRank.name,
        windows: Int = 24, length: Int = 12, change: (inout CompressionPlan) -> Void = { _ in }
    ) throws {
        scratch = try Scratch()
        let path = scratch.path
        let checkpoint = try goldenModel(golden)
        let random = try layers.map { try Self.random(like: checkpoint, $0, in: path) }
        let teacher: any WeightSource = random ?? checkpoint
        self.teacher = teacher
        var plan = try CompressionPlan.uniform(
            teacher, ratio: 0.35, format: format, version: "test")
        change(&plan)
        _ = try Compressor(teacher, compression(teacher, plan)).run(output: "\(path)/small")
        student = try Checkpoint(path: "\(path)/small")
        let sources = try someSources(teacher, windows: windows + 8, length: length)
        let all = sources.flatMap(\.windows)
        self.windows = Array(all.dropLast(8))
        heldOut = all.suffix(8)
    }

    /// A model of random weights with another number of layers.
    private static func random(like model: Checkpoint, _ layers: Int, in path: String) throws
        -> RandomWeights
    {
        var config = model.config.json.object ?? [:]
        config["num_hidden_layers"] = .integer(Int64(layers))
        config["layer_types"] = .array(Array(repeating: .string("full_attention"), count: layers))
        let folder = "\(path)/dense"
        try FileManager.default.createDirectory(
            atPath: folder, withIntermediateDirectories: false)
        try AtomicFile.write(JSON.object(config).text(), to: "\(folder)/config.json")
        return try RandomWeights(path: folder, seed: 3)
    }

    /// Few windows in small steps, as fits small models.
    static var settings: BlockSettings {
        var settings = BlockSettings()
        settings.batch = 8
        settings.tokensPerPass = 64
        return settings
    }

    func healing(
        _ settings: BlockSettings = settings, student: (any WeightSource)? = nil
    ) throws -> BlockHealing {
        try BlockHealing(
            student: student ?? self.student, teacher: teacher, settings: settings,
            windows: windows, heldOut: heldOut, device: .cpu)
    }

    func work(_ name: String = "work") throws -> WorkDirectory {
        try WorkDirectory("\(path)/\(name)", key: "test")
    }

    /// Records of the finished blocks.
    func records(_ work: WorkDirectory, layersPerBlock: Int = 1) throws -> [BlockRecord] {
        try WorkParts<BlockRecord>(in: work, "blocks-\(layersPerBlock)").records()
    }

    /// KL to the dense model over the held-out windows, in nats per token.
    func kl(_ source: any WeightSource) throws -> Double {
        try Evaluator(source.loadModel(), against: teacher.loadModel()).measure(heldOut).kl ?? .nan
    }
}

/// All values that a source gives its model, by name.
func values(of source: any WeightSource) throws -> [String: [Double]] {
    var values: [String: [Double]] = [:]
    for request in try source.checkModel() {
        values[request.name] = try source.tensor(request.name, shape: request.shape, on: .cpu)
            .values()
    }
    return values
}
