import FoundationEssentials
import MinimaCheckpoint
import MinimaCore
import MinimaModels
import MinimaTensor
import Testing

@testable import MinimaStages

@Suite("Calibration")
struct CalibrationTests {
    @Test(
        "moments take what was foreseen", arguments: ["qwen3-gqa4-tied-v5", "llama-gqa2-bias-v5"])
    func bytes(name: String) throws {
        let checkpoint = try goldenModel(name)
        let shapes = try FamilyRegistry.family(checkpoint.config).linearShapes(checkpoint.config)
        var bytes = 0
        _ = try checkpoint.loadModel().run(Tensor([1, 2] as [Int64], shape: [1, 2])) { _, x in
            let width = x.shape[2]
            bytes += width * width * 8
        }
        #expect(SecondMoments.byteCount(shapes) == bytes && bytes > 0)
    }

    @Test func sizesThatOverflowSaturate() throws {
        let golden = try goldenModel("qwen3-gqa4-tied-v5").config
        var members = try #require(golden.json.object)
        members["intermediate_size"] = .integer(Int64(ModelConfig.largestCount))
        let config = try ModelConfig(json: .object(members), path: "config.json")
        let shapes = try FamilyRegistry.family(config).linearShapes(config)
        #expect(SecondMoments.byteCount(shapes) == .max)
        #expect(Saturating.product([.max, 2]) == .max)
        #expect(Saturating.product([.max, 2, 0]) == 0)
        #expect(Saturating.product([]) == 1)
        #expect(Saturating.sum([.max, 1]) == .max && Saturating.sum([1, 2]) == 3)
    }

    @Test func tooMuchIsRefusedBeforehand() throws {
        let scratch = try Scratch()
        let golden = try goldenModel("qwen3-gqa4-tied-v5")
        try SecondMoments.checkMemory(golden, dtype: .float32, on: .cpu)
        var members = try #require(golden.config.json.object)
        members["intermediate_size"] = .integer(Int64(ModelConfig.largestCount))
        try Data(JSON.object(members).text().utf8).write(
            to: URL(filePath: "\(scratch.path)/config.json"))
        try FileManager.default.copyItem(
            atPath: "\(golden.path)/model.safetensors",
            toPath: "\(scratch.path)/model.safetensors")
        do {
            try SecondMoments.checkMemory(
                Checkpoint(path: scratch.path), dtype: .float32, on: .cpu)
            Issue.record("moments of 2⁶⁵ bytes are believed to fit")
        } catch StageError.notEnoughMemory(_, let needed, let available) {
            #expect(needed == .max && available > 0)
        }
    }

    @Test func emptyWindowsAreLeftOut() throws {
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        let (all, some) = (SecondMoments(), SecondMoments())
        try all.accumulate(model, [[], [1, 2], [], [3]])
        try some.accumulate(model, [[1, 2], [3]])
        let name = "model.layers.1.mlp.down_proj"
        let difference = try #require(try all.moment(name)) - #require(try some.moment(name))
        #expect(try difference.norm().item() == 0)
        for windows in [[], [[]], [[], []]] as [[[Int32]]] {
            #expect(throws: StageError.self) { try SecondMoments().accumulate(model, windows) }
        }
        #expect(throws: ModelError.self) { try SecondMoments().accumulate(model, [[1, 64]]) }
    }

    @Test func everyCallReportsItsOwnProgress() throws {
        let model = try goldenModel("qwen3-gqa4-tied-v5").loadModel()
        let moments = SecondMoments()
        for _ in 0..<2 {
            var done: [Int] = []
            try moments.accumulate(model, [[1, 2], [3, 4], [5, 6]], tokensPerPass: 2) {
                #expect($0.total == 6)
                done.append($0.done)
            }
            #expect(done == [2, 4, 6])
        }
        #expect(moments.tokens == 12)
    }

    @Test func memoryIsRead() throws {
        let scratch = try Scratch()
        func write(_ text: String, _ path: String) throws {
            let url = URL(filePath: "\(scratch.path)/\(path)")
            try FileManager.default.createDirectory(
                at: url.deletingLastPathComponent(), withIntermediateDirectories: true)
            try Data(text.utf8).write(to: url)
        }
        #expect(HostMemory.available(root: scratch.path) == nil)
        try write("MemTotal:  900 kB\nMemAvailable:     800 kB\n", "proc/meminfo")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        try write("0::/a/b\n", "proc/self/cgroup")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        try write("max\n", "sys/fs/cgroup/a/b/memory.max")
        try write("5000\n", "sys/fs/cgroup/a/b/memory.current")
        #expect(HostMemory.available(root: scratch.path) == 800 << 10)
        // The limit of the group around it holds as well.
        try write("9000\n", "sys/fs/cgroup/a/memory.max")
        try write("6000\n", "sys/fs/cgroup/a/memory.current")
        #expect(HostMemory.available(root: scratch.path) == 3000)
        try write("anon 1\ninactive_file 500\n", "sys/fs/cgroup/a/memory.stat")
        #expect(HostMemory.available(root: scratch.path) == 3500)
        try write("6500\n", "sys/fs/cgroup/a/b/memory.max")
        #expect(HostMemory.available(root: scratch.path) == 1500)
        // More taken than allowed leaves nothing.
        try write("4000\n", "sys/fs/cgroup/a/b/memory.max")
        #expect(HostMemory.available(root: scratch.path) == 0)
        #expect((HostMemory.available() ?? .max) > 1 << 20)
    }
}
