import Glibc
import MinimaCore
import MinimaTensor
import MinimaTestSupport
import Testing

@testable import MinimaKernels

/// Skipped where there is no GPU.
@Suite("GPU kernels", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct GPUKernelTests {
    let context: CUDAContext

    init() throws { context = try GPU.context.get() }

    private func vector(_ count: Int, seed: UInt64 = 1) throws -> Tensor {
        let device = context.device
        return try Tensor.randn(
            [count], device: device, generator: RandomGenerator(seed: seed, device: device))
    }

    /// Queues y = 3x + shift.
    private func triple(
        _ y: Tensor, _ x: Tensor, shift: Double = 0, on stream: CUDAStream,
        overlapping: Bool = false
    ) throws {
        let kernel = try context.kernel(scale, entry: "scale", constants: ["FACTOR": 3])
        try kernel.launch(
            grid: ((x.count + 255) / 256, 1, 1), block: 256, on: stream, overlapping: overlapping,
            [.tensor(y), .tensor(x), .float(shift), .int32(x.count)])
    }

    @Test func theDeviceIsDescribed() {
        #expect(!context.name.isEmpty && context.architecture.hasPrefix("sm_"))
        #expect(context.multiprocessors > 0)
        #expect(context.sharedPerBlock >= 48 << 10)
        #expect(context.sharedPerMultiprocessor >= context.sharedPerBlock)
    }

    @Test func aKernelComputesOnTensors() throws {
        let stream = try CUDAStream(on: context)
        // What goes wrong here shows as one wrong element of many.
        try stream.use {
            let x = try vector(100_001)
            let y = try Tensor.full(x.shape, .nan, device: context.device)
            try triple(y, x, shift: 0.5, on: stream)
            let expected = try (x * 3 + 0.5).values(as: Float.self)
            let found = try y.values(as: Float.self)
            // One rounding with the fused multiply-add, two without.
            for (found, expected) in zip(found, expected) {
                #expect(abs(found - expected) <= 2 * abs(expected).ulp + 3 * Float.ulpOfOne)
            }
        }
    }

    @Test func aKernelKnowsItsResources() throws {
        let kernel = try context.kernel(scale, entry: "scale", constants: ["FACTOR": 3])
        #expect((1...255).contains(kernel.registers))
        #expect(kernel.localBytes == 0 && kernel.staticSharedBytes == 0)
        #expect(try kernel.blocksPerMultiprocessor(block: 256) >= 4)
        let large = try context.kernel(
            scale, entry: "scale", constants: ["FACTOR": 3], sharedBytes: context.sharedPerBlock)
        #expect(try large.blocksPerMultiprocessor(block: 256) == 1)
        #expect(throws: KernelError.self) {
            try context.kernel(
                scale, entry: "scale", constants: ["FACTOR": 3],
                sharedBytes: context.sharedPerBlock + 1)
        }
    }

    @Test func largeSharedMemoryWorks() throws {
        let source = KernelSource(
            name: "shared.cu",
            text: """
                extern "C" __global__ void reverse(int* y) {
                    extern __shared__ int s[];
                    for (int i = threadIdx.x; i < COUNT; i += blockDim.x) s[i] = i;
                    __syncthreads();
                    for (int i = threadIdx.x; i < COUNT; i += blockDim.x) y[i] = s[COUNT - 1 - i];
                }
                """)
        let count = context.sharedPerBlock / 4
        let kernel = try context.kernel(
            source, entry: "reverse", constants: ["COUNT": .int(count)], sharedBytes: 4 * count)
        let stream = try CUDAStream(on: context)
        try stream.use {
            let y = try Tensor.zeros([count], dtype: .int32, device: context.device)
            try kernel.launch(grid: (1, 1, 1), block: 512, on: stream, [.tensor(y)])
            #expect(try y.values(as: Int32.self) == (0..<Int32(count)).reversed())
        }
    }

    @Test func everyKindOfArgumentArrives() throws {
        let source = KernelSource(
            name: "arguments.cu",
            text: """
                extern "C" __global__ void arguments(
                    double* y, int a, const double* nothing, float b, long long c,
                    unsigned long long d, const double* x
                ) {
                    y[0] = a; y[1] = nothing == nullptr; y[2] = b; y[3] = (double)c;
                    y[4] = (double)d; y[5] = x[0];
                }
                """)
        let kernel = try context.kernel(source, entry: "arguments")
        let stream = try CUDAStream(on: context)
        try stream.use {
            let device = context.device
            let y = try Tensor.zeros([6], dtype: .float64, device: device)
            let x = try Tensor([1, 2, 3, 4] as [Double]).to(device)
            try kernel.launch(
                grid: (1, 1, 1), block: 1, on: stream,
                [
                    .tensor(y), .int32(-7), .none, .float(0.25), .int64(-(1 << 40)),
                    .int64(.min), .tensorAt(x, byteOffset: 16),
                ])
            #expect(
                try y.values(as: Double.self) == [-7, 1, 0.25, -0x1p40, 0x1p63, 3])
        }
    }

    @Test func wrongLaunchesAreErrors() throws {
        let kernel = try context.kernel(scale, entry: "scale", constants: ["FACTOR": 3])
        let stream = try CUDAStream(on: context)
        let x = try vector(8)
        let right: [KernelArgument] = [.tensor(x), .tensor(x), .float(0), .int32(8)]
        func refused(
            _ arguments: [KernelArgument], grid: (Int, Int, Int) = (1, 1, 1), block: Int = 32,
            saying words: String
        ) throws {
            let error = #expect(throws: KernelError.self) {
                try kernel.launch(grid: grid, block: block, on: stream, arguments)
            }
            #expect(try #require(error).description.contains(words))
        }
        try refused(Array(right.dropLast()), saying: "[8, 8, 4, 4] bytes")
        try refused(right + [.none], saying: "[8, 8, 4, 4, 8]")
        try refused([.int32(1)] + right.dropFirst(), saying: "[4, 8, 4, 4]")
        try refused([.tensor(try x.to(.cpu))] + right.dropFirst(), saying: "parameter 0")
        try refused(right, grid: (0, 1, 1), saying: "no grid")
        try refused(right, grid: (1, 1 << 20, 1), saying: "CUDA_ERROR_INVALID_VALUE")
        try refused(right, block: 2048, saying: "CUDA_ERROR_INVALID_VALUE")
        let error = #expect(throws: KernelError.self) {
            try context.kernel(scale, entry: "scales", constants: ["FACTOR": 3])
        }
        #expect(try #require(error).description.contains("CUDA_ERROR_NOT_FOUND"))
        // None of this spoils the device.
        try triple(x, x, on: stream)
        try stream.synchronize()
    }

    /// The order of one stream holds between libtorch's operators and kernels.
    @Test func libtorchAndKernelsShareAStream() throws {
        let stream = try CUDAStream(on: context)
        try stream.use {
            #expect(try CUDAStream.current(on: context).key == stream.key)
            let x = try vector(1 << 20)
            let y = try Tensor.zeros(x.shape, device: context.device)
            for _ in 0..<20 {
                let doubled = try x * 2
                try triple(y, doubled, on: stream)
                #expect(try (y - doubled * 3).abs().max().item() == 0)
            }
        }
        #expect(try CUDAStream.current(on: context).key != stream.key)
    }

    @Test func fillingWritesEveryByte() throws {
        let stream = try CUDAStream(on: context)
        try stream.use {
            let x = try vector(1001)
            try stream.fill(x, byte: 0x40)
            #expect(try x.values(as: Float.self).allSatisfy { $0.bitPattern == 0x4040_4040 })
            try stream.fill(x, byte: 0)
            #expect(try x.abs().max().item() == 0)
        }
    }

    @Test func kernelsOfTheDiskCacheRun() throws {
        let folder = try Scratch()
        for round in 0..<2 {
            let own = try CUDAContext(device: context.device, cacheDirectory: folder.path)
            let kernel = try own.kernel(scale, entry: "scale", constants: ["FACTOR": 5])
            #expect(kernel.origin.isCache == (round == 1))
            let stream = try CUDAStream(on: own)
            let x = try Tensor.ones([4], device: own.device)
            try own.device.synchronize()
            try kernel.launch(
                grid: (1, 1, 1), block: 32, on: stream,
                [.tensor(x), .tensor(x), .float(1), .int32(4)])
            try stream.synchronize()
            #expect(try x.values(as: Float.self) == [6, 6, 6, 6])
        }
    }

    @Test func eventsMeasureTheDevice() throws {
        let stream = try CUDAStream(on: context)
        let (start, end) = (try CUDAEvent(on: context), try CUDAEvent(on: context))
        try stream.use {
            let x = try Tensor.zeros([1 << 28], dtype: .uint8, device: context.device)
            try stream.fill(x, byte: 1)
            try start.record(on: stream)
            for _ in 0..<10 { try stream.fill(x, byte: 2) }
            try end.record(on: stream)
        }
        try end.synchronize()
        // 2.5 GiB at more than 100 GB/s and less than 100 TB/s.
        #expect((0.027...27).contains(try end.elapsed(since: start)))
        let time = try context.time(repeats: 5, perReplay: 4) { stream, _ in
            try stream.fill(try Self.block(context.device), byte: 3)
        }
        #expect(time.count == 5 && time.minimum <= time.median && time.median <= time.maximum)
        #expect((1...10_000).contains(time.median))
    }

    /// A new tensor per call: the graph has to hold it.
    private static func block(_ device: Device) throws -> Tensor {
        try Tensor.empty([1 << 26], dtype: .uint8, device: device)
    }
}

/// Skipped where there is no GPU.
@Suite("GPU graphs", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct GPUGraphTests {
    let context: CUDAContext
    let stream: CUDAStream

    init() throws {
        context = try GPU.context.get()
        stream = try CUDAStream(on: context)
    }

    private func scale(
        _ y: Tensor, _ x: Tensor, factor: Int, overlapping: Bool = false
    ) throws {
        let kernel = try context.kernel(
            MinimaKernelsTests.scale, entry: "scale", constants: ["FACTOR": .int(factor)])
        try kernel.launch(
            grid: ((x.count + 255) / 256, 1, 1), block: 256, on: stream, overlapping: overlapping,
            [.tensor(y), .tensor(x), .float(0), .int32(x.count)])
    }

    /// libtorch's matrix product into an existing tensor between two kernels, in one graph.
    @Test func aGraphHoldsKernelsAndOperators() throws {
        let device = context.device
        let n = 512
        let product = Operator("aten::mm", "out")
        let generator = try RandomGenerator(seed: 7, device: device)
        try stream.use {
            let x = try Tensor.randn(
                [n, n], dtype: .bfloat16, device: device, generator: generator)
            let w = try Tensor.randn(
                [n, n], dtype: .bfloat16, device: device, generator: generator)
            let y = try Tensor.zeros([n, n], dtype: .bfloat16, device: device)
            let before = try Tensor.zeros([n], device: device)
            let counted = try Tensor.zeros([n], device: device)
            let body = {
                try scale(counted, before, factor: 2)
                _ = try product(.tensor(x), .tensor(w), .tensor(y))
                try scale(before, counted, factor: 3)
            }
            try body()
            let graph = try CUDAGraph.capture(on: stream, body)
            #expect(graph.nodeCount >= 3)
            for seed in 1...3 as ClosedRange<UInt64> {
                let fresh = try Tensor.randn(
                    [n, n], dtype: .bfloat16, device: device,
                    generator: RandomGenerator(seed: seed, device: device))
                try x.copy(from: fresh)
                try before.copy(from: Tensor.ones([n], device: device))
                try stream.fill(y, byte: 0xFF)
                try graph.launch(on: stream)
                let exact = try fresh.to(dtype: .float64).matmul(w.to(dtype: .float64))
                let error = try (y.to(dtype: .float64) - exact).norm().item()
                // Float sums are far more exact than the result's rounding, half a unit of 2^-8.
                #expect(try error <= 0x1p-8 * exact.norm().item())
                #expect(try before.values(as: Float.self).allSatisfy { $0 == 6 })
            }
        }
    }

    /// A chain in which each kernel reads all that the one before wrote, elsewhere than it writes:
    /// one that does not wait reads old values.
    @Test func overlappingKernelsWaitWhereTheySay() throws {
        try #require(context.architecture != "sm_80" && !context.architecture.hasPrefix("sm_8"))
        let source = KernelSource(
            name: "chain.cu",
            text: """
                extern "C" __global__ void chain(int* y, const int* x, int count) {
                    asm volatile("griddepcontrol.launch_dependents;");
                    asm volatile("griddepcontrol.wait;" ::: "memory");
                    const int i = blockIdx.x * blockDim.x + threadIdx.x;
                    if (i < count) y[i] = x[count - 1 - i] + 1;
                }
                """)
        let kernel = try context.kernel(source, entry: "chain")
        let (count, length) = (1 << 20, 200)
        try stream.use {
            let a = try Tensor.zeros([count], dtype: .int32, device: context.device)
            let b = try Tensor.zeros([count], dtype: .int32, device: context.device)
            let graph = try CUDAGraph.capture(on: stream) {
                for step in 0..<length {
                    let (y, x) = step % 2 == 0 ? (b, a) : (a, b)
                    try kernel.launch(
                        grid: (count / 256, 1, 1), block: 256, on: stream, overlapping: true,
                        [.tensor(y), .tensor(x), .int32(count)])
                }
            }
            #expect(graph.nodeCount == length)
            for replay in 1...5 {
                try graph.launch(on: stream)
                let values = try a.values(as: Int32.self)
                #expect(values.allSatisfy { $0 == Int32(replay * length) })
            }
        }
    }

    /// The attribute does something: kernels that let the next one start at once overlap, but not in a
    /// context whose kernels do not.
    @Test func overlapSavesTime() throws {
        try #require(!context.architecture.hasPrefix("sm_8"))
        let source = KernelSource(
            name: "wait.cu",
            text: """
                extern "C" __global__ void wait(long long* y) {
                    asm volatile("griddepcontrol.launch_dependents;");
                    const long long start = clock64();
                    while (clock64() - start < 20000) {}
                    asm volatile("griddepcontrol.wait;" ::: "memory");
                    if (blockIdx.x == 0 && threadIdx.x == 0) y[0] = clock64();
                }
                """)
        let y = try Tensor.zeros([1], dtype: .int64, device: context.device)
        func time(_ overlapping: Bool, in context: CUDAContext) throws -> Double {
            let kernel = try context.kernel(source, entry: "wait")
            return try context.time(repeats: 5, perReplay: 50) { stream, _ in
                try kernel.launch(
                    grid: (context.multiprocessors, 1, 1), block: 32, on: stream,
                    overlapping: overlapping, [.tensor(y)])
            }.median
        }
        let serial = try CUDAContext(
            device: context.device, cacheDirectory: nil, kernelsOverlap: false)
        let (apart, together) = (try time(false, in: context), try time(true, in: context))
        let refused = try time(true, in: serial)
        #expect(together < 0.8 * apart, "\(together) µs against \(apart) µs")
        #expect(together < 0.8 * refused, "\(together) µs against \(refused) µs")
    }

    /// The graph alone holds the tensors; others are made in the meantime.
    @Test func aGraphKeepsItsTensors() throws {
        let device = context.device
        try stream.use {
            let result = try Tensor.zeros([1 << 16], device: device)
            let graph = try {
                let x = try Tensor.full([1 << 16], 7, device: device)
                let y = try Tensor.zeros([1 << 16], device: device)
                return try CUDAGraph.capture(on: stream) {
                    try scale(y, x, factor: 2)
                    try scale(result, y, factor: 3)
                }
            }()
            var others: [Tensor] = []
            for _ in 0..<50 { others.append(try Tensor.full([1 << 16], -1, device: device)) }
            try graph.launch(on: stream)
            #expect(try result.values(as: Float.self).allSatisfy { $0 == 42 })
            #expect(try others.allSatisfy { try $0.max().item() == -1 })
        }
    }

    @Test func whatCannotBeCapturedIsAnError() throws {
        let current = try CUDAStream.current(on: context)
        let refusals: [(String, () throws -> CUDAGraph)] = [
            ("default stream", { try CUDAGraph.capture(on: current) {} }),
            ("nothing was queued", { try CUDAGraph.capture(on: stream) {} }),
            (
                "captured already",
                {
                    try CUDAGraph.capture(on: stream) {
                        _ = try CUDAGraph.capture(on: stream) {}
                    }
                }
            ),
            (
                "CUDA_ERROR_STREAM_CAPTURE",
                { try CUDAGraph.capture(on: stream) { try stream.synchronize() } }
            ),
        ]
        for (words, refused) in refusals {
            let error = #expect(throws: KernelError.self) { _ = try refused() }
            #expect(try #require(error).description.contains(words))
        }
        struct Own: Error {}
        #expect(throws: Own.self) {
            try CUDAGraph.capture(on: stream) { throw Own() }
        }
        // The stream works as before.
        try stream.use {
            let x = try Tensor.ones([64], device: context.device)
            let graph = try CUDAGraph.capture(on: stream) { try scale(x, x, factor: 2) }
            for _ in 0..<3 { try graph.launch(on: stream) }
            #expect(try x.values(as: Float.self).allSatisfy { $0 == 8 })
        }
    }
}
