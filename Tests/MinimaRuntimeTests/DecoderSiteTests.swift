import MinimaCore
import MinimaFormats
import MinimaKernels
import MinimaTensor
import Testing

@testable import MinimaRuntime

@Suite("Sites of the decoder")
struct DecoderSiteTests {
    private func random(_ rows: Int, _ columns: Int) throws -> Tensor {
        try .randn(
            [rows, columns], dtype: .bfloat16,
            generator: RandomGenerator(seed: UInt64(rows * 100 + columns), device: .cpu))
    }

    private func matrix(_ rows: Int, _ columns: Int) throws -> SiteMatrix {
        SiteMatrix(rows: rows, kernel: try LinearMatrix(random(rows, columns)))
    }

    private func site(
        _ outputs: Int, _ inputs: Int, bias: Tensor? = nil, _ products: [DecoderSite.Product]
    ) -> DecoderSite {
        DecoderSite(
            name: "a", outputs: outputs, inputs: inputs, bias: bias, products: products,
            gatesMeet: false)
    }

    private func interpolated(_ outputs: Int, _ inputs: Int, _ rank: Int) throws
        -> DecoderSite.Form
    {
        .interpolated(
            rows: try matrix(rank, inputs), coefficients: try matrix(outputs - rank, rank),
            pivots: Array(0..<rank))
    }

    /// What a weight is decoded as, its outputs moved behind `first` others.
    private func pieces(_ weight: some LinearWeight, after first: Int) throws -> [DecodePiece] {
        try weight.decodePieces().map { piece in
            var piece = piece
            piece.outputs = piece.outputs.lowerBound + first..<piece.outputs.upperBound + first
            return piece
        }
    }

    private func values(_ piece: DecodePiece) throws -> Tensor? {
        guard case .matrix(let matrix) = piece.form else { return nil }
        return try matrix.values(.bfloat16)
    }

    @Test func denseMembersAreStacked() throws {
        let weights = [try random(4, 6), try random(2, 6), try random(3, 6)]
        var all: [DecodePiece] = []
        var rows = 0
        for weight in weights {
            all += try pieces(Dense(weight), after: rows)
            rows += weight.shape[0]
        }
        let stacked = try DecoderSite.stacked(all)
        #expect(stacked.map(\.outputs) == [0..<9] && stacked.map(\.inputs) == [0..<6])
        let whole = try #require(try values(stacked[0]))
        #expect(try whole.isIdentical(to: .cat(weights)))
        #expect(try DecoderSite.stacked([]).isEmpty)
    }

    @Test func whatIsFactoredOrReadsOthersStaysAlone() throws {
        let (first, second) = (try random(4, 6), try random(2, 6))
        let product = try LowRank.decompose(
            random(3, 6), spec: FormatSpec(format: LowRank.name, ranks: [2]), metric: nil)
        let mixed = try DecoderSite.stacked(
            pieces(Dense(first), after: 0) + pieces(product, after: 4)
                + pieces(Dense(second), after: 7) + pieces(Dense(first), after: 9))
        #expect(mixed.map(\.outputs) == [0..<4, 4..<7, 7..<13])
        let alone = try #require(try values(mixed[0]))
        #expect(try alone.isIdentical(to: first))
        #expect(try values(mixed[1]) == nil)
        let pair = try #require(try values(mixed[2]))
        #expect(try pair.isIdentical(to: .cat([second, first])))
        // Blocks of columns give the same outputs: they are added, not stacked.
        var columns = try pieces(Dense(first), after: 0)
        columns[0].inputs = 6..<12
        let cut = try DecoderSite.stacked(pieces(Dense(first), after: 0) + columns)
        #expect(cut.map(\.inputs) == [0..<6, 6..<12] && cut.map(\.outputs) == [0..<4, 0..<4])
    }

    @Test func sizes() throws {
        let dense = site(
            9, 6, bias: try .zeros([9], dtype: .bfloat16),
            [.init(outputs: 0..<9, inputs: 0..<6, form: .matrix(try matrix(9, 6)))])
        #expect(dense.isWhole && !dense.isGathered)
        #expect(dense.largestResults == 0 && dense.largestExpanded == 0)
        #expect(dense.parameterCount == 9 * 6 + 9)
        // Rows are padded to eight values of two bytes.
        #expect(dense.byteCount == 2 * (9 * 8 + 9))
        let one = DecoderSite.Product(
            outputs: 0..<40, inputs: 0..<16, form: try interpolated(40, 16, 8))
        let gathered = site(40, 16, [one])
        #expect(gathered.isWhole && gathered.isGathered && gathered.largestResults == 40)
        #expect(gathered.parameterCount == 8 * 16 + 32 * 8)
        let biased = site(40, 16, bias: try .zeros([40], dtype: .bfloat16), [one])
        #expect(biased.isWhole && !biased.isGathered)
        // One of two products: its outputs, gathered, lie beside its results.
        let other = DecoderSite.Product(
            outputs: 40..<50, inputs: 0..<16, form: .matrix(try matrix(10, 16)))
        let two = site(50, 16, [one, other])
        #expect(!two.isWhole && !two.isGathered && two.largestResults == 40 + 40)
    }

    /// Decoding takes what lies between two matrices in rows of a multiple of eight.
    @Test("room between two matrices", arguments: [1, 5, 8, 9, 30])
    func middles(rank: Int) throws {
        let product = DecoderSite.Form.product(
            inner: try matrix(rank, 40), outer: try matrix(31, rank))
        let interpolated = try interpolated(31, 40, rank)
        for form in [product, interpolated] {
            let width = DecoderSite.Form.middleWidth(rank)
            #expect(width % 8 == 0 && (rank..<rank + 8).contains(width))
            #expect(form.results >= width)
            let site = site(31, 40, [.init(outputs: 0..<31, inputs: 0..<40, form: form)])
            #expect(site.largestResults >= width)
        }
        #expect(product.results < rank + 8 && interpolated.results == max(31, (rank + 7) / 8 * 8))
    }
}
