import Glibc
import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct CheckpointTests {
    /// A directory with a config.json, shards of scalars by file name, and an index of them.
    static func model(
        shards: [String: [String]], index: [String: String]? = nil
    ) throws -> TemporaryDirectory {
        let directory = try TemporaryDirectory()
        try directory.file("config.json", "{\"model_type\": \"qwen3\"}")
        for (file, names) in shards {
            let output = try SafetensorsWriter(
                file: "\(directory.path)/\(file)",
                tensors: names.map { TensorDescription(name: $0, dtype: .float32, shape: [1]) })
            try output.writeRest { Array($0.name.utf8.prefix(1)) + [0, 0, 0] }
            try output.finish()
        }
        if let index {
            let map = JSON.object(
                .init(uniqueKeysWithValues: index.map { (JSON.Name($0), JSON.string($1)) }))
            try directory.file(
                ShardIndex.fileName, JSON.object(["weight_map": map]).text(sortedKeys: true))
        }
        return directory
    }

    static func refusal(_ directory: TemporaryDirectory) -> String {
        message { _ = try Checkpoint(path: directory.path) }
    }

    @Test func opensShardsThroughTheIndex() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a", "b"], "two.safetensors": ["c", "extra"]],
            index: ["a": "one.safetensors", "b": "one.safetensors", "c": "two.safetensors"])
        let checkpoint = try Checkpoint(path: model.path)
        #expect(checkpoint.tensorNames == ["a", "b", "c", "extra"])
        #expect(checkpoint.byteCount == 16)
        #expect(checkpoint.file(of: "c")?.path == model.path + "/two.safetensors")
        #expect(try checkpoint.withUnsafeBytes(of: "c") { $0[0] } == UInt8(ascii: "c"))
        #expect(try checkpoint.bytes(of: "b").count == 4)
        #expect(try checkpoint.config.modelType == "qwen3")
        #expect(checkpoint.generationConfig == nil)
        let said = message { _ = try checkpoint.bytes(of: "d") }
        #expect(said.contains(model.path) && said.contains("no tensor \"d\" among its 4"))
        #expect(said.contains("minima inspect"))
    }

    @Test func bytesOutliveTheCheckpoint() throws {
        let bytes: TensorBytes
        do {
            let model = try Self.model(shards: ["model.safetensors": ["a"]])
            bytes = try Checkpoint(path: model.path).bytes(of: "a")
        }
        #expect(bytes.withUnsafeBytes { Array($0) } == [UInt8(ascii: "a"), 0, 0, 0])
    }

    @Test func missingShardsAreNamed() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a"]],
            index: ["a": "one.safetensors", "b": "two.safetensors", "c": "three.safetensors"])
        let said = Self.refusal(model)
        #expect(said.contains(model.path + "/model.safetensors.index.json: 2 of 3 files"))
        #expect(said.contains("three.safetensors, two.safetensors"))
        #expect(said.contains("download them"))
    }

    @Test func tensorsMissingFromShardsAreNamed() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a"]],
            index: [
                "a": "one.safetensors", "layers.0.w": "one.safetensors",
                "layers.1.w": "one.safetensors",
            ])
        let said = Self.refusal(model)
        #expect(said.contains("2 tensors the index names are in none of its shards"))
        #expect(said.contains("layers.*.w (2 times)") && said.contains("download again"))
    }

    @Test func tensorsInTwoShardsAreNamed() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a", "b"], "two.safetensors": ["b"]],
            index: ["a": "one.safetensors", "b": "two.safetensors"])
        let said = Self.refusal(model)
        #expect(said.contains("two shards hold the tensor \"b\""))
        #expect(said.contains("one.safetensors") && said.contains("two.safetensors"))
    }

    @Test func tensorsInTheWrongShardAreNamed() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a", "b"], "two.safetensors": ["c"]],
            index: ["a": "one.safetensors", "b": "two.safetensors"])
        let said = Self.refusal(model)
        #expect(said.contains("places the tensor \"b\" in two.safetensors"))
    }

    @Test(arguments: [
        "../evil.safetensors", "/etc/passwd", "a/../../b", "", "a//b", "..", "a\u{0}b",
    ])
    func shardsOutsideTheDirectoryAreRefused(path: String) throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a"]], index: ["a": "one.safetensors", "b": path])
        let said = Self.refusal(model)
        #expect(said.contains("points outside its directory: \(displayed(path))"), "\(said)")
        #expect(said.contains("do not trust"))
    }

    @Test func brokenIndexesAreRefused() throws {
        let model = try Self.model(shards: [:])
        try model.file(ShardIndex.fileName, "{\"weight_map\": ")
        #expect(Self.refusal(model).contains("index.json: not valid JSON at line 1, column 16"))
        try model.file(ShardIndex.fileName, "{}")
        #expect(Self.refusal(model).contains("\"weight_map\" is missing, expected an object"))
        try model.file(ShardIndex.fileName, "{\"weight_map\": {\"a\": 1}}")
        #expect(
            Self.refusal(model).contains("\"weight_map.a\" is an integer, expected a file name"))
    }

    @Test func aBrokenShardIsNamed() throws {
        let model = try Self.model(
            shards: ["one.safetensors": ["a"]],
            index: ["a": "one.safetensors", "b": "two.safetensors"])
        try model.file("two.safetensors", [1, 2, 3])
        #expect(
            Self.refusal(model).hasPrefix(model.path + "/two.safetensors: the file has 3 bytes"))
    }

    @Test(arguments: [
        ("pytorch_model.bin", "save_pretrained"), ("pytorch_model-00001-of-2.bin", "pickled"),
        ("model.gguf", "GGUF"), ("adapter_model.safetensors", "merge the adapter"),
        ("model-00001-of-00002.safetensors", "download the index too"),
        ("README.md", "neither model.safetensors nor model.safetensors.index.json"),
    ])
    func directoriesWithoutWeightsSayWhatToDo(file: String, says: String) throws {
        let model = try Self.model(shards: [:])
        try model.file(file, "x")
        let said = Self.refusal(model)
        #expect(said.hasPrefix(model.path) && said.contains(says), "\(said)")
    }

    @Test func whatIsNoModelDirectorySaysWhatToDo() throws {
        let directory = try TemporaryDirectory()
        #expect(Self.refusal(directory).contains("it has no config.json; give a Hugging Face"))
        let file = try directory.file("model.safetensors", "x")
        #expect(message { _ = try Checkpoint(path: file) }.contains("give the directory"))
        let absent = message { _ = try Checkpoint(path: "Qwen/Qwen3-32B") }
        #expect(absent.contains("no such directory") && absent.contains("hf download"))
        try directory.file("config.json", "[]")
        #expect(Self.refusal(directory).contains("config.json: \"\" is an array"))
        try directory.file("config.json", "{\"a\": 1, \"a\": 2}")
        #expect(Self.refusal(directory).contains("the name \"a\" appears twice"))
        try directory.file("config.json", "{\"\\u001b\": 1, \"\\u001b\": 2}")
        #expect(Self.refusal(directory).contains("the name \"\\u{1b}\" appears twice"))
        #expect(truncate(directory.path + "/config.json", 9_000_000_000) == 0)
        #expect(Self.refusal(directory).contains("config.json: it has more than 8388 kB"))
    }

    @Test func claimsNameWhatIsMissingUnexpectedAndMisshapen() throws {
        let names = (0..<300).map { "model.layers.\($0).mlp.up_proj.weight" }
        let model = try Self.model(shards: [
            "model.safetensors": names + ["norm.weight", "lm_head.weight", "rotary.inv_freq"]
        ])
        var claims = try TensorClaims(Checkpoint(path: model.path))
        #expect(claims.claim("norm.weight", shape: [2]) == nil)
        #expect(claims.claim("lm_head.weight", shape: [1])?.dtype == .float32)
        #expect(claims.claimIfPresent("lm_head.bias") == nil)
        for layer in 0..<400 { _ = claims.claim("model.layers.\(layer).mlp.gate_proj.weight") }
        #expect(claims.claim("embed") == nil)
        #expect(claims.claim(names[0]) != nil)
        claims.ignore { $0.hasSuffix("inv_freq") }
        #expect(claims.unclaimed == Array(names[1...]).sorted())
        let said = message { try claims.finish() }
        #expect(said.hasPrefix(model.path + ": its tensors do not fit"))
        #expect(
            said.contains(
                "401 missing: model.layers.*.mlp.gate_proj.weight (400 times), embed"), "\(said)")
        #expect(said.contains("299 unexpected: model.layers.*.mlp.up_proj.weight (299 times)"))
        #expect(
            said.contains("1 of another shape: norm.weight is [1], the model needs [2]"))
        #expect(said.utf8.count < 600)
        for name in names { _ = claims.claim(name) }
        #expect(claims.unclaimed.isEmpty)
    }

    @Test func completeClaimsPass() throws {
        let model = try Self.model(shards: ["model.safetensors": ["a", "b"]])
        var claims = try TensorClaims(Checkpoint(path: model.path))
        #expect(claims.claim("a", shape: [1]) != nil && claims.claimIfPresent("b") != nil)
        try claims.finish()
    }

    @Test func longListsAreCut() {
        let names = (0..<100).map { "tensor\($0)" }
        #expect(
            summary(of: names)
                == (0..<8).map { "tensor\($0)" }.joined(separator: ", ") + " and 92 more")
        #expect(summary(of: ["a.1", "b", "a.2", "a.x"]) == "a.* (2 times), b, a.x")
    }
}
