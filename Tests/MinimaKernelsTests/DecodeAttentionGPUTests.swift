import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Decode attention against softmax attention in float64; skipped where there is no GPU.
@Suite("Decode attention on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct DecodeAttentionGPUTests {
    struct Case: Sendable, CustomTestStringConvertible {
        var group = 8
        var kvHeads = 2
        var headDim = 128
        var rotaryDim: Int?
        var format = KeyValueFormat.bfloat16
        var normalises = true
        var queries = 1
        var split: Int?
        var lengths: [Int]

        var testDescription: String {
            """
            \(group) heads to each of \(kvHeads), dim \(headDim), \(format)\
            \(normalises ? ", normalised" : "")\(queries > 1 ? ", \(queries) queries" : "")\
            \(split.map { ", parts of \($0)" } ?? ""), lengths \(lengths)
            """
        }
    }

    static let ragged = [65, 0, 1, 64, 300, 63]

    static let cases: [Case] =
        KeyValueFormat.allCases.flatMap { format in
            [1, 2, 3, 4, 5, 8, 16].flatMap { group in
                [64, 128].map { dim in
                    Case(
                        group: group, headDim: dim, format: format, normalises: group % 2 == 0,
                        lengths: ragged)
                }
            } + [
                Case(headDim: 40, format: format, lengths: ragged),
                Case(headDim: 96, rotaryDim: 32, format: format, lengths: ragged),
                Case(headDim: 256, format: format, normalises: false, lengths: [700, 3]),
                // Two warps for one tile, which merge in its place.
                Case(group: 16, headDim: 256, format: format, lengths: [700, 3, 300]),
                Case(format: format, queries: 4, lengths: [4, 66, 67, 0, 300, 64]),
                Case(group: 5, headDim: 64, format: format, queries: 3, lengths: [3, 65, 500]),
            ]
        }

    /// Requests of many pages, and many requests.
    static let large: [Case] = KeyValueFormat.allCases.flatMap { format in
        [
            Case(kvHeads: 8, format: format, lengths: [8192]),
            Case(kvHeads: 8, format: format, lengths: [3000, 64, 128, 0, 5000]),
            Case(format: format, split: 128, lengths: [3000, 64, 128, 0, 500]),
            Case(kvHeads: 8, format: format, lengths: (1...40).map { $0 * 31 }),
        ]
    }

    /// Single requests, whose thread blocks exchange their parts: none, one, some and all of them
    /// have work.
    static let exchanges: [Case] = KeyValueFormat.allCases.flatMap { format in
        let lengths = [0, 1, 64, 65, 1537, 8192]
        let cases = lengths.map { Case(kvHeads: 8, format: format, lengths: [$0]) }
        let shapes = [
            Case(group: 1, kvHeads: 33, headDim: 64, format: format, lengths: [500]),
            Case(group: 16, kvHeads: 8, format: format, lengths: [1000]),
            Case(group: 2, kvHeads: 8, headDim: 96, format: format, queries: 3, lengths: [700]),
            Case(kvHeads: 8, headDim: 256, format: format, lengths: [300]),
            Case(kvHeads: 4, format: format, lengths: [3000]),
        ]
        return cases + shapes
    }

    /// Attended values of all requests, whose history the pages hold.
    private func run(
        _ fixture: AttentionFixture, _ test: Case, _ lengths: [Int], projections: Tensor,
        pages: Tensor, table: Tensor, columns: Int
    ) throws -> Tensor {
        let attention = try DecodeAttention(
            fixture.shape, format: test.format, queries: test.queries, requests: lengths.count,
            maxPages: columns, splitTokens: test.split,
            workspace: DecodeAttention.Workspace(device: fixture.context.device),
            context: fixture.context)
        let device = fixture.context.device
        let attended = try fixture.poisoned([
            lengths.count * test.queries, fixture.shape.heads * test.headDim,
        ])
        let lengths = try Tensor(lengths.map { Int32($0) }).to(device)
        // Twice: counters and workspace must be as before, and new tokens may be stored again.
        for _ in 0..<2 {
            try attention.launch(
                projections: projections, queryNorm: fixture.queryNorm, keyNorm: fixture.keyNorm,
                frequencies: fixture.frequencies, pages: pages, table: table, lengths: lengths,
                attended: attended, on: fixture.stream, overlapping: false)
        }
        try fixture.stream.synchronize()
        return attended
    }

    private func fixture(_ test: Case) throws -> AttentionFixture {
        let context = try GPU.context.get()
        let shape = try AttentionShape(
            heads: test.group * test.kvHeads, kvHeads: test.kvHeads, headDim: test.headDim,
            rotaryDim: test.rotaryDim, normalisesQueriesAndKeys: test.normalises)
        return try AttentionFixture(shape, test.format, context, CUDAStream(on: context))
    }

    // Three tests, so that three processes can share the work under compute-sanitizer.
    @Test(arguments: cases)
    func attendsLikeTheReference(_ test: Case) throws { try compare(test) }

    @Test(arguments: large)
    func largeStepsAttendLikeTheReference(_ test: Case) throws { try compare(test) }

    @Test(arguments: exchanges)
    func exchangesAttendLikeTheReference(_ test: Case) throws { try compare(test) }

    private func compare(_ test: Case) throws {
        let fixture = try fixture(test)
        try fixture.stream.use {
            let shape = fixture.shape
            let (pages, table, columns) = try fixture.pages(test.lengths)
            for (request, length) in test.lengths.enumerated() where length > test.queries {
                let past = try fixture.random(
                    [length - test.queries, shape.projectionWidth], UInt64(request))
                _ = try fixture.write(past, at: 0, request: request, pages: pages, table: table)
            }
            let copy = try pages.clone()
            let projections = try fixture.random(
                [test.lengths.count * test.queries, shape.projectionWidth], 1000)
            let attended = try run(
                fixture, test, test.lengths, projections: projections, pages: pages, table: table,
                columns: columns)
            let found: [Double] = try attended.values()
            let width = test.queries * shape.heads * shape.headDim
            for (request, length) in test.lengths.enumerated() {
                let place = request * width..<(request + 1) * width
                guard length > 0 else {
                    #expect(found[place].allSatisfy { $0 == 0 }, "padding gives zeros")
                    continue
                }
                let rows = request * test.queries..<(request + 1) * test.queries
                let queries = try fixture.write(
                    projections.narrow(0, rows), at: length - test.queries, request: request,
                    pages: copy, table: table
                ).queries
                let stored = try fixture.gather(length, request: request, pages: copy, table: table)
                let own = try fixture.gather(length, request: request, pages: pages, table: table)
                #expect(try own.keys.isIdentical(to: stored.keys))
                #expect(try own.values.isIdentical(to: stored.values))
                let (expected, bound) = try fixture.attention(
                    queries: queries, keys: stored.keys, values: stored.values)
                // NaN, from an element that was not written, is not at most anything.
                let fits = zip(found[place], zip(expected, bound)).allSatisfy {
                    abs($0 - $1.0) <= $1.1
                }
                #expect(fits, "request \(request) of \(length) tokens")
            }
        }
    }

    /// With parts of a fixed size a request's result does not depend on who else is in the batch.
    @Test(arguments: KeyValueFormat.allCases)
    func fixedPartsMakeResultsIndependentOfTheBatch(_ format: KeyValueFormat) throws {
        let test = Case(format: format, split: 128, lengths: [1000])
        let fixture = try fixture(test)
        try fixture.stream.use {
            let width = fixture.shape.projectionWidth
            let past = try fixture.random([999, width], 3)
            let projection = try fixture.random([1, width], 4)
            var results: [Tensor] = []
            for lengths in [[1000], [64, 2000, 1000], [1, 1, 1, 700, 1000]] {
                let (pages, table, columns) = try fixture.pages(lengths)
                let last = lengths.count - 1
                _ = try fixture.write(past, at: 0, request: last, pages: pages, table: table)
                let others = try fixture.random([last + 1, width], 5).narrow(0, 0..<last)
                for (request, length) in lengths.dropLast().enumerated() where length > 1 {
                    let past = try fixture.random([length - 1, width], 6)
                    _ = try fixture.write(past, at: 0, request: request, pages: pages, table: table)
                }
                let attended = try run(
                    fixture, test, lengths, projections: Tensor.cat([others, projection]),
                    pages: pages, table: table, columns: columns)
                results.append(try attended.narrow(0, last..<last + 1).clone())
            }
            #expect(try results[1].isIdentical(to: results[0]))
            #expect(try results[2].isIdentical(to: results[0]))
        }
    }

    @Test func wrongTensorsAreRefused() throws {
        let test = Case(lengths: [10])
        let fixture = try fixture(test)
        let (pages, table, columns) = try fixture.pages(test.lengths)
        let projections = try fixture.random([1, fixture.shape.projectionWidth - 8], 1)
        #expect(throws: KernelError.self) {
            try run(
                fixture, test, test.lengths, projections: projections, pages: pages, table: table,
                columns: columns)
        }
    }
}
