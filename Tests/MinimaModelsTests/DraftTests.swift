import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import Testing

@testable import MinimaModels

/// A small random draft with what its definition gives; see `Tests/Goldens/draft/make_draft.py`.
struct GoldenDraft: CustomTestStringConvertible {
    let name: String
    /// The target's layers that it reads, as its configuration says.
    let featureLayers: [Int]

    static let all = [
        GoldenDraft(name: "authors", featureLayers: [0, 1, 1]),
        GoldenDraft(name: "vllm", featureLayers: [1, 0, 1]),
    ]

    var testDescription: String { name }
    var directory: String { "\(goldensFolder())/draft/\(name)" }
    static let target = "\(GoldenModel.folder)/qwen3-gqa4-tied-v5"

    func load() throws -> (draft: EagleDraft, target: any LanguageModel) {
        let target = try Checkpoint(path: Self.target).loadModel()
        return (try EagleDraft(Checkpoint(path: directory), target: target), target)
    }

    func tensor(_ name: String) throws -> Tensor {
        let file = try SafetensorsFile(path: "\(directory)/golden.safetensors")
        let info = try #require(file.tensors.first { $0.name == name })
        return try file.bytes(of: name).withUnsafeBytes { (buffer) throws(TensorError) in
            try Tensor(bytes: buffer, shape: info.shape, dtype: info.dtype)
        }
    }

    /// Both we and the golden's float32 twin deviate from float64 by about this; sums in another order
    /// get as much again.
    func tolerance(_ key: String) throws -> Double {
        let data = try #require(FileManager.default.contents(atPath: "\(directory)/golden.json"))
        return try 4 * #require(JSON(parsing: Array(data))[key]?.double)
    }
}

private func difference(_ left: Tensor, _ right: Tensor) throws -> Double {
    guard left.shape == right.shape else { return .infinity }
    return try (left - right).abs().max().item()
}

@Suite("EAGLE-3 drafts against their definition")
struct DraftGoldenTests {
    private static let places = 9
    private static let steps = 4

    private func context(
        _ draft: EagleDraft, tokens: Int, cache: KVCache? = nil
    ) throws -> ForwardContext {
        try ForwardContext(
            batch: 1, tokens: tokens, cache: cache, padding: nil, rotary: draft.rotary,
            device: .cpu, dtype: .float32)
    }

    @Test("what the draft reads of its target", arguments: GoldenDraft.all)
    func features(golden: GoldenDraft) throws {
        let (draft, target) = try golden.load()
        #expect(draft.featureLayers == golden.featureLayers)
        let ids = try golden.tensor("ids").unsqueeze(0)
        let found = try target.features(
            of: ids, entering: draft.featureLayers,
            ForwardContext(
                batch: 1, tokens: ids.shape[1], cache: nil, padding: nil, rotary: target.rotary,
                device: .cpu, dtype: .float32))
        let expected = try golden.tensor("features").unsqueeze(0)
        #expect(
            try difference(found.features, expected) <= golden.tolerance("features_deviation"))
        #expect(try found.hidden.isIdentical(to: target.run(ids)))
    }

    @Test("all places at once, then tokens one by one", arguments: GoldenDraft.all)
    func chains(golden: GoldenDraft) throws {
        let (draft, _) = try golden.load()
        let ids = try golden.tensor("ids").unsqueeze(0)
        let fused = try draft.fuse(golden.tensor("features").unsqueeze(0))
        let tolerance = try golden.tolerance("deviation")
        let (places, steps) = (Self.places, Self.steps)
        let whole = try draft.layer(
            embedding: draft.embed(ids.narrow(1, 1..<places + 1)),
            hidden: fused.narrow(1, 0..<places), context: context(draft, tokens: places))
        #expect(try difference(whole.squeeze(0), golden.tensor("hidden.0")) <= tolerance)
        #expect(
            try difference(draft.logits(whole).squeeze(0), golden.tensor("logits.0")) <= tolerance)
        for place in 0..<places {
            let cache = KVCache(layers: 1, capacity: 2)
            var hidden = try draft.layer(
                embedding: draft.embed(ids.narrow(1, 1..<place + 2)),
                hidden: fused.narrow(1, 0..<place + 1),
                context: context(draft, tokens: place + 1, cache: cache)
            ).narrow(1, place..<place + 1)
            cache.advance(by: place + 1)
            for step in 1..<min(steps, places - place) {
                let token = place + 1 + step
                hidden = try draft.layer(
                    embedding: draft.embed(ids.narrow(1, token..<token + 1)), hidden: hidden,
                    context: context(draft, tokens: 1, cache: cache))
                cache.advance(by: 1)
                let expected = try golden.tensor("hidden.\(step)").narrow(0, place..<place + 1)
                #expect(try difference(hidden.squeeze(0), expected) <= tolerance)
            }
        }
    }

    @Test("training's unrolled passes", arguments: GoldenDraft.all)
    func unrolled(golden: GoldenDraft) throws {
        let (draft, _) = try golden.load()
        let ids = try golden.tensor("ids").unsqueeze(0)
        let attention = UnrolledAttention()
        var hidden = try draft.fuse(golden.tensor("features").unsqueeze(0))
        let tolerance = try golden.tolerance("deviation")
        for step in 0..<Self.steps {
            let places = Self.places - step
            let positions = try Tensor.arange(step..<step + places).unsqueeze(0)
            let angles = try draft.rotary.table(positions, length: 16, dtype: .float32)
            let context = ForwardContext(
                batch: 1, tokens: places, cosines: angles.cosines, sines: angles.sines, mask: nil,
                store: KVCache(layers: 1))
            hidden = try draft.layer(
                embedding: draft.embed(ids.narrow(1, step + 1..<step + 1 + places)),
                hidden: hidden.narrow(1, 0..<places), context: context,
                attention: { try attention($0, $1, $2) })
            for (found, name) in [(hidden, "hidden"), (try draft.logits(hidden), "logits")] {
                let expected = try golden.tensor("\(name).\(step)")
                #expect(try difference(found.squeeze(0), expected) <= tolerance, "\(name) \(step)")
            }
        }
    }

    @Test("the target's ids of the draft's", arguments: GoldenDraft.all)
    func ids(golden: GoldenDraft) throws {
        let (draft, _) = try golden.load()
        let offsets: [Int64] = try Checkpoint(path: golden.directory).tensor("d2t").values()
        let expected = offsets.enumerated().map { Int64($0.offset) + $0.element }
        #expect(try draft.targetIds.values(as: Int64.self) == expected)
        #expect(expected.count == draft.config.draftVocabulary)
    }
}

@Suite("Attention of unrolled passes")
struct UnrolledAttentionTests {
    /// Queries of step j see keys of step 0 up to their own place and of later steps their own.
    private func mask(step: Int, places: Int) throws -> Tensor {
        var visible: [UInt8] = []
        for query in 0..<places {
            for source in 0...step {
                for key in 0..<places {
                    visible.append((source == 0 ? key <= query : key == query) ? 1 : 0)
                }
            }
        }
        return try Tensor(visible, shape: [1, 1, places, (step + 1) * places]).to(dtype: .bool)
    }

    @Test("one explicit mask over the keys of all steps", arguments: [1, 2, 4])
    func explicit(kvHeads: Int) throws {
        let (batch, heads, dim, first, steps) = (2, 4, 8, 9, 5)
        let generator = try RandomGenerator(seed: 3)
        let attention = UnrolledAttention()
        var all: [(key: Tensor, value: Tensor)] = []
        for step in 0..<steps {
            let places = first - step
            func random(_ heads: Int) throws -> Tensor {
                try .randn([batch, heads, places, dim], generator: generator)
            }
            let (query, key, value) = (try random(heads), try random(kvHeads), try random(kvHeads))
            all.append((key, value))
            let found = try attention(query, key, value)
            let own = try all.map {
                (key: try $0.key.narrow(2, 0..<places), value: try $0.value.narrow(2, 0..<places))
            }
            let expected = try query.to(dtype: .float64).attention(
                key: Tensor.cat(own.map(\.key), dim: 2).to(dtype: .float64),
                value: Tensor.cat(own.map(\.value), dim: 2).to(dtype: .float64),
                mask: mask(step: step, places: places)
            ).transpose(1, 2).reshape([batch, places, -1])
            // A score of 8 terms and an average of up to 13 values of size 4 at most.
            let tolerance = Double(DType.float32.epsilon) * 21 * 4
            #expect(try difference(found.to(dtype: .float64), expected) <= tolerance)
        }
    }

    @Test("gradients reach the keys of every step") func gradients() throws {
        let generator = try RandomGenerator(seed: 5)
        let leaves = try (0..<9).map { index in
            try Tensor.randn([1, 2, 6 - index / 3, 4], generator: generator).leaf()
        }
        let attention = UnrolledAttention()
        var last = leaves[0]
        for step in 0..<3 {
            last = try attention(leaves[3 * step], leaves[3 * step + 1], leaves[3 * step + 2])
        }
        let found = try last.sum().gradients(leaves)
        // Queries of earlier steps have no part in the last one's outputs.
        #expect(
            found.map { $0 == nil } == [true, false, false, true, false, false] + [
                false, false, false,
            ])
        // The last step reads the first four places of the steps before.
        let ofFirst = try #require(found[2])
        #expect(try ofFirst.narrow(2, 4..<6).abs().max().item() == 0)
        #expect(try ofFirst.narrow(2, 0..<4).abs().max().item() > 0)
    }
}
