import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

/// Output projections that are stored as codes, tied and untied, in every family.
@Suite("Stored output projections")
struct StoredHeadTests {
    private static let tied = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"

    /// A model whose output projection is stored as codes, beside the dense one.
    private struct Pair {
        let dense: Checkpoint
        let stored: Checkpoint
        let weight: any LinearWeight
    }

    private static func spec(_ bits: Int) -> FormatSpec {
        FormatSpec(
            format: Quantized.name, bits: bits, groupSize: 64,
            parts: [FormatSpec(format: Dense.name)])
    }

    /// Runs `body` with a copy of the checkpoint at `path` that stores its output projection as `spec`.
    private func withStored(
        _ path: String, _ spec: FormatSpec = spec(8), _ body: (Pair) throws -> Void
    ) throws {
        let dense = try Checkpoint(path: path)
        let site = try dense.config.headSite()
        let name =
            try dense.config.tieWordEmbeddings == true
            ? "model.embed_tokens.weight" : "lm_head.weight"
        let weight = try Quantized.decompose(dense.tensor(name), spec: spec, metric: nil)
        #expect(weight.outputs == site.outputs && weight.inputs == site.inputs)
        var tensors = weight.tensors.map { (name: "\(site.name).\($0.name)", tensor: $0.tensor) }
        for tensor in dense.tensors where tensor.name != "lm_head.weight" {
            tensors.append((tensor.name, try dense.tensor(tensor.name)))
        }
        let scratch = try Scratch()
        let target = "\(scratch.path)/model"
        var config = try #require(dense.config.json.object)
        config["quantization_config"] = CompressionManifest(modules: [site.name: spec]).json
        try writeCheckpoint(tensors, config: .object(config), to: target)
        try body(Pair(dense: dense, stored: Checkpoint(path: target), weight: weight))
    }

    @Test(
        "logits are the reconstruction's, all else is the dense model's", arguments: GoldenModel.all
    )
    func logits(golden: GoldenModel) throws {
        let row = try #require(golden.rows.first)
        try withStored(golden.directory) { pair in
            let (dense, model) = (try pair.dense.loadModel(), try pair.stored.loadModel())
            let hidden = try model.run(tokens([row]))
            #expect(try hidden.isIdentical(to: dense.run(tokens([row]))))
            let matrix = try pair.weight.reconstruct()
            #expect(try model.head.weight.reconstruct().isIdentical(to: matrix))
            let logits = try model.logits(hidden)
            #expect(try logits.isIdentical(to: hidden.linear(matrix)))
            #expect(try model.head.expanded(.float32)(hidden).isIdentical(to: logits))
            // |Δlogit| ≤ ‖h‖·‖ΔW‖, in float32.
            let exact = try dense.head.weight.reconstruct()
            let bound =
                try (matrix - exact).norm().item() * hidden.norm().item()
                + exact.norm().item() * hidden.norm().item() * 64 * DType.float32.epsilon
            let difference = try (logits - dense.logits(hidden)).abs().max().item()
            #expect(difference > 0 && difference <= bound)
            // In parts, too.
            let ends = try pair.stored.loadPart(.ends)
            #expect(try ends.logits(hidden).isIdentical(to: logits))
            let names = try pair.stored.checkModel().map(\.name)
            #expect(names.contains("lm_head.weight.codes"))
            #expect(names.contains("model.embed_tokens.weight"))
            #expect(!names.contains("lm_head.weight"))
        }
    }

    @Test func anEmbeddingStaysBesideAStoredHead() throws {
        try withStored(Self.tied) { pair in
            let (before, after) = (
                try InspectionResult(pair.dense), try InspectionResult(pair.stored)
            )
            let head = try #require(after.parts.first { $0.name == "lm_head" })
            let site = try pair.dense.config.headSite()
            #expect(head.parameters == site.parameters && head.formats == [Quantized.name: 1])
            #expect(head.bytes == pair.weight.byteCount)
            #expect(after.parameters == before.parameters + head.parameters)
            #expect(after.bytes == before.bytes + head.bytes)
            #expect(before.architecture["tied"] == "true")
            #expect(after.architecture["tied"]?.contains("beside the embedding") == true)
            #expect(try Qwen3.decoder(pair.dense.config).dimensions.tiesEmbedding)
            #expect(try !Qwen3.decoder(pair.stored.config).dimensions.tiesEmbedding)
        }
    }

    @Test func aDenseHeadMayBeNamed() throws {
        try withStored("\(GoldenModel.folder)/qwen3-gqa3-untied-bf16-v4") { pair in
            var config = try #require(pair.dense.config.json.object)
            let modules = ["lm_head": FormatSpec(format: Dense.name)]
            config["quantization_config"] = CompressionManifest(modules: modules).json
            let named = try ModelConfig(json: .object(config), path: pair.dense.config.path)
            var weights = try WeightLoader(
                RandomWeights(named, path: "test", seed: 1), device: .cpu, dtype: .float32)
            let model = try Qwen3(named, device: .cpu, dtype: .float32, weights: &weights)
            try weights.finish()
            #expect(model.head.weight is Dense)
        }
    }

    /// Training sees dense output projections only; gradients pass through a stored one.
    @Test func adaptersLeaveAStoredHead() throws {
        let roles = Set(TrainedTensor.Role.allCases)
        for options in [TrainingOptions(roles: roles), TrainingOptions(adapterRank: 2)] {
            try withStored(Self.tied) { pair in
                let parts = TrainableModelParts(options)
                let model = try pair.stored.loadModel(adapter: parts)
                #expect(model.head.weight is Quantized)
                #expect(!parts.tensors.contains { $0.name.hasPrefix("lm_head") })
                let hidden = try model.run(tokens([[1, 2, 3, 4]]))
                let loss = try model.logits(hidden).square().mean()
                let gradients = try loss.gradients(parts.tensors.map(\.tensor))
                #expect(gradients.contains { $0 != nil })
                #expect(try parts.stored().removed.allSatisfy { !$0.hasPrefix("lm_head") })
            }
        }
    }

    /// A draft's output projection begins with rows of the target's.
    @Test func draftsCopyRows() throws {
        try withStored(Self.tied) { pair in
            let ids: [Int32] = [2, 3, 5, 7, 11]
            let draft = try DraftWeights(
                for: pair.stored.loadModel(), pair.stored, vocabulary: ids)
            let rows = try pair.weight.reconstruct().selecting(0, Tensor(ids.map(Int64.init)))
            #expect(try draft.tensors["lm_head.weight"]?.isIdentical(to: rows) == true)
        }
    }

    /// Random codes give outputs of the scale of others.
    @Test(arguments: [4, 6, 8]) func randomHeads(bits: Int) throws {
        let config = try ModelConfig(path: "\(Self.tied)/config.json")
        let site = try config.headSite()
        let plan = CompressionPlan.Module(
            name: site.name, outputs: site.outputs, inputs: site.inputs, spec: Self.spec(bits),
            parameters: 0, bytes: 0, damage: nil)
        let random = try RandomWeights(config, path: "test", seed: 3, plan: [plan])
        let head = try random.loadModel().head.weight
        #expect(head is Quantized)
        let scale = try head.reconstruct().square().mean().item() * Double(site.inputs)
        #expect(scale > 0.25 && scale < 4)
        var other = plan
        other.inputs += 1
        #expect(throws: CheckpointError.self) {
            try RandomWeights(config, path: "test", seed: 3, plan: [other])
        }
    }

    @Test func aFormatThatDoesNotSuitIsNamed() throws {
        let config = try ModelConfig(path: "\(Self.tied)/config.json")
        var members = try #require(config.json.object)
        let modules = ["lm_head": FormatSpec(format: Quantized.name, bits: 7)]
        members["quantization_config"] = CompressionManifest(modules: modules).json
        let wrong = try ModelConfig(json: .object(members), path: config.path)
        do {
            var weights = try WeightLoader(
                StoredNames(config: wrong), device: .cpu, dtype: .float32)
            _ = try Qwen3(wrong, device: .cpu, dtype: .float32, weights: &weights)
            Issue.record("7 bits load")
        } catch CheckpointError.value(_, let key, _, _) {
            #expect(key == "quantization_config.modules.lm_head")
        }
    }
}

/// Any tensor, all zero.
private struct StoredNames: WeightSource {
    let path = "test"
    let config: ModelConfig
    func holds(_ name: String) -> Bool { true }
    func claims() -> TensorClaims? { nil }
    func tensor(_ name: String, shape: [Int], on device: Device) throws -> Tensor {
        try .zeros(shape, device: device)
    }
    func fingerprints(onProgress: (_ done: Int, _ total: Int) throws -> Void) throws
        -> [String: String]
    {
        [:]
    }
}
