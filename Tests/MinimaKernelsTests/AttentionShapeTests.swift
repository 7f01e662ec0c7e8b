import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

@Suite("attention shapes")
struct AttentionShapeTests {
    /// Heads of Qwen3-32B.
    private func qwen3() throws -> AttentionShape {
        try AttentionShape(
            heads: 64, kvHeads: 8, headDim: 128, normalisesQueriesAndKeys: true)
    }

    @Test func bytesOfATokenAreThoseOfItsValues() throws {
        let shape = try qwen3()
        func perToken(_ format: KeyValueFormat) -> Int {
            PagedKeyValues.bytesPerPage(layers: 64, shape: shape, format: format) / 64
        }
        #expect(perToken(.bfloat16) == 256 << 10)
        // A value is a byte, and each key and value of a head has a scale.
        #expect(perToken(.float8) == 64 * 2 * 8 * (128 + 1))
        #expect(PagedKeyValues.pages(forTokens: 0) == 0)
        #expect(PagedKeyValues.pages(forTokens: 64) == 1)
        #expect(PagedKeyValues.pages(forTokens: 65) == 2)
    }

    @Test(arguments: KeyValueFormat.allCases)
    func predictedBytesAreAllocated(_ format: KeyValueFormat) throws {
        // 40 is no multiple of a block: heads are padded to 64.
        let shape = try AttentionShape(
            heads: 6, kvHeads: 2, headDim: 40, normalisesQueriesAndKeys: false)
        let cache = try PagedKeyValues(
            layers: 3, pages: 5, shape: shape, format: format, device: .cpu)
        let bytes = cache.layers.reduce(0) { $0 + $1.count }
        #expect(
            bytes
                == PagedKeyValues.bytes(layers: 3, pages: 5, shape: shape, format: format))
        #expect(
            bytes == 3 * 5 * 2 * 64 * 2 * (64 * format.valueBytes + (format == .float8 ? 1 : 0)))
        #expect(try cache.layers.allSatisfy { try $0.to(dtype: .int64).sum().item() == 0 })
    }

    @Test func impossibleShapesAreRefused() throws {
        for (heads, kvHeads, headDim, rotaryDim) in [
            (6, 4, 64, 64), (0, 0, 64, 64), (4, 4, 60, 60), (4, 4, 264, 264), (4, 4, 64, 72),
            (4, 4, 64, 33), (65, 1, 64, 64),
        ] {
            #expect(throws: KernelError.self) {
                try AttentionShape(
                    heads: heads, kvHeads: kvHeads, headDim: headDim, rotaryDim: rotaryDim,
                    normalisesQueriesAndKeys: false)
            }
        }
        let shape = try qwen3()
        for (queries, requests, split) in [(0, 1, nil), (9, 1, nil), (1, 257, nil), (1, 1, 32)] {
            #expect(throws: KernelError.self) {
                try DecodeAttention.plan(
                    shape, format: .bfloat16, queries: queries, requests: requests, maxPages: 4,
                    splitTokens: split, multiprocessors: 132, sharedPerBlock: 232_448)
            }
        }
    }

    /// A block of this kernel and one of the next one share a multiprocessor of 228 KiB.
    @Test(arguments: KeyValueFormat.allCases)
    func theRingLeavesRoomForTheNextKernel(_ format: KeyValueFormat) throws {
        let plan = try DecodeAttention.plan(
            qwen3(), format: format, queries: 1, requests: 1, maxPages: 128, splitTokens: nil,
            multiprocessors: 132, sharedPerBlock: 232_448)
        #expect(plan.sharedBytes + (112 << 10) + (2 << 10) <= 228 << 10)
        // Enough to cover the latency of memory at 4.3 TB/s over 132 multiprocessors twice.
        #expect(plan.slots * (try qwen3().tileBytes(format)) >= 64 << 10)
    }

    /// Thread blocks wait for each other only where they are few enough to run at once, and where no
    /// fixed parts are asked for.
    @Test(
        arguments: [
            (8, 1, nil, 16), (8, 2, nil, nil), (8, 1, 512, nil), (2, 1, nil, nil), (4, 1, nil, 33),
            (48, 1, nil, 2), (200, 1, nil, nil),
        ] as [(Int, Int, Int?, Int?)])
    func oneRequestExchangesItsParts(kvHeads: Int, requests: Int, split: Int?, parts: Int?) throws {
        let shape = try AttentionShape(
            heads: 2 * kvHeads, kvHeads: kvHeads, headDim: 128, normalisesQueriesAndKeys: true)
        let plan = try DecodeAttention.plan(
            shape, format: .bfloat16, queries: 1, requests: requests, maxPages: 128,
            splitTokens: split, multiprocessors: 132, sharedPerBlock: 232_448)
        #expect(plan.exchange?.parts == parts)
        #expect(parts.map { plan.grid == 132 && $0 * kvHeads <= plan.grid } ?? true)
    }

    struct Layout: Sendable {
        var heads, kvHeads, headDim, rotaryDim, queries: Int
        var format: KeyValueFormat
        var requests = 1
    }

    static let layouts = [
        Layout(heads: 64, kvHeads: 8, headDim: 128, rotaryDim: 128, queries: 1, format: .bfloat16),
        Layout(heads: 64, kvHeads: 8, headDim: 128, rotaryDim: 128, queries: 1, format: .float8),
        Layout(heads: 8, kvHeads: 1, headDim: 96, rotaryDim: 32, queries: 5, format: .bfloat16),
        Layout(heads: 16, kvHeads: 1, headDim: 256, rotaryDim: 256, queries: 3, format: .float8),
        Layout(heads: 3, kvHeads: 1, headDim: 64, rotaryDim: 64, queries: 2, format: .bfloat16),
        Layout(
            heads: 64, kvHeads: 8, headDim: 128, rotaryDim: 128, queries: 1, format: .bfloat16,
            requests: 2),
        Layout(heads: 72, kvHeads: 24, headDim: 64, rotaryDim: 64, queries: 2, format: .float8),
    ]

    /// The sizes that Swift computes are those of the CUDA C++ code.
    @Test(.enabled(if: Compiler.isThere, "\(Compiler.remedy)"), arguments: layouts)
    func sizesAgreeWithTheKernels(_ layout: Layout) throws {
        let shape = try AttentionShape(
            heads: layout.heads, kvHeads: layout.kvHeads, headDim: layout.headDim,
            rotaryDim: layout.rotaryDim, normalisesQueriesAndKeys: true)
        let plan = try DecodeAttention.plan(
            shape, format: layout.format, queries: layout.queries, requests: layout.requests,
            maxPages: 4, splitTokens: nil, multiprocessors: 132, sharedPerBlock: 232_448)
        var constants = shape.constants(layout.format)
        constants["QUERIES"] = .int(layout.queries)
        constants["SLOTS"] = .int(plan.slots)
        constants["PAGE_WARPS"] = .int(plan.pageWarps)
        let exchange = plan.exchange
        if let exchange { constants["PARTS"] = .int(exchange.parts) }
        let file = exchange == nil ? "attention.cu" : "attention_exchange.cu"
        let sharedBytes = exchange == nil ? "SHARED_BYTES" : "EXCHANGE_SHARED_BYTES"
        func compiles(_ name: String, _ claims: [String]) throws {
            let source = try KernelSource(name)
            let text = claims.map { "static_assert(\($0), \"\");\n" }.joined()
            _ = try Compiler.found.get().compile(
                KernelSource(name: name, text: source.text + text), architecture: "sm_90a",
                constants: constants)
        }
        try compiles(
            file,
            [
                "TILE_BYTES == \(shape.tileBytes(layout.format))", "THREADS == \(plan.threads)",
                "\(sharedBytes) == \(plan.sharedBytes)", "PART_FLOATS == \(plan.partFloats)",
                "MAX_REQUESTS == \(DecodeAttention.mostRequests)", "PAGE == 64",
            ] + (exchange.map { ["KV_HEADS * PARTS * RECEIVED_BYTES == \($0.bytes)"] } ?? []))
        try compiles(
            "keyvalue.cu",
            [
                "WRITE_SHARED_BYTES == \(KeyValueKernels.writerBytes(shape, layout.format))",
                "QKV_WIDTH == \(shape.projectionWidth)",
            ])
        #expect(throws: KernelError.self) {
            try compiles(file, ["\(sharedBytes) == \(plan.sharedBytes + 1)"])
        }
    }
}
