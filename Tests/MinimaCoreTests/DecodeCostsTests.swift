import MinimaCore
import Testing

@Suite struct DecodeCostsTests {
    private static let (outputs, inputs) = (10_240, 5_120)

    private static func row(
        _ spec: FormatSpec, _ nanoseconds: Double, tokens: Int = 1, outputs: Int = outputs,
        inputs: Int = inputs
    ) -> DecodeCosts.Row {
        .init(
            spec: spec, outputs: outputs, inputs: inputs, tokens: tokens,
            nanoseconds: .init(
                median: nanoseconds, lowest: nanoseconds * 0.99, highest: nanoseconds * 1.02,
                repetitions: 9), bytes: 1 << 20)
    }

    private static func costs(_ rows: [DecodeCosts.Row]) -> DecodeCosts {
        DecodeCosts(
            version: "0.1.0", card: "NVIDIA H200",
            readBandwidth: .init(median: 4.3e12, lowest: 4.2e12, highest: 4.4e12, repetitions: 9),
            command: "minima bench --shape qwen3-32b", rows: rows)
    }

    private static let dense = FormatSpec(format: "dense")

    private static func interpolative(_ rank: Int) -> FormatSpec {
        FormatSpec(format: "interpolative", ranks: [rank])
    }

    private static func lowRank(_ rank: Int) -> FormatSpec {
        FormatSpec(format: "lowrank", ranks: [rank])
    }

    /// A train of a low rank when its first bond is the whole mode of 80 outputs.
    private static func train(_ ranks: [Int], modes: [Int] = [80, 128, 1]) -> FormatSpec {
        FormatSpec(format: "tt", outputModes: modes, inputModes: [1, 1, inputs], ranks: ranks)
    }

    private static func quantized(_ spec: FormatSpec, bits: Int = 4, group: Int? = 64)
        -> FormatSpec
    {
        FormatSpec(format: "quantized", bits: bits, groupSize: group, parts: [spec])
    }

    private static let sample = costs([
        row(dense, 25_000), row(dense, 26_000, tokens: 8),
        row(interpolative(512), 6_000), row(interpolative(1_024), 9_000),
        row(interpolative(2_048), 15_000), row(lowRank(512), 7_000), row(lowRank(1_024), 10_000),
        row(quantized(interpolative(1_024)), 4_000), row(quantized(interpolative(2_048)), 6_000),
        row(train([80, 1_024]), 9_500), row(train([80, 2_048]), 15_500),
        row(train([40, 512]), 8_000), row(train([60, 1_024]), 11_000),
        row(dense, 5_000, outputs: 1_024),
    ])

    private func time(
        _ spec: FormatSpec, _ costs: DecodeCosts = sample, outputs: Int = outputs,
        inputs: Int = inputs, tokens: Int = 1
    ) throws -> Int? {
        try DecodeTimes(costs).nanoseconds(
            spec, outputs: outputs, inputs: inputs, tokens: tokens)
    }

    @Test func whatIsWrittenIsRead() throws {
        let text = try Self.sample.json()
        #expect(try DecodeCosts(json: text) == Self.sample)
        for key in ["read_bandwidth", "group_size", "output_modes", "nanoseconds", "tokens"] {
            #expect(text.contains("\"\(key)\""))
        }
        #expect(text.contains("\"kind\" : \"decode-costs\""))
        // Accounts that were written before labels and sites were have neither.
        #expect(!text.contains("\"label\"") && !text.contains("\"site\""))
        var labelled = Self.sample
        labelled.rows[0].label = "dense bf16"
        labelled.rows[0].site = "gate_up"
        #expect(try DecodeCosts(json: labelled.json()) == labelled)
        #expect(throws: ResultError.missing(key: "rows[0].nanoseconds.median")) {
            try DecodeCosts(json: text.replacing("\"median\" : 25000", with: "\"mean\" : 25000"))
        }
    }

    @Test func whatWasMeasuredIsGiven() throws {
        for row in Self.sample.rows {
            #expect(
                try time(row.spec, outputs: row.outputs, tokens: row.tokens)
                    == Int(row.nanoseconds.median))
        }
        #expect(try DecodeTimes(Self.sample).tokenCounts == [1, 8])
    }

    @Test func ranksBetweenAreOnTheLineOfTheirSizes() throws {
        func size(_ rank: Double) -> Double {
            rank * (Double(Self.outputs + Self.inputs) - rank)
        }
        let share = (size(1_500) - size(1_024)) / (size(2_048) - size(1_024))
        #expect(try time(Self.interpolative(1_500)) == Int((9_000 + share * 6_000).rounded()))
        #expect(
            try time(Self.quantized(Self.interpolative(1_500)))
                == Int((4_000 + share * 2_000).rounded()))
        // A train of a low rank is stored as such; which whole modes it has does not matter.
        #expect(
            try time(Self.train([160, 1_500], modes: [160, 64, 1]))
                == Int((9_500 + share * 6_000).rounded()))
        // Without pivots the size is proportional to the rank; truncated trains are multiplied out.
        #expect(try time(Self.lowRank(768)) == 8_500)
        #expect(try time(Self.train([30, 768])) == 9_500)
    }

    @Test func nothingComparableIsNothing() throws {
        let interpolative = Self.interpolative(1_500)
        #expect(try time(Self.quantized(interpolative, bits: 8)) == nil)
        #expect(try time(Self.quantized(interpolative, group: 32)) == nil)
        #expect(try time(Self.quantized(Self.lowRank(1_024))) == nil)
        #expect(try time(interpolative, outputs: 5_120) == nil)
        #expect(try time(interpolative, tokens: 8) == nil)
        #expect(try time(Self.dense, tokens: 2) == nil)
        let tucker = FormatSpec(
            format: "tucker", outputModes: [80, 128], inputModes: [5_120], ranks: [80, 128, 1_500])
        #expect(try time(tucker) == nil)
        // An input that is split is no factor of its own.
        #expect(
            try time(
                FormatSpec(
                    format: "tt", outputModes: [80, 128], inputModes: [64, 80], ranks: [1_024]))
                == nil)
        // Ranks that the weight cannot have.
        #expect(try time(Self.interpolative(6_000)) == nil)
        #expect(try time(Self.interpolative(.max)) == nil)
        #expect(try time(FormatSpec(format: "interpolative", ranks: [1_024, 2_048])) == nil)
    }

    @Test func beyondTheEndsOnlyWithinTheMargin() throws {
        // Sizes are proportional to the rank here.
        #expect(try time(Self.lowRank(487)) == 7_000)
        #expect(try time(Self.lowRank(486)) == nil)
        #expect(try time(Self.lowRank(1_075)) == Int((10_000.0 * 1_075 / 1_024).rounded()))
        #expect(try time(Self.lowRank(1_076)) == nil)
    }

    @Test func whatIsMultipliedOutIsNeverMoreThanTheWeight() throws {
        let costs = Self.costs([
            Self.row(Self.train([40, 2_000]), 16_000), Self.row(Self.train([40, 4_000]), 25_000),
        ])
        // 4,000 · 15,360 numbers are more than 10,240 · 5,120.
        #expect(try time(Self.train([60, 5_000]), costs) == 25_000)
    }

    @Test func compositesTakeWhatTheirPartsTake() throws {
        let sum = FormatSpec(
            format: "sum", parts: [Self.lowRank(768), Self.quantized(Self.interpolative(1_024))])
        #expect(try time(sum) == 12_500)
        let rows = FormatSpec(
            format: "blocks", outputModes: [1_024, 10_240, 10_240],
            parts: [Self.dense, Self.interpolative(1_024), sum])
        #expect(try time(rows, outputs: 21_504) == 26_500)
        // Its own measurement comes first.
        let costs = Self.costs(Self.sample.rows + [Self.row(sum, 11_000)])
        #expect(try time(sum, costs) == 11_000)
        #expect(try time(rows, costs, outputs: 21_504) == 25_000)
        let columns = FormatSpec(
            format: "blocks", inputModes: [5_120, 5_120], parts: [Self.dense, Self.dense])
        #expect(try time(columns, inputs: 10_240) == 50_000)
        for broken in [
            FormatSpec(format: "blocks", parts: [Self.dense]),
            FormatSpec(format: "blocks", outputModes: [10_240], parts: [Self.dense, Self.dense]),
            FormatSpec(
                format: "blocks", outputModes: [10_240], inputModes: [5_120], parts: [Self.dense]),
            FormatSpec(format: "sum", parts: []),
            FormatSpec(format: "sum", parts: [Self.dense, Self.interpolative(4)]),
        ] {
            #expect(try time(broken) == nil)
        }
        var deep = Self.dense
        for _ in 0..<8 { deep = FormatSpec(format: "sum", parts: [deep, deep]) }
        #expect(try time(deep) == nil)
    }

    @Test func theSlowestOfEqualMeasurementsCounts() throws {
        let costs = Self.costs([
            Self.row(Self.dense, 25_000), Self.row(Self.dense, 27_000),
            Self.row(Self.dense, 26_000),
            Self.row(Self.train([80, 1_024]), 9_000),
            Self.row(Self.train([160, 1_024], modes: [160, 64, 1]), 9_400),
        ])
        #expect(try time(Self.dense, costs) == 27_000)
        #expect(try time(Self.train([80, 1_024]), costs) == 9_000)
        #expect(try time(Self.train([320, 1_024], modes: [320, 32, 1]), costs) == 9_400)
    }

    @Test(arguments: [0, -1, 0.5, 1e30, Double.nan, .infinity])
    func impossibleTimesAreRefused(nanoseconds: Double) {
        let costs = Self.costs([Self.row(Self.dense, 1_000), Self.row(Self.dense, nanoseconds)])
        #expect(throws: DecodeCostsError.badRow(index: 1)) { try DecodeTimes(costs) }
    }

    @Test func impossibleSizesAndOtherLayoutsAreRefused() {
        for size in [0, -1, .max, .min] {
            let costs = Self.costs([Self.row(Self.dense, 1_000, outputs: size)])
            #expect(throws: DecodeCostsError.badRow(index: 0)) { try DecodeTimes(costs) }
        }
        var costs = Self.sample
        costs.schema = 2
        #expect(throws: DecodeCostsError.otherSchema(found: 2, expected: 1)) {
            try DecodeTimes(costs)
        }
    }

    /// Times between neighbours are between theirs, and rise with the rank where theirs do.
    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func timesLieBetweenTheirNeighbours(seed: UInt64)
        throws
    {
        var random = SplitMix64(state: seed)
        for rises in [true, false] {
            let ranks = Set((0..<8).map { _ in Int.random(in: 64...5_120, using: &random) })
                .sorted()
            var times = ranks.map { _ in Double(Int.random(in: 1_000...90_000, using: &random)) }
            if rises { times.sort() }
            let format = seed.isMultiple(of: 2) ? "interpolative" : "lowrank"
            func spec(_ rank: Int) -> FormatSpec { FormatSpec(format: format, ranks: [rank]) }
            let rows = zip(ranks, times).map { Self.row(spec($0.0), $0.1) }
            let table = try DecodeTimes(Self.costs(rows))
            var last = 0
            for rank in stride(from: 32, through: 5_120, by: 7) {
                let time = table.nanoseconds(
                    spec(rank), outputs: Self.outputs, inputs: Self.inputs, tokens: 1)
                guard let above = ranks.firstIndex(where: { $0 >= rank }), above > 0,
                    rank > ranks[0]
                else { continue }
                let found = try #require(time)
                let ends = [times[above - 1], times[above]]
                #expect(
                    (Int(ends.min() ?? 0)...Int(ends.max() ?? 0)).contains(found),
                    "rank \(rank) of \(ranks)")
                if rises { #expect(found >= last) }
                last = found
            }
        }
    }

    private static let odd = [
        "0", "-1", "9223372036854775807", "-9223372036854775808", "1e308", "5e-324", "1e999",
        "\"NaN\"", "\"-Infinity\"", "null", "true", "\"\"", "[]", "{}", "[1]", "\"blocks\"",
    ]

    @Test(arguments: [1, 2, 3, 4] as [UInt64]) func damagedTextIsReadOrRefused(seed: UInt64) throws
    {
        var random = SplitMix64(state: seed)
        let original = Array(try Self.sample.json().utf8)
        let queries = Self.sample.rows.map(\.spec) + [Self.interpolative(1_500)]
        var (read, used) = (0, 0)
        for round in 0..<100 {
            var bytes = original
            let places = bytes.indices.filter { bytes[$0] == UInt8(ascii: ":") }
            if round.isMultiple(of: 2) {
                let start = places[Int.random(in: places.indices, using: &random)] + 1
                let ends: Set<UInt8> = Set(",\n".utf8)
                let end = bytes[start...].firstIndex { ends.contains($0) } ?? bytes.endIndex
                let value = Self.odd[Int.random(in: Self.odd.indices, using: &random)]
                bytes.replaceSubrange(start..<end, with: value.utf8)
            } else {
                bytes[Int.random(in: bytes.indices, using: &random)] = .random(
                    in: 0x20..<0x7F, using: &random)
            }
            guard let costs = try? DecodeCosts(json: String(decoding: bytes, as: UTF8.self)) else {
                continue
            }
            read += 1
            guard let times = try? DecodeTimes(costs) else { continue }
            used += 1
            // Whatever was read, a time is one.
            for spec in queries + costs.rows.map(\.spec) {
                for outputs in [Self.outputs, 0, .min, .max] {
                    let time = times.nanoseconds(
                        spec, outputs: outputs, inputs: Self.inputs, tokens: 1)
                    if let time { #expect(time >= 1) }
                }
            }
        }
        #expect((5..<98).contains(read) && used > 5, "\(read) read, \(used) used")
    }
}
