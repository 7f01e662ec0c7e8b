import Glibc
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Kernels that are wrong on purpose, one for each tool of compute-sanitizer:
/// Scripts/test-sanitizer.sh asks whether the tool says so before it believes that others are right.
@Suite("Planted faults on the GPU", .enabled(if: GPU.isThere && Compiler.isThere && planted != nil))
struct PlantedFaultGPUTests {
    private static let source = KernelSource(
        name: "planted.cu",
        text: """
            extern "C" __global__ void planted(float* y, const float* x) {
                __shared__ float shared[64];
                const int i = threadIdx.x;
            #if FAULT == 0  // memcheck: behind the end
                y[i + 1] = x[i];
            #elif FAULT == 1  // racecheck: nothing waits between a write and a read
                shared[i] = x[i];
                y[i] = shared[63 - i];
            #elif FAULT == 2  // synccheck: half of a warp
                if (i % 2 == 0) __syncthreads();
                y[i] = x[i];
            #else  // initcheck: x was never written
                y[i] = x[i];
            #endif
            }
            """)

    @Test func isFound() throws {
        let context = try GPU.context.get()
        let fault = try #require(
            ["memcheck", "racecheck", "synccheck", "initcheck"].firstIndex { $0 == planted })
        let kernel = try context.kernel(
            Self.source, entry: "planted", constants: ["FAULT": .int(fault)])
        let stream = try CUDAStream(on: context)
        try stream.use {
            let y = try Tensor.zeros([64], device: context.device)
            let x =
                fault == 3
                ? try Tensor.empty([64], device: context.device)
                : try Tensor.ones([64], device: context.device)
            try kernel.launch(grid: (1, 1, 1), block: 64, on: stream, [.tensor(y), .tensor(x)])
            try stream.synchronize()
        }
    }
}

/// The tool whose fault to plant; `nil` in ordinary runs.
private let planted = getenv("MINIMA_PLANTED").map { String(cString: $0) }
