import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// The elementwise kernels against libtorch; skipped where there is no GPU.
@Suite("Elementwise on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct ElementwiseGPUTests {
    let context: CUDAContext
    let kernels: Elementwise
    let stream: CUDAStream

    init() throws {
        context = try GPU.context.get()
        kernels = try Elementwise(context: context)
        stream = try CUDAStream(on: context)
    }

    private func random(_ shape: [Int], seed: UInt64) throws -> Tensor {
        try Tensor.randn(
            shape, device: context.device,
            generator: RandomGenerator(seed: seed, device: context.device)
        ).to(dtype: .bfloat16)
    }

    private func poisoned(_ shape: [Int], dtype: DType = .bfloat16) throws -> Tensor {
        try Tensor.full(shape, .nan, dtype: dtype, device: context.device)
    }

    /// `found` and `expected` differ by at most `units` units in the last place of bfloat16.
    private func expectClose(_ found: Tensor, _ expected: Tensor, units: Float) throws {
        let found: [Float] = try found.to(dtype: .float32).values()
        let expected: [Float] = try expected.to(dtype: .float32).values()
        #expect(found.count == expected.count)
        let worst = zip(found, expected).map { found, expected in
            found == expected ? 0 : abs(found - expected) / abs(expected)
        }
        // NaN, from an element that was not written, is not at most anything.
        #expect(worst.allSatisfy { $0 <= units * 0x1p-7 })
    }

    /// Distinct places of 0..<count in an order of their own.
    private func places(_ count: Int, of size: Int, seed: UInt64) throws -> Tensor {
        var generator = SplitMix(seed)
        let order = (0..<Int32(size)).shuffled(using: &generator)
        return try Tensor(Array(order.prefix(count))).to(context.device)
    }

    @Test func rowsAreGathered() throws {
        try stream.use {
            let table = try random([50, 264], seed: 1)
            let ids = try Tensor([3, 49, -1, 50, 0, 7] as [Int32]).to(context.device)
            let slots = try Tensor([5, 0, 2, 3, -1, 1, 4] as [Int32]).to(context.device)
            let out = try poisoned([7, 264])
            try kernels.gatherRows(table, ids: ids, slots: slots, into: out, on: stream)
            let rows = try Tensor([7, 3, 0, 0, 0, 49, 0] as [Int64]).to(context.device)
            let valid = try Tensor([1, 1, 0, 0, 0, 1, 1] as [Float], shape: [7, 1])
                .to(context.device, dtype: .bfloat16)
            try expectClose(out, table.selecting(0, rows) * valid, units: 0)
            let plain = try poisoned([6, 264])
            try kernels.gatherRows(table, ids: ids, into: plain, on: stream)
            try expectClose(plain.narrow(0, 0..<1), table.narrow(0, 3..<4), units: 0)
        }
    }

    @Test(arguments: [8, 1024, 5120, 5128, 16_384])
    func rowsAreNormalised(_ hidden: Int) throws {
        try stream.use {
            let (x, delta) = (try random([5, hidden], seed: 1), try random([5, hidden], seed: 2))
            let weight = try random([hidden], seed: 3)
            func expected(_ x: Tensor) throws -> Tensor {
                let exact = try x.to(dtype: .float32)
                let mean = try exact.square().mean([-1], keepDims: true)
                return try (exact / (mean + 1e-5).sqrt()).to(dtype: .bfloat16) * weight
            }
            let out = try poisoned([5, hidden])
            try kernels.rmsNorm(x, weight: weight, epsilon: 1e-5, into: out, on: stream)
            try expectClose(out, expected(x), units: 2)
            let sum = try x + delta
            try kernels.rmsNorm(
                x, adding: delta, weight: weight, epsilon: 1e-5, into: out, on: stream)
            try expectClose(x, sum, units: 0)
            try expectClose(out, expected(sum), units: 2)
        }
    }

    @Test(arguments: [8, 2056, 4096])
    func gatesAndUps(_ columns: Int) throws {
        try stream.use {
            let source = try random([9, 2 * columns], seed: 4)
            let out = try poisoned([9, columns])
            try kernels.swiGLU(source, into: out, on: stream)
            let halves = try source.split([columns, columns], dim: 1)
            try expectClose(out, halves[0].silu() * halves[1], units: 2)
            let gates = try places(columns, of: 2 * columns, seed: 5)
            let ups = try places(columns, of: 2 * columns, seed: 6)
            let gathered = try poisoned([9, columns])
            try kernels.swiGLU(source, gates: gates, ups: ups, into: gathered, on: stream)
            let gate = try source.selecting(1, gates), up = try source.selecting(1, ups)
            try expectClose(gathered, gate.silu() * up, units: 2)
        }
    }

    @Test(arguments: [2, 510, 4098])
    func columnsAreGathered(_ columns: Int) throws {
        try stream.use {
            let source = try random([600, columns + 3], seed: 7)
            let index = try places(columns, of: columns + 3, seed: 8)
            let out = try poisoned([600, columns])
            try kernels.gatherColumns(source, index: index, into: out, on: stream)
            let picked = try source.selecting(1, index)
            try expectClose(out, picked, units: 0)
            let residual = try random([600, columns], seed: 9)
            let sum = try residual + picked
            try kernels.gatherColumns(
                source, index: index, adding: residual, into: residual, on: stream)
            try expectClose(residual, sum, units: 0)
        }
    }

    @Test func shapesThatDoNotFitAreRefused() throws {
        let (a, b) = (try random([4, 16], seed: 1), try random([4, 12], seed: 2))
        #expect(throws: KernelError.self) { try kernels.swiGLU(a, into: b, on: stream) }
        #expect(throws: KernelError.self) {
            try kernels.rmsNorm(b, weight: b, epsilon: 1e-5, into: b, on: stream)
        }
        let index = try places(12, of: 16, seed: 3)
        #expect(throws: KernelError.self) {
            try kernels.gatherColumns(a, index: index, into: a, on: stream)
        }
        #expect(throws: KernelError.self) {
            try kernels.gatherRows(a, ids: index, into: b, on: stream)
        }
    }
}
