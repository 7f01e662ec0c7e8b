import MinimaTensor
import Testing

@testable import MinimaKernels

/// What only reads reads everything; skipped where there is no GPU.
@Suite("reading memory on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct MemoryReaderGPUTests {
    /// More tiles than stages, a number that no grid divides, and a single one.
    @Test(arguments: MemoryReader.Way.allCases, [1, 7, 1301])
    func everyWordIsReadOnce(_ way: MemoryReader.Way, tiles: Int) throws {
        let context = try GPU.context.get()
        let reader = try MemoryReader(context: context)
        // No two words are the same.
        let words = (0..<tiles * MemoryReader.tile / 4).map {
            Int32(truncatingIfNeeded: $0 &* 2_654_435_761)
        }
        let stream = try CUDAStream(on: context)
        try stream.use {
            let source = try Tensor(words).to(context.device)
            let sums = try Tensor.full(
                [MemoryReader.sums(bytes: 4 * words.count)], 1, dtype: .int32,
                device: context.device)
            let count = try reader.read(source, way, sums: sums, on: stream)
            let found: [Int32] = try sums.narrow(0, 0..<count).values()
            #expect(found.reduce(0, &+) == words.reduce(0, &+))
            // The same through libtorch, in 64 bits.
            let whole: [Int64] = try source.sum(dtype: .int64).reshape([1]).values()
            #expect(Int32(truncatingIfNeeded: whole[0]) == found.reduce(0, &+))
        }
    }

    @Test func otherSizesAreRefused() throws {
        let context = try GPU.context.get()
        let reader = try MemoryReader(context: context)
        let stream = try CUDAStream(on: context)
        let source = try Tensor.zeros([MemoryReader.tile / 4 + 1], device: context.device)
        let sums = try Tensor.zeros([2], dtype: .int32, device: context.device)
        #expect(throws: KernelError.self) {
            try reader.read(source, .loads, sums: sums, on: stream)
        }
    }
}
