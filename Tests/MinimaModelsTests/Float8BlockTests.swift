import MinimaCheckpoint
import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaModels

/// Public checkpoints with weights in blocks of float8.
@Suite("Blocks of float8")
struct Float8BlockTests {
    private static let rows = 16
    private static let columns = 24

    private static func section(_ changes: [String: JSON?] = [:]) -> JSON {
        var members: [String: JSON?] = [
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic",
            "weight_block_size": [.integer(Int64(rows)), .integer(Int64(columns))],
        ]
        members.merge(changes) { $1 }
        return .object(
            .init(
                uniqueKeysWithValues: members.compactMap { key, value in
                    value.map { (JSON.Name(key), $0) }
                }))
    }

    /// Products by torch, bit for bit, with scales of each type and blocks that are cut.
    @Test func valuesAreTorchs() throws {
        let checkpoint = try Checkpoint(path: goldensFolder() + "/float8")
        let contents = try checkpoint.contents()
        #expect(contents.count == 6 && contents.allSatisfy { $0.dtype == .bfloat16 })
        for name in ["uneven", "whole", "small"] {
            let info = try #require(checkpoint.info(name))
            #expect(info.dtype == .float8e4m3)
            let (found, expected) = try (
                checkpoint.tensor(name), checkpoint.tensor("\(name).expected")
            )
            #expect(found.dtype == .bfloat16)
            #expect(try found.isIdentical(to: expected), "\(name)")
        }
    }

    /// A golden model whose linear layers are in blocks of float8.
    private struct Pair {
        /// Tensors of the model in blocks, and of the model with the numbers that they stand for.
        var stored: [(name: String, tensor: Tensor)] = []
        var dense: [(name: String, tensor: Tensor)] = []
        var config: JSON
    }

    private func pair(_ golden: String) throws -> Pair {
        let source = try Checkpoint(path: "\(GoldenModel.folder)/\(golden)")
        var result = Pair(config: source.config.json)
        let blocks = try #require(
            try Float8Blocks(
                ModelConfig(json: ["quantization_config": Self.section()], path: "test")))
        let dtype = try source.storedDType()
        for info in source.tensors {
            let tensor = try source.tensor(info.name)
            guard info.name.hasSuffix("_proj.weight") else {
                result.stored.append((info.name, tensor))
                result.dense.append((info.name, tensor))
                continue
            }
            let shape = blocks.scaleShape(of: info.shape)
            let scales = try Tensor((0..<shape[0] * shape[1]).map { 0x1p-8 * Float(1 + $0 % 7) })
                .reshape(shape)
            let weight = try (tensor.to(dtype: .float32) * 64).to(dtype: .float8e4m3)
            let values = try blocks.values(weight, scales: scales, dtype: dtype)
            result.stored += [(info.name, weight), ("\(info.name)_scale_inv", scales)]
            result.dense.append((info.name, values))
        }
        return result
    }

    private func withCheckpoint(
        _ tensors: [(name: String, tensor: Tensor)], _ config: JSON, section: JSON?,
        _ body: (Checkpoint) throws -> Void
    ) throws {
        let scratch = try Scratch()
        let path = "\(scratch.path)/model"
        var members = try #require(config.object)
        if let section { members["quantization_config"] = section }
        try writeCheckpoint(tensors, config: .object(members), to: path)
        try body(Checkpoint(path: path))
    }

    @Test(
        "a model in blocks is the model of the numbers",
        arguments: ["qwen3-gqa3-untied-bf16-v4", "llama-gqa2-bias-v5", "qwen3moe-step2-bf16-v4"])
    func modelsLoad(golden: String) throws {
        let pair = try pair(golden)
        let tokens = try Tensor([3, 1, 4, 1, 5] as [Int64], shape: [1, 5])
        func logits(_ checkpoint: Checkpoint) throws -> Tensor {
            let model = try checkpoint.loadModel()
            return try model.logits(model.run(tokens))
        }
        try withCheckpoint(pair.dense, pair.config, section: nil) { dense in
            let expected = try logits(dense)
            try withCheckpoint(pair.stored, pair.config, section: Self.section()) { stored in
                #expect(stored.tensors.contains { $0.dtype == .float8e4m3 })
                #expect(try logits(stored).isIdentical(to: expected))
                let contents = try stored.contents()
                #expect(contents.map(\.name).sorted() == dense.tensorNames.sorted())
                for item in contents {
                    let info = try #require(dense.info(item.name))
                    #expect(item.dtype == info.dtype && item.shape == info.shape)
                }
                let (found, whole) = try (InspectionResult(stored), InspectionResult(dense))
                #expect(found.parameters == whole.parameters && found.bytes < whole.bytes)
                #expect(found.architecture["quantised by"] == "fp8")
            }
        }
    }

    /// What the configuration says of the weights' type: as which they are read, and what stages
    /// and devices take them for.
    @Test(
        "the weights' type",
        arguments: [
            ("float8_e4m3fn", .bfloat16), ("float8_e5m2", .bfloat16), (nil, .bfloat16),
            ("auto", .bfloat16), ("bfloat16", .bfloat16), ("float16", .float16),
            ("float32", .float32),
        ] as [(String?, DType)])
    func typeOfTheWeights(named: String?, expected: DType) throws {
        var pair = try pair("qwen3-gqa3-untied-bf16-v4")
        var members = try #require(pair.config.object)
        for key in ["dtype", "torch_dtype"] { members.removeValue(forKey: JSON.Name(key)) }
        if let named { members["torch_dtype"] = .string(named) }
        pair.config = .object(members)
        try withCheckpoint(pair.stored, pair.config, section: Self.section()) { checkpoint in
            #expect(try checkpoint.storedDType() == expected)
            #expect(try checkpoint.defaultDType(on: .cuda(0)) == expected)
            #expect(try checkpoint.defaultDType(on: .cpu) == .float32)
            let weights = try checkpoint.contents().filter { $0.name.hasSuffix("_proj.weight") }
            #expect(!weights.isEmpty && weights.allSatisfy { $0.dtype == expected })
            #expect(try checkpoint.tensor(#require(weights.first).name).dtype == expected)
            let json = try checkpoint.config.json(storing: expected)
            #expect(try ModelConfig(json: json, path: "test").dtype == expected)
        }
    }

    /// Dense weights say their type themselves where the configuration does not; one that it does
    /// not know matters only to what is read in it.
    @Test func typesOfDenseWeights() throws {
        for (golden, expected) in [
            ("qwen3-gqa3-untied-bf16-v4", DType.bfloat16), ("qwen3-gqa4-tied-v5", .float32),
        ] {
            let source = try Checkpoint(path: "\(GoldenModel.folder)/\(golden)")
            let tensors = try source.tensors.map { ($0.name, try source.tensor($0.name)) }
            var members = try #require(source.config.json.object)
            for key in ["dtype", "torch_dtype"] { members.removeValue(forKey: JSON.Name(key)) }
            try withCheckpoint(tensors, .object(members), section: nil) { checkpoint in
                let found = try checkpoint.storedDType()
                #expect(found == expected)
            }
            members["torch_dtype"] = "int4"
            try withCheckpoint(tensors, .object(members), section: nil) { checkpoint in
                let contents = try checkpoint.contents()
                #expect(contents.map(\.dtype) == checkpoint.tensors.map(\.dtype))
                #expect(contents.map(\.name) == checkpoint.tensorNames)
                _ = try checkpoint.loadModel()
                #expect(throws: CheckpointError.self) { try checkpoint.storedDType() }
            }
        }
        let blocks = try pair("qwen3-gqa3-untied-bf16-v4")
        var members = try #require(blocks.config.object)
        members["torch_dtype"] = "int4"
        members.removeValue(forKey: "dtype")
        try withCheckpoint(blocks.stored, .object(members), section: Self.section()) {
            checkpoint in
            #expect(throws: CheckpointError.self) { try checkpoint.contents() }
        }
        #expect(DType.commonest([]) == .bfloat16)
        #expect(DType.commonest([(.float8e4m3, 9), (.int64, 9), (.float16, 1)]) == .float16)
        #expect(
            DType.commonest([(.float16, 2), (.float32, 3), (.float16, 1)]) == .float32)
        #expect(DType.commonest([(.float16, 2), (.float32, 3), (.float16, 2)]) == .float16)
    }

    /// What is wrong with a weight says nothing of its scales, which are known; and scales are no
    /// weights that have scales.
    @Test func scalesOfWrongWeights() throws {
        let pair = try pair("qwen3-gqa3-untied-bf16-v4")
        let names = pair.stored.filter { $0.tensor.dtype == .float8e4m3 }.map(\.name)
        var tensors = pair.stored
        let index = try #require(tensors.firstIndex { $0.name == names[0] })
        let (rows, inputs) = (tensors[index].tensor.shape[0], tensors[index].tensor.shape[1])
        // A row more than the model has, in blocks of its own shape.
        tensors[index].tensor = try Tensor.zeros([rows + 1, inputs]).to(dtype: .float8e4m3)
        tensors[index + 1].tensor = try .ones([
            rows / Self.rows + 1, (inputs - 1) / Self.columns + 1,
        ])
        let other = try #require(tensors.firstIndex { $0.name == "\(names[1])_scale_inv" })
        tensors[other].tensor = try tensors[other].tensor.to(dtype: .float8e4m3)
        try withCheckpoint(tensors, pair.config, section: Self.section()) { checkpoint in
            do {
                try checkpoint.checkModel()
                Issue.record("it loads")
            } catch CheckpointError.tensors(_, let mismatch) {
                #expect(mismatch.missing.isEmpty && mismatch.unexpected.isEmpty)
                #expect(mismatch.misshapen.count == 2)
                let told = mismatch.misshapen.joined(separator: "\n")
                #expect(told.contains("\(names[0]) is [\(rows + 1), \(inputs)]"), "\(told)")
                #expect(
                    told.contains("\(names[1])_scale_inv is F8_E4M3, scales need F32"), "\(told)")
            }
            var claims = TensorClaims(checkpoint)
            #expect(claims.claim(names[2], dtype: .float32) == nil)
            #expect(!claims.unclaimed.contains { $0.hasPrefix(names[2]) })
            #expect(throws: CheckpointError.self) { try claims.check() }
        }
    }

    /// All that is wrong with scales is told at once, before any weight is read.
    @Test func wrongScalesAreNamed() throws {
        let pair = try pair("qwen3-gqa3-untied-bf16-v4")
        let names = pair.stored.map(\.name).filter { $0.hasSuffix("_scale_inv") }
        try #require(names.count > 4)
        var tensors: [(name: String, tensor: Tensor)] = []
        for (name, tensor) in pair.stored {
            switch name {
            case names[0]: continue
            case names[1]: tensors.append((name, try tensor.transpose().contiguous()))
            case names[2]: tensors.append((name, try tensor.to(dtype: .int32)))
            default: tensors.append((name, tensor))
            }
        }
        tensors.append(("model.norm.weight_scale_inv", try Tensor.ones([1, 1])))
        try withCheckpoint(tensors, pair.config, section: Self.section()) { checkpoint in
            var calls = 0
            do {
                _ = try checkpoint.loadModel { calls += 1 }
                Issue.record("it loads")
            } catch CheckpointError.tensors(_, let mismatch) {
                #expect(mismatch.missing == [names[0]])
                #expect(mismatch.unexpected == ["model.norm.weight_scale_inv"])
                let told = mismatch.misshapen.joined(separator: " ")
                let square = pair.stored.first { $0.name == names[1] }?.tensor.shape
                #expect(told.contains(names[1]) != (square?[0] == square?[1]))
                #expect(told.contains(names[2]) && told.contains("scales need F32, BF16 or F16"))
            }
            #expect(calls == 0)
            // One by one, too.
            #expect(throws: CheckpointError.self) {
                try checkpoint.tensor(String(names[0].dropLast("_scale_inv".count)))
            }
        }
        // Without a method there are no blocks, and scales are tensors that nobody knows.
        try withCheckpoint(pair.stored, pair.config, section: nil) { checkpoint in
            #expect(throws: CheckpointError.self) { try checkpoint.loadModel() }
        }
    }

    @Test(
        "other ways of storing float8 are refused by name",
        arguments: [
            (["weight_block_size": nil], "weight_block_size"),
            (["weight_block_size": .null], "weight_block_size"),
            (["weight_block_size": 128], "weight_block_size"),
            (["weight_block_size": []], "weight_block_size"),
            (["weight_block_size": [128]], "weight_block_size"),
            (["weight_block_size": [128, 0]], "weight_block_size"),
            (["weight_block_size": [-1, 128]], "weight_block_size"),
            (["weight_block_size": [128, 128, 1]], "weight_block_size"),
            (["weight_block_size": [1.5, 128]], "weight_block_size"),
            (["weight_block_size": ["128", "128"]], "weight_block_size"),
            (["weight_block_size": [.integer(.max), 128]], "weight_block_size"),
            (["fmt": "e5m2"], "fmt"), (["fmt": 3], "fmt"),
            (["quant_method": "fbgemm_fp8"], "fp8"), (["quant_method": nil], "quant_method"),
        ] as [([String: JSON?], String)])
    func configurations(changes: [String: JSON?], hint: String) throws {
        let config = try ModelConfig(
            json: ["quantization_config": Self.section(changes)], path: "config.json")
        let error = #expect(throws: CheckpointError.self) { try CompressionManifest(config) }
        #expect(try #require(error).description.contains(hint))
    }

    /// Any sizes of blocks: a model or an error, and one block for all is the largest.
    @Test func sizesOfBlocksAreFree() throws {
        let pair = try pair("qwen3-gqa3-untied-bf16-v4")
        var numbers = SplitMix(5)
        for round in 0..<24 {
            let sizes = (0..<2).map { _ -> Int in
                let most = 1 << Int.random(in: 0...31, using: &numbers)
                return round == 0 ? 1 << 31 : Int.random(in: 1...most, using: &numbers)
            }
            let section = Self.section([
                "weight_block_size": .array(sizes.map { .integer(Int64($0)) })
            ])
            let config = try ModelConfig(json: ["quantization_config": section], path: "test")
            let blocks = try #require(try Float8Blocks(config))
            var tensors = pair.stored
            for (index, (name, tensor)) in pair.stored.enumerated()
            where tensor.dtype == .float8e4m3 {
                let shape = blocks.scaleShape(of: tensor.shape)
                // Some are of other sizes than the blocks'.
                if round % 4 != 3 { tensors[index + 1] = ("\(name)_scale_inv", try .ones(shape)) }
            }
            try withCheckpoint(tensors, pair.config, section: section) { checkpoint in
                let model = try? checkpoint.loadModel()
                #expect(round % 4 == 3 || model != nil, "\(sizes)")
            }
        }
    }
}
