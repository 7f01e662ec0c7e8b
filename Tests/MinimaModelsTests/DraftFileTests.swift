import MinimaCheckpoint
import MinimaCore
import MinimaFormats
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

@Suite("Draft files")
struct DraftFileTests {
    private let target: any LanguageModel
    private let source: Checkpoint

    init() throws {
        source = try Checkpoint(path: GoldenDraft.target)
        target = try source.loadModel()
    }

    /// A draft's weights, written to a folder and opened.
    private func written(_ draft: DraftWeights, _ folder: Scratch) throws -> Checkpoint {
        let directory = try AtomicDirectory(destination: "\(folder.path)/draft")
        try draft.write(to: directory)
        try directory.commit()
        return try Checkpoint(path: "\(folder.path)/draft")
    }

    private func untrained() throws -> DraftWeights {
        try DraftWeights(for: target, source, vocabulary: [9, 3, 60, 17, 4, 33, 1, 8], seed: 2)
    }

    /// What the draft computes for some made-up features.
    private func logits(_ draft: EagleDraft) throws -> Tensor {
        let generator = try RandomGenerator(seed: 4)
        let features = try Tensor.randn(
            [1, 7, 3 * draft.config.targetHidden], generator: generator)
        let context = try ForwardContext(
            batch: 1, tokens: 7, cache: nil, padding: nil, rotary: draft.rotary, device: .cpu,
            dtype: .float32)
        let ids = try Tensor([1, 5, 9, 3, 60, 2, 7].map(Int64.init), shape: [1, 7])
        return try draft.logits(
            draft.layer(
                embedding: draft.embed(ids), hidden: draft.fuse(features), context: context))
    }

    // MARK: Writing

    @Test("an untrained draft is what it says") func untrainedDraft() throws {
        let weights = try untrained()
        let draft = try EagleDraft(weights, target: target)
        let ids: [Int64] = [1, 3, 4, 8, 9, 17, 33, 60]
        #expect(try draft.targetIds.values(as: Int64.self) == ids)
        let offsets: [Int64] = try #require(weights.tensors["d2t"]).values()
        #expect(offsets == [1, 2, 2, 5, 5, 12, 27, 53])
        let known: [UInt8] = try #require(weights.tensors["t2d"]).to(dtype: .uint8).values()
        #expect(known.count == 64)
        #expect(known.indices.filter { known[$0] != 0 }.map(Int64.init) == ids)
        // The output projection is the target's for these tokens.
        let hidden = try Tensor.randn([3, 24], generator: RandomGenerator(seed: 1))
        let expected = try target.logits(hidden).selecting(1, draft.targetIds)
        let own = try draft.head(hidden)
        // Sums of 24 terms in two orders.
        let norm = try hidden.norm().item() * 24
        #expect(try (own - expected).abs().max().item() <= DType.float32.epsilon * 24 * norm)
    }

    @Test("every tensor comes back as it was", arguments: ["untrained", "authors", "vllm"])
    func roundTrip(name: String) throws {
        let golden = GoldenDraft.all.first { $0.name == name }
        let weights =
            try golden.map { try DraftWeights(Checkpoint(path: $0.directory)) } ?? untrained()
        let folder = try Scratch()
        let stored = try written(weights, folder)
        #expect(Set(stored.tensorNames) == Set(weights.tensors.keys))
        for (name, tensor) in weights.tensors {
            #expect(try stored.tensor(name).isIdentical(to: tensor), "\(name)")
        }
        #expect(stored.config.json == weights.config.json)
        let (before, after) = (
            try EagleDraft(weights, target: target), try EagleDraft(stored, target: target)
        )
        #expect(before.config == after.config)
        #expect(try logits(before).isIdentical(to: logits(after)))
    }

    @Test("layers in blocks of float8 are the numbers that they stand for") func float8() throws {
        let golden = try Checkpoint(path: GoldenDraft.all[0].directory)
        var tensors: [(name: String, tensor: Tensor)] = []
        for name in golden.tensorNames {
            let tensor = try golden.tensor(name)
            guard name.hasSuffix("_proj.weight") else {
                tensors.append((name, tensor))
                continue
            }
            tensors.append((name, try (tensor * 64).to(dtype: .float8e4m3)))
            tensors.append(("\(name)_scale_inv", try .full([1, 1], 0x1p-6)))
        }
        var members = try #require(golden.config.json.object)
        members["quantization_config"] = [
            "quant_method": "fp8", "weight_block_size": [4096, 4096],
        ]
        members["torch_dtype"] = "float8_e4m3fn"
        let folder = try Scratch()
        try writeCheckpoint(tensors, config: .object(members), to: "\(folder.path)/float8")
        let source = try Checkpoint(path: "\(folder.path)/float8")
        let weights = try DraftWeights(source)
        #expect(Set(weights.tensors.keys) == Set(golden.tensorNames))
        #expect(weights.config.json["quantization_config"] == nil)
        #expect(try weights.storedDType() == .bfloat16)
        let stored = try written(weights, folder)
        #expect(try stored.config.dtype == .bfloat16)
        #expect(stored.info("fc.weight")?.dtype == .bfloat16)
        for info in source.tensors where info.dtype == .float8e4m3 {
            #expect(try stored.tensor(info.name).isIdentical(to: source.tensor(info.name)))
        }
        _ = try logits(EagleDraft(stored, target: target))
    }

    @Test("the layout that SGLang and vLLM read") func layout() throws {
        let folder = try Scratch()
        let stored = try written(untrained(), folder)
        #expect(
            Set(stored.tensorNames) == [
                "fc.weight", "midlayer.hidden_norm.weight", "midlayer.input_layernorm.weight",
                "midlayer.self_attn.q_proj.weight", "midlayer.self_attn.k_proj.weight",
                "midlayer.self_attn.v_proj.weight", "midlayer.self_attn.o_proj.weight",
                "midlayer.post_attention_layernorm.weight", "midlayer.mlp.gate_proj.weight",
                "midlayer.mlp.up_proj.weight", "midlayer.mlp.down_proj.weight", "norm.weight",
                "lm_head.weight", "d2t", "t2d",
            ])
        #expect(stored.info("d2t")?.dtype == .int64 && stored.info("t2d")?.dtype == .bool)
        #expect(stored.info("fc.weight")?.shape == [24, 72])
        #expect(stored.info("midlayer.self_attn.k_proj.weight")?.shape == [8, 48])
        let config = stored.config
        #expect(try config.architectures == ["LlamaForCausalLMEagle3"])
        #expect(try config.int("draft_vocab_size") == 8 && config.int("num_hidden_layers") == 1)
        #expect(try config.double("rope_theta") == 100_000)
        #expect(try config.string("torch_dtype") == "float32")
        #expect(config.json["quantization_config"] == nil)
        // vLLM counts the layers whose input is read, SGLang those whose output is.
        let key = "eagle_aux_hidden_state_layer_ids"
        #expect(try config.ints(key) == [0, 1, 1])
        let section = try #require(try config.sectionIfPresent("eagle_config"))
        #expect(try section.ints(key, in: -1...9) == [-1, 0, 0])
        #expect(try EagleDraft(stored, target: target).featureLayers == [0, 1, 1])
    }

    @Test("layers in other formats, alone and stacked") func formats() throws {
        let dense = try DraftWeights(Checkpoint(path: GoldenDraft.all[0].directory))
        var small = dense
        var largest = 0.0
        let int8 = FormatSpec(
            format: Quantized.name, bits: 8, groupSize: 8, parts: [FormatSpec(format: Dense.name)])
        func change(_ name: String, _ weight: Tensor) throws {
            let other = try Quantized.decompose(weight, spec: int8, metric: nil)
            let error = try (other.reconstruct().to(dtype: .float32) - weight).norm().item()
            largest = try max(largest, error / weight.norm().item())
            small = try small.replacing(name, with: other)
        }
        for name in ["fc", "lm_head", "midlayer.self_attn.o_proj", "midlayer.mlp.down_proj"] {
            try change(name, #require(dense.tensors["\(name).weight"]))
        }
        let qkv = try Tensor.cat(
            ["q", "k", "v"].map {
                try #require(dense.tensors["midlayer.self_attn.\($0)_proj.weight"])
            })
        try change("midlayer.self_attn.qkv_proj", qkv)
        let folder = try Scratch()
        let stored = try written(small, folder)
        #expect(stored.byteCount < (try Checkpoint(path: GoldenDraft.all[0].directory)).byteCount)
        let (before, after) = (
            try EagleDraft(dense, target: target), try EagleDraft(stored, target: target)
        )
        #expect(after.qkv.layers.count == 1 && after.head.weight is Quantized)
        let (exact, found) = (try logits(before), try logits(after))
        let error = try (found - exact).norm().item() / exact.norm().item()
        // Five layers in turn, whose norms and residual streams may each double an error.
        #expect(error > 0 && error <= 5 * 2 * 2 * largest)
    }

    // MARK: Bad files

    /// Changes of a draft's files, and what the error must name.
    private static let changes: [(String, [String: JSON?], String)] = [
        (
            "no EAGLE-3 draft",
            ["architectures": ["LlamaForCausalLM"], "draft_vocab_size": .some(nil)], "EAGLE-3"
        ),
        ("no class", ["architectures": .some(nil), "draft_vocab_size": .some(nil)], "EAGLE-3"),
        ("two layers", ["num_hidden_layers": 2], "one decoder layer"),
        ("no size", ["hidden_size": .some(nil)], "hidden_size"),
        ("a size in words", ["hidden_size": "large"], "hidden_size"),
        ("heads that do not divide", ["num_key_value_heads": 3], "num_attention_heads"),
        ("more heads than there are", ["num_key_value_heads": 9], "num_key_value_heads"),
        ("an odd head", ["head_dim": 7], "head_dim"),
        ("another width", ["hidden_size": 32, "head_dim": 8], "hidden size of 32"),
        ("another vocabulary", ["vocab_size": 96], "vocabulary of 96"),
        ("a larger draft vocabulary", ["draft_vocab_size": 65], "draft_vocab_size"),
        ("a smaller one", ["draft_vocab_size": 20], "lm_head.weight"),
        ("another activation", ["hidden_act": "gelu"], "silu"),
        ("another kind of rotation", ["rope_scaling": ["type": "longrope"]], "rope_scaling.type"),
        (
            "sizes of which no matrix can be",
            ["hidden_size": 2_147_483_648, "intermediate_size": 2_147_483_648],
            "intermediate_size"
        ),
        (
            "huge sizes", ["intermediate_size": 2_000_000_000, "num_attention_heads": 65_536],
            "5 of another shape"
        ),
        (
            "two layers to read", ["eagle_aux_hidden_state_layer_ids": [0, 1]],
            "eagle_aux_hidden_state_layer_ids"
        ),
        (
            "a layer that the target lacks", ["eagle_aux_hidden_state_layer_ids": [0, 1, 2]],
            "layer 2"
        ),
        (
            "SGLang's count of that layer",
            ["eagle_config": ["eagle_aux_hidden_state_layer_ids": [0, 0, 1]]], "layer 2"
        ),
        (
            "no features", ["eagle_config": ["use_aux_hidden_state": false]],
            "use_aux_hidden_state"
        ),
        ("biases that are not there", ["attention_bias": true], "q_proj.bias"),
        ("a format for nothing", ["quantization_config": ["quant_method": "gptq"]], "gptq"),
    ]

    /// The golden draft of the authors' layout with another configuration.
    private func changed(_ changes: [String: JSON?], _ folder: Scratch) throws -> Checkpoint {
        let golden = try Checkpoint(path: GoldenDraft.all[0].directory)
        var members = try #require(golden.config.json.object)
        for (key, value) in changes { members[JSON.Name(key)] = value }
        try folder.write(JSON.object(members).text().utf8, to: "config.json")
        try folder.copy("\(golden.path)/model.safetensors", to: "model.safetensors")
        return try Checkpoint(path: folder.path)
    }

    @Test("a head whose class is its layer's loads") func classOfTheLayer() throws {
        let folder = try Scratch()
        let golden = try Checkpoint(path: GoldenDraft.all[0].directory)
        let other = try changed(["architectures": ["LlamaForCausalLM"]], folder)
        let drafts = try [golden, other].map { try EagleDraft($0, target: target) }
        #expect(try logits(drafts[0]).isIdentical(to: logits(drafts[1])))
    }

    @Test("configurations", arguments: changes)
    func badConfigurations(name: String, changes: [String: JSON?], hint: String) throws {
        let folder = try Scratch()
        do {
            _ = try EagleDraft(changed(changes, folder), target: target)
            Issue.record("\(name) loads")
        } catch {
            #expect("\(error)".contains(hint), "\(error)")
            #expect("\(error)".contains(folder.path), "\(error)")
        }
    }

    @Test("missing, unexpected and misshapen tensors are named at once") func badTensors() throws {
        var weights = try DraftWeights(Checkpoint(path: GoldenDraft.all[0].directory))
        weights.tensors["midlayer.mlp.up_proj.weight"] = nil
        weights = try weights.replacing("fc", with: Dense(.zeros([24, 48])))
        weights = try weights.replacing("midlayer.self_attn.g_proj", with: Dense(.zeros([2, 2])))
        let folder = try Scratch()
        let stored = try written(weights, folder)
        var reads = 0
        do {
            _ = try EagleDraft(stored, target: target) { reads += 1 }
            Issue.record("it loads")
        } catch CheckpointError.tensors(_, let mismatch) {
            #expect(mismatch.missing == ["midlayer.mlp.up_proj.weight"])
            #expect(mismatch.unexpected == ["midlayer.self_attn.g_proj.weight"])
            #expect(mismatch.misshapen.count == 1 && mismatch.misshapen[0].contains("fc.weight"))
        }
        #expect(reads == 0)
    }

    @Test("vocabularies that are none") func badVocabularies() throws {
        let weights = try DraftWeights(Checkpoint(path: GoldenDraft.all[0].directory))
        let offsets: [Int64] = try #require(weights.tensors["d2t"]).values()
        func message(_ change: (inout [Int64]) -> Void, known: [UInt8]? = nil) throws -> String {
            var changed = offsets
            change(&changed)
            var weights = weights
            weights.tensors["d2t"] = try Tensor(changed)
            if let known { weights.tensors["t2d"] = try Tensor(known).to(dtype: .bool) }
            do {
                _ = try EagleDraft(weights, target: target)
                return "it loads"
            } catch {
                return "\(error)"
            }
        }
        #expect(try message { $0[3] = 60 }.contains("token 63 twice"))
        #expect(try message { $0[20] = 44 }.contains("outside its vocabulary of 64"))
        #expect(try message { $0[0] = -1 }.contains("token -1"))
        #expect(try message { $0[1] = .max }.contains("outside its vocabulary"))
        #expect(
            try message({ _ in }, known: [UInt8](repeating: 1, count: 64))
                .contains("d2t and t2d disagree about the model's token 0"))
        for ids in [[], [1, 1], [-1, 3], [3, 64]] as [[Int32]] {
            #expect(throws: DraftError.self) {
                try DraftWeights(for: target, source, vocabulary: ids)
            }
        }
    }

    @Test("damaged files never trap", arguments: [1, 2, 3] as [UInt64])
    func fuzz(seed: UInt64) throws {
        let golden = GoldenDraft.all[Int(seed) % 2]
        let files = try ["config.json", "model.safetensors"].map { name in
            (name, try readFile("\(golden.directory)/\(name)", limit: 1 << 20))
        }
        let folder = try Scratch()
        var state = seed
        func random(_ limit: Int) -> Int {
            state = state &* 6_364_136_223_846_793_005 &+ 1_442_695_040_888_963_407
            return Int(state >> 33) % max(limit, 1)
        }
        var (opened, refused) = (0, 0)
        for round in 0..<300 {
            for (index, (name, bytes)) in files.enumerated() {
                var bytes = bytes
                if round % 2 == index {
                    // The header, d2t and t2d are where a byte decides most.
                    let end = index == 0 ? bytes.count : min(bytes.count, 2600)
                    for _ in 0...random(3) { bytes[random(end)] = UInt8(random(256)) }
                    if random(4) == 0 { bytes.removeLast(random(bytes.count)) }
                }
                try folder.write(bytes, to: name)
            }
            do {
                let draft = try EagleDraft(Checkpoint(path: folder.path), target: target)
                _ = try logits(draft)
                opened += 1
            } catch {
                refused += 1
                #expect(!"\(error)".isEmpty)
            }
        }
        #expect(opened > 5 && refused > 50, "\(opened) opened, \(refused) refused")
    }
}
