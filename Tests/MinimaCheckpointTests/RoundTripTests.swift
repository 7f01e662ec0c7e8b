import Glibc
import MinimaCore
import Testing

@testable import MinimaCheckpoint

@Suite struct RoundTripTests {
    struct Golden {
        let description: TensorDescription
        let bytes: [UInt8]
    }

    /// What tiny.json says is in tiny.safetensors.
    static func tiny() throws -> [Golden] {
        let entries = try JSON(file: golden("tiny.json")).array ?? []
        return try entries.map { entry in
            let dtype = DType(rawValue: entry["dtype"]?.string ?? "")
            return Golden(
                description: TensorDescription(
                    name: entry["name"]?.string ?? "", dtype: try #require(dtype),
                    shape: entry["shape"]?.array?.compactMap(\.int) ?? []),
                bytes: MinimaCheckpointTests.bytes(hexadecimal: entry["hex"]?.string ?? ""))
        }
    }

    @Test func readsWhatPythonWrote() throws {
        let file = try SafetensorsFile(path: golden("tiny.safetensors"))
        let expected = try Self.tiny()
        #expect(file.tensors.count == expected.count)
        #expect(file.metadata == ["format": "pt"])
        #expect(Set(file.tensors.map(\.dtype)) == Set(DType.allCases))
        for tensor in expected {
            let info = try #require(file.info(tensor.description.name))
            #expect(info.dtype == tensor.description.dtype)
            #expect(info.shape == tensor.description.shape)
            try file.withUnsafeBytes(of: info.name) { #expect(Array($0) == tensor.bytes) }
        }
    }

    @Test func writesByteForByteWhatPythonWrites() throws {
        let directory = try TemporaryDirectory()
        let path = directory.path + "/mine.safetensors"
        let tensors = try Self.tiny()
        let writer = try SafetensorsWriter(
            file: path, tensors: tensors.map(\.description).reversed(), metadata: ["format": "pt"])
        for tensor in tensors { try writer.write(tensor.bytes, to: tensor.description.name) }
        #expect(Files.kind(of: path) == nil)
        try writer.finish()
        let mine = try Files.read(path, limit: 1 << 20)
        let python = try Files.read(golden("tiny.safetensors"), limit: 1 << 20)
        #expect(mine == python)
        #expect(try Files.names(in: directory.path) == ["mine.safetensors"])
    }

    @Test(arguments: [1, 2, 3, 4, 5, 6, 7, 8] as [UInt64])
    func randomCheckpointsComeBackFromAnyShardSize(seed: UInt64) throws {
        var random = SplitMix64(state: seed)
        let directory = try TemporaryDirectory()
        var descriptions: [TensorDescription] = []
        var values: [JSON.Name: [UInt8]] = [:]
        for number in 0..<Int.random(in: 1...40, using: &random) {
            let dtype = DType.allCases.randomElement(using: &random) ?? .float32
            let rank = Int.random(in: 0...4, using: &random)
            let shape = (0..<rank).map { _ in Int.random(in: 0...5, using: &random) }
            let name = ["", "層.", "\"\\\n.", "e\u{301}."][number % 4] + "\(number)"
            descriptions.append(TensorDescription(name: name, dtype: dtype, shape: shape))
            let count = try #require(byteCount(of: shape, dtype))
            values[JSON.Name(name)] = (0..<count).map { _ in .random(in: 0...255, using: &random) }
        }
        let largest = Int.random(in: 1...2000, using: &random)
        let output = try AtomicDirectory(destination: directory.path + "/model")
        let writer = try SafetensorsWriter(
            in: output, tensors: descriptions, maxShardBytes: largest)
        // Some by name in any order, the rest as the writer asks.
        for tensor in descriptions.shuffled(using: &random).prefix(descriptions.count / 2) {
            try writer.write(values[JSON.Name(tensor.name)] ?? [], to: tensor.name)
        }
        try writer.writeRest { values[JSON.Name($0.name)] ?? [] }
        try writer.finish()
        try output.write("{\"model_type\": \"qwen3\"}", to: "config.json")
        try output.commit()

        let checkpoint = try Checkpoint(path: output.destination)
        #expect(checkpoint.tensors.count == descriptions.count)
        #expect(checkpoint.byteCount == writer.totalBytes)
        #expect(checkpoint.files.count == writer.fileNames.count)
        for file in checkpoint.files {
            let bytes = file.tensors.reduce(0) { $0 + $1.byteCount }
            #expect(bytes <= largest || file.tensors.count { $0.byteCount > 0 } == 1)
            #expect(file.metadata == ["format": "pt"])
        }
        for tensor in descriptions {
            let info = try #require(checkpoint.info(tensor.name))
            #expect(info.dtype == tensor.dtype && info.shape == tensor.shape)
            let expected = values[JSON.Name(tensor.name)]
            try checkpoint.withUnsafeBytes(of: tensor.name) { #expect(Array($0) == expected) }
            #expect(try checkpoint.bytes(of: tensor.name).isAligned(to: tensor.dtype.byteCount))
        }
    }

    @Test func shardsFillToTheLimitAndNoFurther() throws {
        let tensors = [40, 60, 1, 100, 250, 10].enumerated().map {
            TensorDescription(name: "\($0)", dtype: .uint8, shape: [$1])
        }
        let shards = try SafetensorsLayout.shards(of: tensors, maxBytes: 100)
        #expect(shards.map { $0.map(\.name) } == [["0", "1"], ["2"], ["3"], ["4"], ["5"]])
        #expect(try SafetensorsLayout.shards(of: [], maxBytes: 100).count == 1)
    }

    @Test func severalShardsHaveNamesAndIndexLikeHuggingFace() throws {
        let directory = try TemporaryDirectory()
        let output = try AtomicDirectory(destination: directory.path + "/model")
        let tensors = ["b", "a", "c"].map {
            TensorDescription(name: $0, dtype: .float32, shape: [2])
        }
        let writer = try SafetensorsWriter(in: output, tensors: tensors, maxShardBytes: 16)
        try writer.writeRest { _ in [UInt8](repeating: 1, count: 8) }
        try writer.finish()
        try output.commit()
        #expect(
            try Files.names(in: output.destination) == [
                "model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors",
                "model.safetensors.index.json",
            ])
        let index = try JSON(file: output.destination + "/model.safetensors.index.json")
        #expect(
            index == [
                "metadata": ["total_size": 24],
                "weight_map": [
                    "a": "model-00001-of-00002.safetensors",
                    "b": "model-00001-of-00002.safetensors",
                    "c": "model-00002-of-00002.safetensors",
                ],
            ])
    }

    @Test func theWriterRefusesWhatCannotBeRead() throws {
        let directory = try TemporaryDirectory()
        func attempt(_ tensors: [TensorDescription]) -> String {
            message {
                _ = try SafetensorsWriter(file: directory.path + "/out", tensors: tensors)
            }
        }
        let one = TensorDescription(name: "w", dtype: .float32, shape: [2])
        #expect(attempt([one, one]).contains("\"w\" cannot be written: two tensors"))
        #expect(
            attempt([.init(name: "__metadata__", dtype: .bool, shape: [])]).contains("for itself"))
        #expect(attempt([.init(name: "n", dtype: .bool, shape: [-1])]).contains("[-1] is no shape"))
        let huge = TensorDescription(name: "h", dtype: .float64, shape: [1 << 31, 1 << 31])
        #expect(attempt([huge]).contains("no shape that can be stored"))
        let large = TensorDescription(name: "l", dtype: .float32, shape: [1 << 30, 1 << 30])
        let larger = TensorDescription(name: "m", dtype: .float32, shape: [1 << 30, 1 << 30])
        #expect(attempt([large, larger]).contains("overflows"))
        #expect(try Files.names(in: directory.path).isEmpty)
        let shards = message {
            _ = try SafetensorsLayout.shards(of: [large, larger], maxBytes: 1)
        }
        #expect(shards.contains("overflows"))
    }

    @Test func theWriterRefusesWrongValues() throws {
        let directory = try TemporaryDirectory()
        let writer = try SafetensorsWriter(
            file: directory.path + "/out",
            tensors: [.init(name: "w", dtype: .float32, shape: [2])])
        #expect(
            message { try writer.write([1, 2, 3], to: "w") }.contains(
                "3 bytes were given, F32 of shape [2] takes 8"))
        #expect(message { try writer.write([], to: "x") }.contains("\"x\""))
        #expect(message { try writer.finish() }.contains("\"w\" cannot be written: its values"))
        try writer.write([UInt8](repeating: 0, count: 8), to: "w")
        let again = message { try writer.write([UInt8](repeating: 0, count: 8), to: "w") }
        #expect(again.contains("written already"))
        try writer.finish()
    }

    @Test func aFullDiskIsFoundOutBeforeAnythingIsWritten() throws {
        let directory = try TemporaryDirectory()
        let output = try AtomicDirectory(destination: directory.path + "/model")
        // 2⁶⁰ bytes: more than any disk.
        let tensors = [TensorDescription(name: "w", dtype: .uint8, shape: [1 << 60])]
        let said = message { _ = try SafetensorsWriter(in: output, tensors: tensors) }
        #expect(said.contains(output.path) && said.contains("are needed"))
        #expect(said.contains("another disk"))
        #expect(try Files.names(in: output.path).isEmpty)
    }
}
