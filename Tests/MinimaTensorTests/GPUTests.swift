import MinimaCore
import MinimaTensor
import Testing

/// Skipped where there is no GPU.
@Suite("GPU tensors", .enabled(if: (try? Device.cudaCount()) ?? 0 > 0))
struct GPUTensorTests {
    let device = Device.cuda(0)

    @Test func valuesTravelThereAndBack() throws {
        let values = (0..<1000).map { Float($0) }
        let there = try Tensor(values).to(device)
        #expect(there.device == device)
        #expect(try there.values(as: Float.self) == values)
    }

    @Test func bothDevicesComputeTheSame() throws {
        let a = try random([256, 128], seed: 1, dtype: .float32)
        let b = try random([128, 64], seed: 2, dtype: .float32)
        let there = try a.to(device).matmul(b.to(device)).to(.cpu)
        let scale = try a.norm().item() * b.norm().item()
        #expect(try distance(there, a.matmul(b)) <= 4 * DType.float32.epsilon * scale)
        let (values, vectors) = try a.to(device, dtype: .float64).transpose()
            .matmul(a.to(device, dtype: .float64)).eigh()
        let gram = try (vectors * values).matmul(vectors.transpose()).to(.cpu)
        let exact = try a.to(dtype: .float64).transpose().matmul(a.to(dtype: .float64))
        let rounding = 8 * 128 * DType.float64.epsilon
        #expect(try distance(gram, exact) <= rounding * exact.norm().item())
    }

    /// libtorch loads what holds it at a process's first call, which may be several at once.
    @Test func manyThreadsStartWithLinearAlgebra() async {
        await #expect(processExitsWith: .success) {
            try await withThrowingTaskGroup(of: Void.self) { group in
                for seed in 0..<16 {
                    group.addTask {
                        let a = try random([3, 3], seed: UInt64(seed), dtype: .float64).to(.cuda(0))
                        let (values, _) = try a.matmul(a.transpose()).eigh()
                        let trace = try a.square().sum().item()
                        let rounding = 8 * 3 * DType.float64.epsilon
                        #expect(try abs(values.sum().item() - trace) <= rounding * trace)
                    }
                }
                try await group.waitForAll()
            }
        }
    }

    /// Other tests use the device at the same time, so the block is far larger than theirs.
    @Test func memoryIsCounted() throws {
        let before = try #require(try device.memory())
        #expect(before.total > 1 << 30 && before.free <= before.total)
        let size = before.free / 4
        try device.resetPeakMemory()
        do {
            let block = try Tensor.zeros([size], dtype: .uint8, device: device)
            let during = try #require(try device.memory())
            #expect(during.allocated >= before.allocated + size / 2)
            #expect(block.count == size)
        }
        let after = try #require(try device.memory())
        #expect(after.allocated < before.allocated + size / 2)
        #expect(after.peakAllocated >= before.allocated + size / 2)
        try device.emptyCache()
    }

    @Test func tooLargeARequestIsAnError() throws {
        let total = try #require(try device.memory()).total
        #expect(throws: TensorError.self) {
            try Tensor.empty([2 * total], dtype: .uint8, device: device)
        }
        #expect(try Tensor.ones([4], device: device).sum().item() == 4, "the device still works")
    }

    @Test func streamsOrderTheirOwnWork() throws {
        let stream = try Stream(on: device)
        let result = try stream.use { () throws(TensorError) in
            try Tensor.ones([1 << 20], device: device).sum()
        }
        try device.synchronize()
        #expect(try result.item() == Double(1 << 20))
    }

    @Test func seedsDecideRandomNumbers() throws {
        func draw(_ seed: UInt64) throws -> [Float] {
            try Tensor.randn(
                [64], device: device, generator: RandomGenerator(seed: seed, device: device)
            ).values()
        }
        #expect(try draw(1) == draw(1))
        #expect(try draw(1) != draw(2))
    }
}
