import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Keys and values on their way into pages and out of them; skipped where there is no GPU.
@Suite("Keys and values on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct KeyValueGPUTests {
    struct Case: Sendable {
        var heads = 4
        var kvHeads = 2
        var headDim = 128
        var rotaryDim: Int?
        var normalises = true
        var chunks: [Int]
    }

    static let cases = [
        Case(chunks: [1]), Case(chunks: [64, 64]), Case(chunks: [31, 34, 1, 200]),
        Case(headDim: 64, normalises: false, chunks: [100, 28]),
        Case(headDim: 96, rotaryDim: 32, chunks: [33, 70]),
        Case(heads: 2, kvHeads: 1, headDim: 40, chunks: [40, 90]),
        Case(heads: 16, kvHeads: 1, headDim: 256, chunks: [77]),
    ]

    /// Whether the elements differ by a unit in the last place of bfloat16 at most: sums of squares
    /// and the sine in another order may round to the neighbour, twice.
    private func expectNeighbours(_ found: Tensor, _ expected: Tensor, _ name: String) throws {
        let expected = try expected.to(dtype: .float32)
        let size = try expected.abs().max([-1], keepDims: true)
        let error = try (found.to(dtype: .float32) - expected).abs()
        let bound = try expected.abs() * 0x1p-6 + size * 0x1p-8
        #expect(
            try error.isAtMost(bound.expand(error.shape)).to(dtype: .float32).mean().item() == 1,
            "\(name)")
    }

    @Test(arguments: cases, KeyValueFormat.allCases)
    func chunksGoIntoPagesAndBack(_ test: Case, _ format: KeyValueFormat) throws {
        let context = try GPU.context.get()
        let shape = try AttentionShape(
            heads: test.heads, kvHeads: test.kvHeads, headDim: test.headDim,
            rotaryDim: test.rotaryDim, normalisesQueriesAndKeys: test.normalises)
        let fixture = try AttentionFixture(shape, format, context, CUDAStream(on: context))
        try fixture.stream.use {
            let length = test.chunks.reduce(0, +)
            // The second request's pages are nobody's to touch.
            let (pages, table, _) = try fixture.pages([length, 100])
            let projections = try fixture.random([length, shape.projectionWidth], 7)
            let heads = try projections.reshape([
                length, test.heads + 2 * test.kvHeads, test.headDim,
            ])
            var written: [(keys: Tensor, values: Tensor)] = []
            var position = 0
            for chunk in test.chunks {
                let range = position..<position + chunk
                let new = try fixture.write(
                    projections.narrow(0, range), at: position, request: 0, pages: pages,
                    table: table)
                written.append((new.keys, new.values))
                let x = try heads.narrow(0, range)
                let keyEnd = test.heads + test.kvHeads
                try expectNeighbours(
                    new.queries,
                    fixture.reference(
                        x.narrow(1, 0..<test.heads), norm: fixture.queryNorm, at: position),
                    "queries")
                try expectNeighbours(
                    new.keys,
                    fixture.reference(
                        x.narrow(1, test.heads..<keyEnd), norm: fixture.keyNorm, at: position),
                    "keys")
                #expect(
                    try new.values.isIdentical(
                        to: x.narrow(1, keyEnd..<keyEnd + test.kvHeads).contiguous()))
                position += chunk
            }
            let stored = try fixture.gather(length, request: 0, pages: pages, table: table)
            try expectStored(stored.keys, Tensor.cat(written.map(\.keys)), format)
            try expectStored(stored.values, Tensor.cat(written.map(\.values)), format)
            let other = try fixture.gather(100, request: 1, pages: pages, table: table)
            #expect(try other.keys.isFinite().to(dtype: .float32).sum().item() == 0)
        }
    }

    /// bfloat16 comes back as it was; e4m3 within half a unit of its last place, 2⁻⁴ of the value or
    /// 2⁻¹⁰ of a scale that is below a 224th of the head's largest.
    private func expectStored(
        _ found: Tensor, _ expected: Tensor, _ format: KeyValueFormat
    ) throws {
        guard format == .float8 else {
            #expect(try found.isIdentical(to: expected))
            return
        }
        let exact = try expected.to(dtype: .float32)
        let largest = try exact.abs().max([-1], keepDims: true)
        let bound = try exact.abs() * 0x1p-4 + largest * (0x1p-10 / 224)
        let error = try (found.to(dtype: .float32) - exact).abs()
        #expect(try error.isAtMost(bound).to(dtype: .float32).mean().item() == 1)
    }
}
