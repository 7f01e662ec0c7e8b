import FoundationEssentials
import MinimaCore
import MinimaTensor
import Testing

@testable import MinimaFormats

/// What the quantiser's parts promise: packing, levels, scales, and GPTQ against numpy.
@Suite struct QuantizerTests {
    @Test func packingIsLossless() throws {
        var numbers = SplitMix(1)
        for bits in Codebook.allowedBits {
            for columns in Array(1...17) + [64, 127, 384] {
                let rows = Int.random(in: 1...4, using: &numbers)
                let plain = (0..<rows * columns).map { _ in
                    UInt8.random(in: 0...UInt8((1 << bits) - 1), using: &numbers)
                }
                let codes = try Tensor(plain, shape: [rows, columns])
                let packed = try BitPlanes.pack(codes, bits: bits)
                #expect(packed.dtype == .uint8)
                #expect(
                    packed.shape == [rows, BitPlanes.rowBytes(bits: bits, columns: columns)])
                let unpacked = try BitPlanes.unpack(packed, bits: bits, columns: columns)
                #expect(try unpacked.isIdentical(to: codes), "\(bits) bits, \(columns) columns")
            }
        }
    }

    /// The layout of the bytes is a file format: 8 codes of 3 bits by hand.
    @Test func packingIsAsDocumented() throws {
        let codes = try Tensor([1, 2, 3, 4, 5, 6, 7, 0, 4] as [UInt8], shape: [1, 9])
        let packed = try BitPlanes.pack(codes, bits: 3).values(as: UInt8.self)
        // Low two bits 1 2 3 0 | 1 2 3 0 | 0, then the third bits 0 0 0 1 1 1 1 0 | 1.
        #expect(packed == [0b00_11_10_01, 0b00_11_10_01, 0, 0b0111_1000, 1])
        #expect(BitPlanes.rowBytes(bits: 3, columns: 9) == 5)
        #expect(BitPlanes.rowBytes(bits: 5, columns: 64) == 40)
        #expect(BitPlanes.rowBytes(bits: 6, columns: 5) == 3 + 2)
    }

    /// Each level is the mean of the normal numbers that are nearest to it (Max 1960, equation 4).
    @Test func levelsAreLloydMax() throws {
        let (reach, steps) = (8.0, 160_000)
        let grid =
            try (Tensor.arange(0..<steps, dtype: .float64) + 0.5) * (2 * reach / Double(steps))
        let x = try grid + -reach
        let density = try (x.square() * -0.5).exp()
        for bits in [2, 3, 4, 5, 6] {
            let values = Codebook.values(bits: bits)
            #expect(values == values.reversed().map { -$0 })
            #expect(values.count == 1 << bits && values.last == 1)
            // The tables are relative to the largest level; the second condition fixes it.
            var (low, high) = (0.5, 6.0)
            for _ in 0..<60 {
                let scale = (low + high) / 2
                let bound = Double(values[values.count - 2] + 1) / 2 * scale
                let inside = try x.isLess(than: bound).not().to(dtype: .float64) * density
                let mean = try (inside * x).sum().item() / inside.sum().item()
                (low, high) = mean > scale ? (scale, high) : (low, scale)
            }
            let book = try Codebook(bits: bits, device: .cpu)
            let nearest = try book.codes((x / low).to(dtype: .float32))
            for code in 0..<1 << bits {
                let inside = try nearest.equals(Double(code)).to(dtype: .float64) * density
                let mean = try (inside * x).sum().item() / inside.sum().item() / low
                // A cell's edge is off by at most a step of the grid; a table's digit by 5e-7.
                let tolerance = 2 * reach / Double(steps) + 1e-6
                #expect(abs(mean - Double(values[code])) < tolerance, "\(bits) bits, \(code)")
            }
        }
        #expect(Codebook.values(bits: 8).count == 256)
    }

    /// Uniform levels are odd multiples of one number; with 8 bits normal ones are, too.
    @Test func uniformLevelsAreEquallySpaced() throws {
        for bits in Codebook.allowedBits {
            let last = (1 << bits) - 1
            let values = Codebook.values(bits: bits, levels: .uniform)
            #expect(values == (0...last).map { Float(2 * $0 - last) / Float(last) })
            #expect((values == Codebook.values(bits: bits)) == (bits == 8))
        }
        // What gives them away: 4 normal bits leave less of normal numbers' energy than 4 uniform
        // ones, 3 uniform ones more than either.
        let sample = try Samples.normal([64, 64], seed: 5).to(dtype: .float32)
        let even = try Tensor.ones([64, 1])
        let errors = try [(4, FormatSpec.Levels.normal), (4, .uniform), (3, .uniform)].map {
            bits, levels in
            let quantizer = GPTQ(
                codebook: try Codebook(bits: bits, levels: levels, device: .cpu),
                grid: try ScaleGrid(covering: sample), groupSize: 64)
            return try quantizer.nearest(sample, weights: even).values.distance(to: sample)
        }
        #expect(errors[0] < errors[1] && errors[1] < errors[2], "\(errors)")
    }

    /// Codes are e4m3's bits, and rounding is its own, by libtorch.
    @Test func float8LevelsAreThoseOfE4M3() throws {
        let book = try Codebook(bits: 8, levels: .float8, device: .cpu)
        let levels = Codebook.values(bits: 8, levels: .float8)
        let numbers: [Float] = try Array(UInt8.min...UInt8.max).withUnsafeBytes { bytes in
            try Tensor(bytes: bytes, shape: [256], dtype: .float8e4m3).to(dtype: .float32).values()
        }
        for (code, number) in numbers.enumerated() {
            let finite = number.isNaN ? Float(signOf: number, magnitudeOf: 448) : number
            #expect(levels[code] == finite / 448 && levels[code].sign == number.sign)
        }
        let codes = try book.codes(Tensor(levels)).values(as: Int64.self)
        var expected = (0..<256).map(Int64.init)
        (expected[0x7F], expected[0x80], expected[0xFF]) = (0x7E, 0, 0xFE)
        #expect(codes == expected)
        // Between neighbours, but for the middle, where it has a rule of its own.
        let finite = numbers.filter { !$0.isNaN }.sorted()
        var between: [Float] = []
        for (low, high) in zip(finite, finite.dropFirst()) {
            for share in [0.25, 0.4375, 0.5625] as [Float] {
                between.append(low + (high - low) * share)
            }
        }
        let values = try Tensor(between + [-448, 448])
        let cast = try values.to(dtype: .float8e4m3).to(dtype: .float32)
        let found = try book.values(book.codes(values / 448)) * 448
        #expect(try (found - cast).abs().max().item() <= 448 * 0x1p-23)
    }

    @Test func roundingIsToTheNearest() throws {
        let kinds = Codebook.allowedBits.map { ($0, FormatSpec.Levels.normal) } + [(8, .float8)]
        for (bits, levels) in kinds {
            let book = try Codebook(bits: bits, levels: levels, device: .cpu)
            let values = try Samples.normal([500], seed: 2).to(dtype: .float32)
            let rounded = try book.rounded(values, scales: Tensor([1.5] as [Float]))
            let levels = try (book.levels * 1.5).unsqueeze(1)
            let distances = try (levels - values).abs()
            let least = try distances.values(as: Float.self)
            let found = try (rounded - values).abs().values(as: Float.self)
            for column in 0..<500 {
                let best = (0..<1 << bits).map { least[$0 * 500 + column] }.min() ?? 0
                // A value in the middle of two levels may go either way: 4 roundings of numbers to 4.
                #expect(found[column] <= best + 16 * Float(DType.float32.epsilon))
            }
        }
    }

    @Test func scalesAreTheBestTried() throws {
        let book = try Codebook(bits: 3, device: .cpu)
        let group = try Samples.normal([16, 5], seed: 3).to(dtype: .float32)
        let weights = try Samples.normal([16, 1], seed: 4).square().to(dtype: .float32)
        let grid = try ScaleGrid(covering: group)
        let codes = try grid.search(group, weights: weights, book)
        func error(_ code: Int, _ row: Int) throws -> Double {
            let column = try group.narrow(1, row..<row + 1)
            let scale = try grid.scales.narrow(0, code..<code + 1)
            return try ((book.rounded(column, scales: scale) - column).square() * weights).sum()
                .item()
        }
        for (row, code) in try codes.values(as: Int64.self).enumerated() {
            let found = try error(Int(code), row)
            for other in max(0, Int(code) - 3)...Int(code) + 3 {
                // Sums of 16 squares, each rounded a few times.
                #expect(try found <= error(other, row) * (1 + 64 * DType.float32.epsilon))
            }
        }
        let zero = try grid.search(Tensor.zeros([4, 2]), weights: Tensor.ones([4, 1]), book)
        #expect(try zero.values(as: Int64.self) == [255, 255])
        #expect(try grid.scales.select(0, 255).item() == 0)
    }

    @Test func agreesWithNumpy() throws {
        let file = URL(filePath: #filePath).deletingLastPathComponent()
            .deletingLastPathComponent().appending(path: "Goldens/quantizers/quantizers.json")
        let cases = try #require(
            try JSON(parsing: Array(Data(contentsOf: file)))["cases"]?.array)
        #expect(cases.count >= 10)
        for golden in cases {
            let bits = try #require(golden["bits"]?.int)
            let levels = try #require(golden["levels"]?.string.flatMap(FormatSpec.Levels.init))
            let weight = try Self.matrix(golden["weight"]) / 128
            let x = try Self.matrix(golden["inputs"])
            let moment = try x.transpose().matmul(x) / Double(x.shape[0])
            let output = try golden["gradients"].flatMap { try Self.optional($0) }.map {
                try OutputMetric(full: $0.transpose().matmul($0) / Double($0.shape[0]))
            }
            let float = try weight.to(dtype: .float32)
            let grid = try ScaleGrid(covering: float)
            #expect(try grid.base.item() == golden["base"]?.double)
            let columns = weight.shape[1]
            let quantizer = GPTQ(
                codebook: try Codebook(bits: bits, levels: levels, device: .cpu), grid: grid,
                groupSize: min(try #require(golden["group_size"]?.int), columns))
            let search = MatrixQuantizer(
                chunks: try #require(golden["chunks"]?.int), sweeps: 0)
            let found = try search.candidates(
                float, quantizer, Metric(input: moment, output: output))
            #expect(found.count == 1)
            let codes = try quantizer.codes(found[0]).transpose()
            let expected = try Self.matrix(golden["codes"]).to(dtype: .int64)
            #expect(try codes.isIdentical(to: expected), "\(bits) bits, \(levels), \(weight.shape)")
            let scales = try Self.matrix(golden["scales"]).to(dtype: .int64)
            #expect(try found[0].scales.transpose().isIdentical(to: scales))
        }
    }

    private static func optional(_ json: JSON) throws -> Tensor? {
        json.array == nil ? nil : try matrix(json)
    }

    private static func matrix(_ json: JSON?) throws -> Tensor {
        let rows = try #require(json?.array).map { try #require($0.array).compactMap(\.double) }
        return try Tensor(rows.flatMap(\.self), shape: [rows.count, rows.first?.count ?? 0])
    }
}
