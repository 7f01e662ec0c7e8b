import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaModels
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaStages

@Suite("Healed weights")
struct HealBlocksWeightsTests {
    private let parent: Checkpoint
    private let scratch: Scratch

    init() throws {
        parent = try goldenModel("qwen3-gqa4-tied-v5")
        scratch = try Scratch()
    }

    /// A file of tensors with one value each.
    private func file(_ name: String, _ tensors: [(name: String, shape: [Int], value: Double)])
        throws -> String
    {
        let path = "\(scratch.path)/\(name)"
        let writer = try SafetensorsWriter(
            file: path,
            tensors: tensors.map {
                TensorDescription(name: $0.name, dtype: .float32, shape: $0.shape)
            })
        for (name, shape, value) in tensors {
            try Tensor.full(shape, value).withBytes { try writer.write($0, to: name) }
        }
        try writer.finish()
        return path
    }

    private let norm = "model.layers.1.input_layernorm.weight"
    private let other = "model.layers.0.input_layernorm.weight"

    @Test func healedTensorsComeFirstAndTheRestFromTheParent() throws {
        let first = try file("a", [(norm, [24], 2), (other, [24], 3)])
        let second = try file("b", [(norm, [24], 4)])
        let healed = try HealedWeights(parent, files: [first, second])
        #expect(healed.healed == [other, norm])
        #expect(healed.path == parent.path)
        let expected = try values(of: parent)
        for (name, found) in try values(of: healed) {
            switch name {
            case norm: #expect(found == Array(repeating: 4, count: 24))
            case other: #expect(found == Array(repeating: 3, count: 24))
            default: #expect(found == expected[name])
            }
        }
        #expect(try healed.loadModel().dimensions == parent.loadModel().dimensions)
        let hashes = try healed.fingerprints { _, _ in }
        #expect(Set(hashes.keys) == ["model.safetensors", "a", "b"])
        // What heals a healed model sees the newest.
        let again = try HealedWeights(healed, files: [file("c", [(other, [24], 5)])])
        #expect(try again.tensor(norm, shape: [24], on: .cpu).values(as: Double.self)[0] == 4)
        #expect(try again.tensor(other, shape: [24], on: .cpu).values(as: Double.self)[0] == 5)
    }

    @Test func otherShapesAndUnknownNamesAreErrors() throws {
        let path = try file("a", [(norm, [23], 2)])
        let healed = try HealedWeights(parent, files: [path])
        #expect(
            throws: HealedWeightsError.otherShape(
                name: norm, path: path, found: [23], wanted: [24])
        ) { try healed.loadModel() }
        #expect(throws: HealedWeightsError.missing(name: "x", path: parent.path)) {
            try healed.tensor("x", shape: [1], on: .cpu)
        }
        #expect(throws: CheckpointError.self) { try HealedWeights(parent, files: ["\(path)x"]) }
    }

    @Test func modulesOfOtherFormatsHaveOtherTensors() throws {
        let name = "model.layers.0.mlp.down_proj"
        let spec = FormatSpec(format: LowRank.name, ranks: [2])
        let layout = try LowRank.layout(spec, outputs: 24, inputs: 28)
        let path = try file("a", layout.map { ("\(name).\($0.name)", $0.shape, 0.5) })
        let healed = try HealedWeights(
            parent, files: [path], specs: [name: spec], removed: ["\(name).weight"])
        #expect(!healed.holds("\(name).weight") && parent.holds("\(name).weight"))
        #expect(try CompressionManifest(healed.config).modules == [name: spec])
        let requests = Set(try healed.checkModel().map(\.name))
        #expect(layout.allSatisfy { requests.contains("\(name).\($0.name)") })
        let text = someTokens(16, vocabulary: 64)
        let evaluator = try Evaluator(healed.loadModel(), against: parent.loadModel())
        let measured = try evaluator.measure([text])
        #expect(measured.kl ?? 0 > 0)
        // A format that is the parent's already changes nothing about names.
        let same = try HealedWeights(healed, files: [], specs: [name: spec])
        #expect(try CompressionManifest(same.config) == CompressionManifest(healed.config))
    }
}
