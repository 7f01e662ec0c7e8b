import Glibc
import MinimaCore
import Testing

@testable import MinimaCheckpoint

/// A model of Qwen3-32B's true names and shapes, its values a hole of 65 GB on disk.
@Suite struct LargeCheckpointTests {
    static func tensors() -> [TensorDescription] {
        let (hidden, feedForward, vocabulary) = (5120, 25600, 151936)
        func matrix(_ name: String, _ shape: Int...) -> TensorDescription {
            TensorDescription(name: name + ".weight", dtype: .bfloat16, shape: shape)
        }
        var tensors = [matrix("model.embed_tokens", vocabulary, hidden)]
        for layer in 0..<64 {
            let prefix = "model.layers.\(layer)."
            tensors += [
                matrix(prefix + "self_attn.q_proj", 8192, hidden),
                matrix(prefix + "self_attn.k_proj", 1024, hidden),
                matrix(prefix + "self_attn.v_proj", 1024, hidden),
                matrix(prefix + "self_attn.o_proj", hidden, 8192),
                matrix(prefix + "self_attn.q_norm", 128), matrix(prefix + "self_attn.k_norm", 128),
                matrix(prefix + "mlp.gate_proj", feedForward, hidden),
                matrix(prefix + "mlp.up_proj", feedForward, hidden),
                matrix(prefix + "mlp.down_proj", hidden, feedForward),
                matrix(prefix + "input_layernorm", hidden),
                matrix(prefix + "post_attention_layernorm", hidden),
            ]
        }
        return tensors + [matrix("model.norm", hidden), matrix("lm_head", vocabulary, hidden)]
    }

    /// Writes headers and index; the data are holes, so the directory takes a few kilobytes.
    static func write(to directory: TemporaryDirectory) throws -> Int {
        let shards = try SafetensorsLayout.shards(of: tensors(), maxBytes: 4_000_000_000)
        var map: [(JSON.Name, JSON)] = []
        for (number, shard) in shards.enumerated() {
            let name = "model-\(number).safetensors"
            let layout = try SafetensorsLayout(shard, metadata: ["format": "pt"])
            let path = try directory.file(name, layout.header)
            guard truncate(path, layout.fileBytes) == 0 else {
                throw SystemError.current("extend", path)
            }
            map += shard.map { (JSON.Name($0.name), .string(name)) }
        }
        let index = JSON.object(["weight_map": .object(.init(uniqueKeysWithValues: map))])
        try directory.file(ShardIndex.fileName, index.text())
        try directory.file("config.json", "{\"model_type\": \"qwen3\"}")
        return shards.count
    }

    /// This process's resident memory in bytes, file pages included.
    static func residentBytes() throws -> Int {
        let path = "/proc/self/statm"
        let descriptor = open(path, O_RDONLY | O_CLOEXEC)
        guard descriptor >= 0 else { throw SystemError.current("open", path) }
        defer { close(descriptor) }
        let fields = try Files.read(descriptor, count: 4096, at: 0, path: path)
            .split(separator: UInt8(ascii: " "))
        let pages = try #require(Int(String(decoding: fields[1], as: UTF8.self)))
        return pages * Int(sysconf(Int32(_SC_PAGESIZE)))
    }

    @Test func sixtyFiveGigabytesOpenInUnderASecond() throws {
        let directory = try TemporaryDirectory()
        #expect(try Self.write(to: directory) == 17)
        let before = try Self.residentBytes()
        var checkpoint: Checkpoint?
        let time = try ContinuousClock().measure {
            checkpoint = try Checkpoint(path: directory.path)
        }
        let grown = try Self.residentBytes() - before
        #expect(checkpoint?.tensors.count == 707)
        #expect(checkpoint?.byteCount == 65_524_246_528)
        #expect(checkpoint?.info("lm_head.weight")?.shape == [151936, 5120])
        #expect(time < .seconds(1), "\(time)")
        // Other tests run beside this one; 1/300 of the weights still tells reading from not.
        #expect(grown < 200_000_000, "\(grown) bytes")
    }
}
