import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaKernels

/// Attention of tokens that are a tree's, against softmax attention in float64 over what each sees;
/// skipped where there is no GPU.
@Suite("Attention of trees on the GPU", .enabled(if: GPU.isThere && Compiler.isThere), .serialized)
struct TreeAttentionGPUTests {
    struct Case: Sendable, CustomTestStringConvertible {
        let group, headDim: Int
        let format: KeyValueFormat
        let queries, older: Int
        let lengths: [Int]

        var testDescription: String {
            "\(group) heads, dim \(headDim), \(format), \(queries) behind \(older), \(lengths)"
        }
    }

    /// Trees across blocks and pages, at the beginning of a sequence, with padding; one request alone, whose
    /// thread blocks exchange their parts; a level of a draft's behind others.
    static let cases: [Case] = KeyValueFormat.allCases.flatMap { format in
        [
            Case(
                group: 8, headDim: 128, format: format, queries: 6, older: 0,
                lengths: [6, 67, 0, 129, 300, 64]),
            Case(group: 4, headDim: 64, format: format, queries: 6, older: 0, lengths: [1537]),
            Case(
                group: 3, headDim: 96, format: format, queries: 4, older: 36,
                lengths: [40, 70, 0, 200]),
        ]
    }

    @Test(arguments: cases)
    func tokensSeeTheirBranches(_ test: Case) throws {
        let context = try GPU.context.get()
        let stream = try CUDAStream(on: context)
        let shape = try AttentionShape(
            heads: 2 * test.group, kvHeads: 2, headDim: test.headDim,
            normalisesQueriesAndKeys: true)
        let fixture = try AttentionFixture(shape, test.format, context, stream)
        let (queries, older, requests) = (test.queries, test.older, test.lengths.count)
        let words = (older + queries + 31) / 32
        var random = SplitMix(UInt64(test.headDim + requests))
        // Masks of the new tokens: each follows any place of the tree before it, or the trunk.
        var branches: [[Set<Int>]] = []
        var masks = [UInt32](repeating: 0, count: requests * queries * words)
        for request in 0..<requests {
            var all: [Set<Int>] = []
            for place in 0..<older + queries {
                let parent = Int.random(in: -1..<place, using: &random)
                all.append((parent < 0 ? [] : all[parent]).union([place]))
            }
            branches.append(Array(all[older...]))
            for (query, branch) in all[older...].enumerated() {
                for place in branch {
                    masks[(request * queries + query) * words + place / 32] |= 1 << (place % 32)
                }
            }
        }
        try stream.use {
            let (pages, table, columns) = try fixture.pages(test.lengths)
            for (request, length) in test.lengths.enumerated() where length > queries {
                let past = try fixture.random(
                    [length - queries, shape.projectionWidth], UInt64(request))
                _ = try fixture.write(past, at: 0, request: request, pages: pages, table: table)
            }
            let before = try pages.clone()
            let rows = requests * queries
            let projections = try fixture.random([rows, shape.projectionWidth], 1000)
            let attended = try fixture.poisoned([rows, shape.heads * shape.headDim])
            let attention = try DecodeAttention(
                shape, format: test.format, queries: queries, requests: requests,
                maxPages: columns, maskWords: words,
                workspace: DecodeAttention.Workspace(device: context.device), context: context)
            let seen = try Tensor(
                masks.map { Int32(bitPattern: $0) }, shape: [rows, words]
            ).to(context.device)
            let lengths = try Tensor(test.lengths.map { Int32($0) }).to(context.device)
            for _ in 0..<2 {
                try attention.launch(
                    projections: projections, queryNorm: fixture.queryNorm,
                    keyNorm: fixture.keyNorm, frequencies: fixture.frequencies, pages: pages,
                    table: table, lengths: lengths, attended: attended,
                    tree: DecodeAttention.Tree(seen: seen, older: older), on: stream,
                    overlapping: false)
            }
            try stream.synchronize()
            let found: [Double] = try attended.values()
            let width = queries * shape.heads * shape.headDim
            for (request, length) in test.lengths.enumerated() {
                let own = request * width..<(request + 1) * width
                guard length > 0 else {
                    #expect(found[own].allSatisfy { $0 == 0 }, "padding gives zeros")
                    continue
                }
                let trunk = length - queries - older
                let past = try fixture.gather(
                    max(length - queries, 1), request: request, pages: before, table: table)
                var (heads, keys, values): ([Tensor], [Tensor], [Tensor]) = ([], [], [])
                if length > queries {
                    keys.append(past.keys)
                    values.append(past.values)
                }
                for query in 0..<queries {
                    // As one token alone where the branch puts it.
                    let copy = try before.clone()
                    let position = trunk + branches[request][query].count - 1
                    let row = request * queries + query
                    heads.append(
                        try fixture.write(
                            projections.narrow(0, row..<row + 1), at: position,
                            request: request, pages: copy, table: table
                        ).queries)
                    let stored = try fixture.gather(
                        position + 1, request: request, pages: copy, table: table)
                    keys.append(try stored.keys.narrow(0, position..<position + 1))
                    values.append(try stored.values.narrow(0, position..<position + 1))
                }
                let (all, contents) = (try Tensor.cat(keys), try Tensor.cat(values))
                let left = try fixture.gather(length, request: request, pages: pages, table: table)
                #expect(try left.keys.isIdentical(to: all))
                #expect(try left.values.isIdentical(to: contents))
                let (expected, bound) = try fixture.attention(
                    queries: Tensor.cat(heads), keys: all, values: contents,
                    sees: { query, place in
                        place < trunk || branches[request][query].contains(place - trunk)
                    })
                let fits = zip(found[own], zip(expected, bound)).allSatisfy {
                    abs($0 - $1.0) <= $1.1
                }
                #expect(fits, "request \(request) of \(length) tokens")
            }
        }
    }

    /// Masks, and what of keys and values moves, are those of the definitions, whatever parents say.
    @Test(arguments: KeyValueFormat.allCases)
    func pathsAreMovedToTheirPlaces(_ format: KeyValueFormat) throws {
        let context = try GPU.context.get()
        let stream = try CUDAStream(on: context)
        let shape = try AttentionShape(
            heads: 4, kvHeads: 2, headDim: 72, normalisesQueriesAndKeys: false)
        let fixture = try AttentionFixture(shape, format, context, stream)
        let (places, count, layers) = (9, 7, 3)
        let lengths = [70, 130, 64]
        var random = SplitMix(3)
        try stream.use {
            let cache = try PagedKeyValues(
                layers: layers, pages: 12, shape: shape, format: format, device: context.device)
            let table = try Tensor((0..<Int32(12)).map { $0 * 5 % 12 }, shape: [4, 3])
                .to(context.device)
            for (layer, pages) in cache.layers.enumerated() {
                for (request, length) in lengths.enumerated() {
                    let all = try fixture.random(
                        [length, shape.projectionWidth], UInt64(layer * 8 + request))
                    _ = try fixture.write(all, at: 0, request: request, pages: pages, table: table)
                }
            }
            let before = try cache.layers.map { try $0.clone() }
            let state = try SamplingState(
                slots: 5, vocabulary: 10, places: places, holdsTrees: true,
                device: context.device)
            // Rows 0 to 2 are slots 4, 1 and 2, row 3 is padding.
            let slots: [Int32] = [4, 1, 2, -1]
            var path = [Int32](repeating: -9, count: 5 * places)
            var (counts, positions) = (
                [Int32](repeating: 0, count: 5), [Int32](repeating: 0, count: 5)
            )
            var parents = [Int32](repeating: 0, count: 5 * (places - 1))
            for index in parents.indices {
                parents[index] = .random(in: -1...Int32(index % (places - 1) + 1), using: &random)
            }
            var sources: [[Int]] = []
            for (request, length) in lengths.enumerated() {
                let slot = Int(slots[request])
                let picked = [0] + (1...count).filter { _ in Bool.random(using: &random) }
                for (place, row) in picked.enumerated() { path[slot * places + place] = Int32(row) }
                counts[slot] = Int32(picked.count)
                let first = length - count - 1
                positions[slot] = Int32(first + picked.count)
                sources.append(
                    (0..<length).map { place in
                        let at = place - first
                        return picked.indices.contains(at) ? first + picked[at] : place
                    })
            }
            try state.positions.copy(from: Tensor(positions))
            try state.counts.copy(from: Tensor(counts))
            try #require(state.path).copy(from: Tensor(path, shape: [5, places]))
            try #require(state.parents).copy(from: Tensor(parents, shape: [5, places - 1]))
            let kernels = try PathKernels(cache, context: context)
            let rows = try Tensor(slots).to(context.device)
            let seen = try Tensor.zeros(
                [4 * (count + 1), 1], dtype: .int32, device: context.device)
            let ring = try fixture.random([5 * DraftKernels.ring, 136], 77)
            let kept = try ring.clone()
            try kernels.masks(slots: rows, state: state, seen: seen, count: count, on: stream)
            try kernels.move(table: table, slots: rows, state: state, on: stream)
            try kernels.keep(ring, slots: rows, state: state, on: stream)
            try stream.synchronize()
            for (layer, pages) in cache.layers.enumerated() {
                for (request, length) in lengths.enumerated() {
                    let old = try fixture.gather(
                        length, request: request, pages: before[layer], table: table)
                    let new = try fixture.gather(
                        length, request: request, pages: pages, table: table)
                    let order = try Tensor(sources[request].map { Int64($0) }).to(context.device)
                    #expect(try new.keys.isIdentical(to: old.keys.selecting(0, order)))
                    #expect(try new.values.isIdentical(to: old.values.selecting(0, order)))
                }
            }
            var order = (0..<Int64(5 * DraftKernels.ring)).map { $0 }
            for (request, slot) in slots.prefix(3).enumerated() {
                let ring = DraftKernels.ring
                for (place, source) in sources[request].enumerated() where place != source {
                    order[Int(slot) * ring + place % ring] = Int64(
                        Int(slot) * ring + source % ring)
                }
            }
            let rightOrder = try Tensor(order).to(context.device)
            #expect(try ring.isIdentical(to: kept.selecting(0, rightOrder)))
            let masks: [Int32] = try seen.values()
            for (row, slot) in slots.enumerated() {
                var expected: [UInt32] = [1]
                for node in 0..<count {
                    let parent = slot < 0 ? -1 : Int(parents[Int(slot) * (places - 1) + node])
                    let before = (0...node).contains(parent) ? expected[parent] : 0
                    expected.append(before | 1 << (node + 1))
                }
                let own = masks[row * (count + 1)..<(row + 1) * (count + 1)]
                #expect(own.map { UInt32(bitPattern: $0) } == expected)
            }
        }
    }
}
