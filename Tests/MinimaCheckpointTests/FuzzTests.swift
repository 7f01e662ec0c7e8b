import MinimaCore
import Testing

@testable import MinimaCheckpoint

/// Nothing in a file may trap: whatever opens is checked against the format's rules anew.
@Suite struct FuzzTests {
    static let seeds: [UInt64] = [1, 2, 3, 4]

    private func checkInvariants(_ tensors: [TensorInfo], fileBytes: Int, dataStart: Int) {
        var end = dataStart
        var names: Set<JSON.Name> = []
        for tensor in tensors {
            #expect(tensor.range.lowerBound == end)
            end = tensor.range.upperBound
            #expect(names.insert(JSON.Name(tensor.name)).inserted)
            #expect(tensor.shape.reduce(1, *) * tensor.dtype.byteCount == tensor.byteCount)
            #expect(tensor.elementCount == tensor.shape.reduce(1, *))
        }
        #expect(end == fileBytes)
    }

    @Test(arguments: seeds) func mutatedFilesNeverTrap(seed: UInt64) throws {
        let directory = try TemporaryDirectory()
        let original = try Files.read(golden("tiny.safetensors"), limit: 1 << 20)
        var random = SplitMix64(state: seed)
        var opened = 0
        for _ in 0..<1500 {
            let bytes = mutated(original, &random)
            let path = try directory.file("mutated.safetensors", bytes)
            guard let file = try? SafetensorsFile(path: path) else { continue }
            opened += 1
            let headerBytes = bytes[..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
            checkInvariants(
                file.tensors, fileBytes: bytes.count, dataStart: 8 + headerBytes)
            for tensor in file.tensors {
                let sum = try file.withUnsafeBytes(of: tensor.name) {
                    $0.reduce(0) { $0 &+ Int($1) }
                }
                #expect(sum == bytes[tensor.range].reduce(0) { $0 &+ Int($1) })
                _ = try file.firstNonFinite(in: tensor.name)
            }
        }
        // Mutations of the data alone leave a good file: some open, or nothing was tested.
        #expect(opened > 20 && opened < 1400)
    }

    @Test(arguments: seeds) func mutatedHeadersNeverTrap(seed: UInt64) throws {
        let file = try Files.read(golden("tiny.safetensors"), limit: 1 << 20)
        let length = file[..<8].reversed().reduce(0) { $0 << 8 | Int($1) }
        let original = Array(file[8..<8 + length])
        var random = SplitMix64(state: seed &+ 100)
        var parsed = 0
        for _ in 0..<3000 {
            let bytes = mutated(original, &random)
            let fileBytes = file.count + bytes.count - original.count
            guard let header = try? SafetensorsHeader(parsing: bytes, fileBytes: fileBytes)
            else { continue }
            parsed += 1
            checkInvariants(header.tensors, fileBytes: fileBytes, dataStart: 8 + bytes.count)
        }
        #expect(parsed > 20 && parsed < 2500)
    }

    @Test func everyTruncationIsAnError() throws {
        let directory = try TemporaryDirectory()
        let original = try Files.read(golden("tiny.safetensors"), limit: 1 << 20)
        for count in original.indices {
            let path = try directory.file("cut.safetensors", Array(original[..<count]))
            let said = message { _ = try SafetensorsFile(path: path) }
            #expect(said.contains(path) && said.contains("again"), "\(count) bytes: \(said)")
        }
    }

    @Test(arguments: seeds) func mutatedDirectoriesNeverTrap(seed: UInt64) throws {
        let directory = try TemporaryDirectory()
        let config = """
            {"model_type": "qwen3", "hidden_size": 64, "num_attention_heads": 2, "eos_token_id": [1],
            "max_position_embeddings": 4096, "rope_theta": 1e6, "dtype": "bfloat16", "rope_scaling":
            {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 1024}}
            """
        let index = """
            {"metadata": {"total_size": 4}, "weight_map": {"a": "model-1.safetensors"}}
            """
        try directory.file(
            "model-1.safetensors",
            safetensors("{\"a\":{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]}}", data: 4))
        var random = SplitMix64(state: seed &+ 200)
        var opened = 0
        for _ in 0..<700 {
            let inConfig = Bool.random(using: &random)
            try directory.file(
                "config.json", inConfig ? mutated(Array(config.utf8), &random) : Array(config.utf8))
            try directory.file(
                ShardIndex.fileName,
                inConfig ? Array(index.utf8) : mutated(Array(index.utf8), &random))
            guard let checkpoint = try? Checkpoint(path: directory.path) else { continue }
            opened += 1
            _ = try? checkpoint.config.eosTokenIDs
            _ = try? checkpoint.config.dtype
            _ = try? checkpoint.config.int("hidden_size")
            guard let rope = try? checkpoint.config.ropeParameters() else { continue }
            let (frequencies, scaling) = rope.inverseFrequencies(headDim: 32)
            #expect(frequencies.allSatisfy { $0.isFinite && $0 >= 0 } && scaling.isFinite)
        }
        #expect(opened > 20)
    }
}
