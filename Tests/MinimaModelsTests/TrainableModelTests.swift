import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Trainable models")
struct TrainableModelTests {
    private let folder = "\(goldensFolder())/../../Examples/tiny-qwen3-4m"
    private let golden = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"

    private let scratch: Scratch

    init() throws { scratch = try Scratch() }

    private func temporaryPath() -> String { "\(scratch.path)/\(UUID().uuidString)" }

    /// Next-token cross-entropy over two rows of ids.
    private func loss(_ model: any LanguageModel) throws -> Tensor {
        let count = 24
        let ids = (0..<2 * count).map { Int64(($0 * $0 * 7 + 3) % model.dimensions.vocabulary) }
        let tokens = try Tensor(ids, shape: [2, count])
        let hidden = try model.run(tokens.narrow(1, 0..<count - 1))
        let logits = try model.logits(hidden).reshape([-1, model.dimensions.vocabulary])
        return try logits.crossEntropy(tokens.narrow(1, 1..<count).reshape([-1])).mean()
    }

    /// Two steps of AdamW; the losses before each and after both.
    private func train(_ model: any LanguageModel, _ parts: TrainableModelParts) throws -> [Double]
    {
        let optimiser = try AdamW(
            parts.tensors.map { AdamW.Parameter(name: $0.name, tensor: $0.tensor) })
        var losses: [Double] = []
        for _ in 0..<2 {
            let loss = try loss(model)
            losses.append(try loss.item())
            try optimiser.accumulate(loss.gradients(parts.tensors.map(\.tensor)))
            try optimiser.step(learningRate: 1e-3)
        }
        return losses + [try loss(model).item()]
    }

    /// A copy of `source` at `path` with `stored` in it, floating-point values as float32.
    private func write(
        _ stored: TrainableModelParts.Stored, over source: Checkpoint, to path: String
    ) throws -> Checkpoint {
        var tensors = stored.tensors
        let known = Set(tensors.map(\.name)).union(stored.removed)
        for tensor in source.tensors where !known.contains(tensor.name) {
            tensors.append((tensor.name, try source.tensor(tensor.name)))
        }
        tensors = try tensors.map {
            (
                $0.name,
                $0.tensor.dtype.isFloatingPoint ? try $0.tensor.to(dtype: .float32) : $0.tensor
            )
        }
        var manifest = try CompressionManifest(source.config)
        manifest.modules.merge(stored.specs) { $1 }
        var config = try #require(source.config.json.object)
        config["quantization_config"] = manifest.modules.isEmpty ? nil : manifest.json
        try writeCheckpoint(tensors, config: .object(config), to: path)
        return try Checkpoint(path: path)
    }

    /// A copy of `source` in which the first layer's modules are in one format each.
    private func compressed(_ source: Checkpoint, to path: String) throws -> Checkpoint {
        var stored = TrainableModelParts.Stored()
        let sites = try source.sites().filter { $0.layer == 0 }
        for (index, site) in sites.enumerated() {
            let weight = try Tensor.cat(site.members.map { try source.tensor("\($0.name).weight") })
                .to(dtype: .float32)
            let spec = try specs(site.outputs, site.inputs)[index % 4]
            let module = try FormatRegistry.format(spec.format)
                .decompose(weight, spec: spec, metric: nil)
            stored.specs[site.name] = spec
            stored.tensors += module.tensors.map { ("\(site.name).\($0.name)", $0.tensor) }
            stored.removed += site.members.map { "\($0.name).weight" }
        }
        return try write(stored, over: source, to: path)
    }

    private func specs(_ outputs: Int, _ inputs: Int) throws -> [FormatSpec] {
        let dense = FormatSpec(format: "dense")
        let half = FormatSpec(format: "interpolative", ranks: [min(outputs, inputs) / 3])
        func quantized(_ bits: Int, _ part: FormatSpec) -> FormatSpec {
            FormatSpec(format: "quantized", bits: bits, groupSize: 48, parts: [part])
        }
        return [
            quantized(4, dense), half,
            FormatSpec(
                format: "blocks", outputModes: [outputs / 2, outputs - outputs / 2],
                parts: [quantized(3, dense), FormatSpec(format: "lowrank", ranks: [9])]),
            quantized(8, FormatSpec(format: "lowrank", ranks: [9])),
        ]
    }

    private func expectReloads(
        _ model: any LanguageModel, _ parts: TrainableModelParts, _ source: Checkpoint,
        _ what: String
    ) throws -> Checkpoint {
        let path = temporaryPath()
        let healed = try write(parts.stored(), over: source, to: path)
        // libtorch multiplies in another order where gradients are recorded.
        for leaf in parts.tensors { try leaf.tensor.setRequiresGrad(false) }
        let vocabulary = Int64(model.dimensions.vocabulary)
        let ids = try tokens([(0..<20).map { $0 * 31 % vocabulary }])
        let expected = try model.logits(model.run(ids))
        let again = try healed.loadModel()
        #expect(try again.logits(again.run(ids)).isIdentical(to: expected), "\(what)")
        return healed
    }

    @Test("a step lowers the loss, and what is stored gives the same logits")
    func steps() throws {
        let (path, source) = (temporaryPath(), try Checkpoint(path: folder))
        let checkpoint = try compressed(source, to: path)
        let all = Set(TrainedTensor.Role.allCases)
        for roles in [TrainingOptions.usualRoles, [.scale], [.core, .norm, .embedding], all] {
            let parts = TrainableModelParts(TrainingOptions(roles: roles)) { name in
                source.holds("\(name).weight") ? try source.tensor("\(name).weight") : nil
            }
            let model = try checkpoint.loadModel(adapter: parts)
            let untrained = try checkpoint.loadModel()
            #expect(try loss(model).item() == loss(untrained).item())
            #expect(Set(parts.tensors.map(\.role)).isSubset(of: roles))
            #expect(Set(parts.tensors.map(\.name)).count == parts.tensors.count)
            let losses = try train(model, parts)
            #expect(losses[1] < losses[0] && losses[2] < losses[0], "\(roles): \(losses)")
            let healed = try expectReloads(model, parts, checkpoint, "\(roles)")
            // What does not train is what it was.
            let touched = Set(try parts.stored().tensors.map(\.name))
            for tensor in checkpoint.tensors where !touched.contains(tensor.name) {
                #expect(
                    try healed.tensor(tensor.name).isIdentical(to: checkpoint.tensor(tensor.name)))
            }
        }
    }

    @Test("adapters are kept as sums, or merged into what is there", arguments: [false, true])
    func adapters(isMerged: Bool) throws {
        let (path, source) = (temporaryPath(), try Checkpoint(path: golden))
        let checkpoint = try compressed(source, to: path)
        let parts = TrainableModelParts(
            TrainingOptions(adapterRank: 4, mergesAdapters: isMerged, seed: 5))
        let model = try checkpoint.loadModel(adapter: parts)
        #expect(parts.tensors.allSatisfy { $0.role == .adapter })
        let losses = try train(model, parts)
        #expect(losses[2] < losses[0], "\(losses)")
        let stored = try parts.stored()
        guard isMerged else {
            let kept = try expectReloads(model, parts, checkpoint, "kept")
            #expect(stored.specs.values.allSatisfy { $0.format == "sum" })
            #expect(stored.mergeErrors.isEmpty)
            // Adapters beside kept ones are parts of the same sum.
            let second = TrainableModelParts(TrainingOptions(adapterRank: 2, mergesAdapters: false))
            _ = try kept.loadModel(adapter: second)
            #expect(try second.stored().specs.values.allSatisfy { $0.parts.count == 3 })
            return
        }
        let merged = try write(stored, over: checkpoint, to: temporaryPath())
        #expect(try CompressionManifest(merged.config) == CompressionManifest(checkpoint.config))
        #expect(stored.removed.isEmpty)
        let byName = { (all: [TensorInfo]) in
            all.map { "\($0.name) \($0.shape)" }.sorted()
        }
        #expect(byName(merged.tensors) == byName(checkpoint.tensors))
        let modules = Set(parts.tensors.map { $0.name.split(separator: ".parts.")[0] })
        #expect(stored.mergeErrors.count == modules.count)
        let dense = stored.mergeErrors.filter { stored.specs[$0.key] == nil }
        #expect(!dense.isEmpty && dense.values.allSatisfy { $0 <= DType.float32.epsilon })
        #expect(stored.mergeErrors.values.allSatisfy { $0 < 0.2 })
    }

    @Test("the biases of layers whose weights are stacked train one by one")
    func stackedBiases() throws {
        let (path, source) = (
            temporaryPath(), try Checkpoint(path: "\(GoldenModel.folder)/llama-gqa2-bias-v5")
        )
        let checkpoint = try compressed(source, to: path)
        let parts = TrainableModelParts(TrainingOptions(roles: [.bias]))
        let model = try checkpoint.loadModel(adapter: parts)
        let stacked = try #require(checkpoint.sites().first { $0.members.count > 1 })
        let names = Set(stacked.members.map { "\($0.name).bias" })
        #expect(parts.tensors.filter { names.contains($0.name) }.count == names.count)
        let before = try parts.tensors.map { try $0.tensor.detach().clone() }
        let losses = try train(model, parts)
        #expect(losses[2] < losses[1] && losses[1] < losses[0], "\(losses)")
        for (leaf, old) in zip(parts.tensors, before) {
            #expect(try !leaf.tensor.detach().isIdentical(to: old), "\(leaf.name)")
        }
        _ = try expectReloads(model, parts, checkpoint, "biases")
    }

    @Test func tiedEmbeddingsTrainAsOneTensor() throws {
        let checkpoint = try Checkpoint(path: golden)
        let parts = TrainableModelParts(TrainingOptions(roles: [.embedding]))
        let model = try checkpoint.loadModel(adapter: parts)
        #expect(parts.tensors.map(\.name) == ["model.embed_tokens.weight"])
        let both = try #require(loss(model).gradients(parts.tensors.map(\.tensor))[0])
        // Rows of ids that are never read have a gradient from the output projection.
        #expect(try both.square().sum([1]).equals(0).sum().item() == 0)
        _ = try train(model, parts)
        _ = try expectReloads(model, parts, checkpoint, "tied")
    }

    @Test("parts of a model give the leaves of the whole", arguments: GoldenModel.all)
    func streamed(golden: GoldenModel) throws {
        let checkpoint = try Checkpoint(path: golden.directory)
        let options = TrainingOptions(roles: Set(TrainedTensor.Role.allCases))
        let (whole, streamed) = (TrainableModelParts(options), TrainableModelParts(options))
        let layers = try checkpoint.loadModel(adapter: whole).dimensions.layers
        for part in [.ends] + (0..<layers).map(ModelPart.layer) {
            _ = try checkpoint.loadPart(part, adapter: streamed)
        }
        let names = whole.tensors.map(\.name)
        #expect(Set(names) == Set(streamed.tensors.map(\.name)))
        #expect(names.count == streamed.tensors.count)
        #expect(Set(names).isSubset(of: checkpoint.tensors.map(\.name)))
        for leaf in whole.tensors {
            let isVector = leaf.tensor.rank == 1
            #expect((leaf.role == .norm || leaf.role == .bias) == isVector, "\(leaf.name)")
            #expect((leaf.role == .bias) == leaf.name.hasSuffix(".bias"))
            #expect((leaf.role == .dense) == leaf.name.contains("proj.weight"), "\(leaf.name)")
        }
    }

    @Test("adapters depend on the seed and the module, not on the order of loading")
    func seeds() throws {
        let checkpoint = try Checkpoint(path: golden)
        func adapters(_ seed: UInt64, _ parts: [ModelPart]) throws -> [String: Tensor] {
            let adapter = TrainableModelParts(TrainingOptions(adapterRank: 2, seed: seed))
            for part in parts { _ = try checkpoint.loadPart(part, adapter: adapter) }
            return Dictionary(
                uniqueKeysWithValues: adapter.tensors.map { ($0.name, $0.tensor) })
        }
        let (forwards, backwards) = (
            try adapters(1, [.layer(0), .layer(1)]), try adapters(1, [.layer(1), .layer(0)])
        )
        let other = try adapters(2, [.layer(0), .layer(1)])
        #expect(forwards.count > 4 && forwards.count == backwards.count)
        for (name, tensor) in forwards {
            #expect(try tensor.isIdentical(to: #require(backwards[name])))
            guard name.hasSuffix("cores.0") else { continue }
            #expect(try !tensor.isIdentical(to: #require(other[name])), "\(name)")
        }
    }

    @Test func sumsThatAreTooDeepAreRefusedBeforeTraining() throws {
        var spec = FormatSpec(format: "dense")
        for _ in 1..<FormatSpec.deepest {
            spec = FormatSpec(format: "blocks", outputModes: [8], parts: [spec])
        }
        let weight = try FormatRegistry.format("blocks").init(
            spec: spec, outputs: 8, inputs: 4, tensors: [.zeros([8, 4])])
        let kept = TrainableModelParts(TrainingOptions(adapterRank: 1, mergesAdapters: false))
        #expect(throws: FormatError.tooDeep(format: "sum")) { try kept.adapt(weight, name: "a") }
        let merged = TrainableModelParts(TrainingOptions(adapterRank: 1))
        _ = try merged.adapt(weight, name: "a")
        #expect(try merged.stored().specs == ["a": spec])
    }
}
